"""Makes the Catalog: what the source lists tonight; decodes nothing, reads only what has changed.

1. List the source's objects (keys, sizes, ETags).
2. For a prefix, every object is an image and its ETag and size are its version.
3. For tars and Parquet files, walk each file once, by ranges, and hash its images: nothing is downloaded, and
   memory does not grow with the file. The result is a listing part with a receipt whose key holds the file's
   ETag, so that an unchanged file is never read again and a killed run goes on where it was. A file that
   changed while it was walked gets no receipt.
4. A file that lists the images takes the place of steps 1 to 3 (``from_file``).
5. Ids seen twice are refused, the first in plan order wins.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.from_file import list_from_file
from pipeline.catalog.ids import CONTAINER_SEPARATOR, original, printable
from pipeline.catalog.parquet import list_parquet
from pipeline.catalog.plain_rows import folder_attributes
from pipeline.catalog.source import SourceFormat, SourceListing, SourceSpec, list_source
from pipeline.catalog.stored_listing import STAGE, read_listing, write_listing
from pipeline.catalog.table import (
    LISTING_SCHEMA,
    MAX_IMAGE_BYTES,
    Catalog,
    listed_objects,
    refuse_duplicates,
)
from pipeline.catalog.versions import object_version
from pipeline.catalog.webdataset import check_id_template, list_tar
from pipeline.errors import DataCorrupt, SourceError, StorageBusy
from pipeline.fingerprint import digest, task_key
from pipeline.storage.ranged import RangedFile
from pipeline.storage.receipts import Receipt, read_receipt
from pipeline.storage.store import ObjectStat, ObjectStore
from pipeline.values import RejectReason

STAGE_VERSION = 2
_THREADS = {SourceFormat.WEBDATASET: 8, SourceFormat.PARQUET: 4}  # pages of Parquet are large
_LOCAL_THREADS = 2  # one hashes while Python works for the other
_BUDGET_BYTES = 16 << 20  # what each thread holds of its file, to have the next ranges under way
_LOCAL_BUDGET_BYTES = 1 << 20  # of a file on this machine, which nothing has to be waited for

Advance = Callable[[int, int], None]  # done, total


def list_catalog(
    source: ObjectStore,
    spec: SourceSpec,
    store: ObjectStore,
    cache: Path,
    advance: Advance,
    on_change: Callable[[], None] | None = None,
) -> Catalog:
    """Lists the source as a Catalog.

    Args:
        source: the store that ``spec.uri`` names.
        spec: how to read it.
        store: where listing parts and their receipts are kept.
        cache: a folder of this machine for downloads.
        advance: called with (containers done, containers in all).
        on_change: called after every tar or Parquet file that was new, or another than before.

    Raises:
        SourceError: nothing is listed, or a tar or Parquet file cannot be read to its end.
        StorageError: the source's store failed, or a file went or changed while it was walked.
    """
    check_id_template(spec.id_template)
    if spec.listing is not None:
        advance(1, 1)
        return list_from_file(source, spec, cache)
    listing = list_source(source, spec)
    if listing.format is SourceFormat.PREFIX:
        advance(1, 1)
        return Catalog(table=_prefix_table(listing), format=listing.format.value, skipped=listing.skipped)
    tables: list[pa.Table] = []
    skipped = dict(listing.skipped)
    bytes_read = 0

    def one(stat: ObjectStat) -> tuple[pa.Table, Receipt, int]:
        return _container(source, spec, listing.format, stat, store, cache)

    is_here = any(source.local_path(stat.key) is not None for stat in listing.objects[:1])
    n_threads = _LOCAL_THREADS if is_here else _THREADS[listing.format]
    with ThreadPoolExecutor(n_threads) as threads:
        for done, (table, receipt, n_bytes) in enumerate(threads.map(one, listing.objects), start=1):
            tables.append(table)
            bytes_read += n_bytes
            if n_bytes and on_change is not None:
                on_change()
            for name, count in receipt.counts.items():
                if name != "rows":
                    skipped[name] = skipped.get(name, 0) + count
            advance(done, len(listing.objects))
    return Catalog(
        table=refuse_duplicates(pa.concat_tables(tables)),
        format=listing.format.value,
        skipped=skipped,
        bytes_read=bytes_read,
    )


def rows_at(
    source: ObjectStore, spec: SourceSpec, store: ObjectStore, locators: Sequence[str], cache: Path
) -> pa.Table:
    """Listing rows for ``locators`` as the source is now, in their order; what is gone is left out.

    Tars and Parquet files are looked up in their stored listings; one that has changed since is walked again.
    ``spec.format`` must be settled.
    """
    if spec.format is not None and spec.format.is_of_objects:
        stats = [stat for locator in locators if (stat := source.stat(original(locator))) is not None]
        return _prefix_table(SourceListing(format=spec.format, objects=stats, skipped={}))
    tables = [LISTING_SCHEMA.empty_table()]
    for container in sorted({locator.partition(CONTAINER_SEPARATOR)[0] for locator in locators}):
        stat = source.stat(original(container))
        if stat is not None and spec.format is not None:
            tables.append(_container(source, spec, spec.format, stat, store, cache)[0])
    table = pa.concat_tables(tables)
    table = table.filter(pc.is_null(table["reject"]))
    where = pc.drop_null(
        pc.index_in(pa.array(locators, type=pa.string()), value_set=table["locator"].combine_chunks())
    )
    return table.take(where)


def container_key(spec: SourceSpec, stat: ObjectStat) -> str:
    """The key of the listing of one tar or Parquet file: the file as it is now and what shapes its ids."""
    inputs = [printable(stat.key), stat.etag, str(stat.size_bytes)]
    return task_key(STAGE, STAGE_VERSION, _reading(spec), inputs)


def _reading(spec: SourceSpec) -> dict[str, str | None]:
    """What shapes the ids of a tar or Parquet file."""
    return {
        "id_template": spec.id_template,
        "id_column": spec.id_column,
        "image_column": spec.image_column,
    }


def _container(
    source: ObjectStore,
    spec: SourceSpec,
    kind: SourceFormat,
    stat: ObjectStat,
    store: ObjectStore,
    cache: Path,
) -> tuple[pa.Table, Receipt, int]:
    key = container_key(spec, stat)
    receipt = read_receipt(store, STAGE, key)
    if receipt is not None:
        return read_listing(store, receipt, cache), receipt, 0
    table, skipped = _walk(source, spec, kind, stat)
    of_file = digest([source.uri, printable(stat.key), _reading(spec)])
    return table, write_listing(store, key, of_file, table, skipped, cache), stat.size_bytes


def _walk(
    source: ObjectStore, spec: SourceSpec, kind: SourceFormat, stat: ObjectStat
) -> tuple[pa.Table, dict[str, int]]:
    """Reads the file once; what is wrong with one that is being written meanwhile is not its fault."""
    budget_bytes = _BUDGET_BYTES if source.local_path(stat.key) is None else _LOCAL_BUDGET_BYTES
    with RangedFile(source, stat.key, stat.size_bytes, budget_bytes) as file:
        try:
            if kind is SourceFormat.WEBDATASET:
                walked = list_tar(cast(BinaryIO, file), stat.size_bytes, stat.key, spec.id_template)
            else:
                walked = list_parquet(file, stat.key, spec.id_column, spec.image_column)
        except (SourceError, DataCorrupt):
            _check_unchanged(source, stat)
            raise
    _check_unchanged(source, stat)
    return walked


def _check_unchanged(source: ObjectStore, stat: ObjectStat) -> None:
    now = source.stat(stat.key)
    if now is None or now.etag != stat.etag:
        raise StorageBusy(
            f"{stat.key!r} in {source.uri} changed while it was listed",
            fix="run again when whoever writes the catalog has finished",
        )


def _prefix_table(listing: SourceListing) -> pa.Table:
    names = pa.array([printable(stat.key) for stat in listing.objects], type=pa.string())
    versions = [object_version(stat) for stat in listing.objects]
    sizes = pa.array([stat.size_bytes for stat in listing.objects], type=pa.int64())
    too_large = pc.greater(sizes, MAX_IMAGE_BYTES)
    said = pc.binary_join_element_wise(sizes.cast(pa.string()), f" bytes, at most {MAX_IMAGE_BYTES}", "")
    reject = pa.scalar(RejectReason.TOO_LARGE.value, pa.string())
    return listed_objects(
        image_id=names,
        version=pa.array(versions, type=pa.string()),
        size_bytes=sizes,
        locator=names,
        attributes=folder_attributes(names),
        reject=pc.if_else(too_large, reject, pa.scalar(None, pa.string())),
        detail=pc.if_else(too_large, said, ""),
    )
