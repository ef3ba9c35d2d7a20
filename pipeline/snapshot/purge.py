"""Takes images out of everything that is stored, and remembers not to let them in again.

Parts, rejects and attributes are immutable, so those that hold the image are written anew without it, under
new keys. What is remembered of an image is the sha256 of its id.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.catalog.table import Catalog, batches
from pipeline.embed.task import PART, REJECTS
from pipeline.errors import DataCorrupt
from pipeline.fingerprint import canonical_json, sealed, sha256_hex, task_key
from pipeline.snapshot.attributes import write_layer
from pipeline.snapshot.manifest import AttributesRef, PartRef
from pipeline.snapshot.rows import Mask
from pipeline.storage import layout
from pipeline.storage.receipts import DataFile, Receipt, fetch, upload, write_receipt
from pipeline.storage.store import ObjectStore

STAGE = "purge"
STAGE_VERSION = 1
_ROWS = ".rows.arrow"
_BATCH_ROWS = 65_536
_PURGED = re.compile(r"collections/[^/]+/purged/([^/]+)\.json")
_TABLES = ("embeddings/", "rejects/", "attributes/", "listings/")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewritten:
    """A part without the images: None where nothing is left of it."""

    part: PartRef | None
    mask: Mask


def id_digest(image_id: str) -> str:
    """What is remembered of a purged image."""
    return sha256_hex(image_id.encode())


def remember(store: ObjectStore, collection: str, ids: Iterable[str], *, when: str, reason: str) -> None:
    """From now on no night of the collection lists these images."""
    for image_id in ids:
        digest = id_digest(image_id)
        body = {"image": digest, "purged": when, "reason": reason}
        store.put(layout.purged(collection, digest), sealed(body))


def forget(store: ObjectStore, collection: str, ids: Iterable[str]) -> None:
    """The next night may list these images again."""
    for image_id in ids:
        store.delete(layout.purged(collection, id_digest(image_id)))


def purged_digests(store: ObjectStore) -> set[str]:
    """The ``id_digest`` of every image that is remembered by any collection of the store.

    A collection that is younger than the purge may be published in one that is older.
    """
    keys = (stat.key for stat in store.list_objects("collections/"))
    return {found[1] for key in keys if (found := _PURGED.fullmatch(key))}


def not_purged(store: ObjectStore, table: pa.Table) -> pa.Table:
    """The rows of ``table`` (with ``image_id``) without the images that were purged."""
    purged = purged_digests(store)
    if not purged:
        return table
    kept = [
        id_digest(image_id) not in purged
        for batch in batches(table.select(["image_id"]), _BATCH_ROWS)  # millions of ids at once are heavy
        for image_id in batch["image_id"].to_pylist()
    ]
    return table.filter(pa.array(kept, type=pa.bool_()))


def without_purged(store: ObjectStore, catalog: Catalog) -> Catalog:
    """The catalog without the images that were purged, which are counted in ``skipped``."""
    table = not_purged(store, catalog.table)
    n_purged = catalog.table.num_rows - table.num_rows
    if n_purged == 0:
        return catalog
    return replace(catalog, table=table, skipped={**catalog.skipped, "purged": n_purged})


def held_ids(store: ObjectStore, file: DataFile, ids: pa.Array, cache: Path) -> set[str]:
    """Of which of the images a table of the store, of whatever kind, has a row.

    Raises:
        DataCorrupt: it cannot be read.
    """
    if not (file.key.startswith(_TABLES) or file.key.endswith(_ROWS)):
        return set()
    path = fetch(store, file, cache)
    try:
        if file.key.endswith(_ROWS):
            with pa.memory_map(str(path)) as source:
                column = pa.ipc.open_file(source).read_all()["image_id"].cast(pa.string())
        else:
            column = pq.read_table(path, columns=["image_id"])["image_id"]
    except (pa.ArrowException, OSError) as exc:
        raise DataCorrupt(
            f"whether {file.key} holds the image cannot be told: {exc}", fix="run `bitsieve verify --repair`"
        ) from exc
    return set(column.filter(pc.is_in(column, value_set=ids)).to_pylist())


def rewrite_part(store: ObjectStore, part: PartRef, mask: Mask, ids: pa.Array, cache: Path) -> Rewritten:
    """The part and its dead rows without the images; no vector is computed."""
    inputs = [part.key, *(file.sha256 for file in (part.embeddings, part.rejects) if file is not None)]
    key = task_key(STAGE, STAGE_VERSION, {}, [*inputs, *sorted(id_digest(one) for one in ids.to_pylist())])
    embeddings, mask = _rewrite_rows(store, part.embeddings, mask, ids, key, cache)
    rejects, rejected = _rewrite_rejects(store, part.rejects, ids, key, cache)
    files = {PART: embeddings, REJECTS: rejects}
    counts = {"rows": len(mask), **{f"rejected.{reason}": count for reason, count in rejected.items()}}
    stored = {role: file for role, file in files.items() if file is not None}
    receipt = write_receipt(store, Receipt(stage=STAGE, key=key, files=stored, counts=counts))
    embeddings, rejects = receipt.files.get(PART), receipt.files.get(REJECTS)  # those of an earlier attempt
    if embeddings is None and rejects is None:
        return Rewritten(part=None, mask=mask)
    changed = {
        "key": key,
        "rows": len(mask),
        "rejected": rejected,
        "embeddings": embeddings,
        "rejects": rejects,
    }
    return Rewritten(part=part.model_copy(update=changed), mask=mask)


def rewrite_layer(store: ObjectStore, layer: AttributesRef, ids: pa.Array, cache: Path) -> AttributesRef:
    """The layer of attributes without the images."""
    return write_layer(store, _without(pq.read_table(fetch(store, layer.file, cache)), ids))


def rewrite_listing_rejects(
    store: ObjectStore, file: DataFile, ids: pa.Array, cache: Path
) -> DataFile | None:
    """What the listing refused, without the images; None if nothing is left."""
    kept = _without(pq.read_table(fetch(store, file, cache)), ids)
    if kept.num_rows == 0:
        return None
    key = task_key(
        STAGE, STAGE_VERSION, {}, [file.sha256, *sorted(id_digest(one) for one in ids.to_pylist())]
    )
    stored = upload(store, "rejects", key, ".parquet", _parquet(kept))
    receipt = Receipt(stage=STAGE, key=key, files={REJECTS: stored}, counts={"rejected": kept.num_rows})
    return write_receipt(store, receipt).files[REJECTS]


def fewer_rejected(rejected: Mapping[str, int], refused: pa.Table) -> dict[str, int]:
    """Counts by reason without the images in ``refused``."""
    counts = dict(rejected)
    for reason in refused["reason"].to_pylist():
        counts[reason] = counts.get(reason, 0) - 1
    return {reason: count for reason, count in sorted(counts.items()) if count > 0}


def _rewrite_rows(
    store: ObjectStore, file: DataFile | None, mask: Mask, ids: pa.Array, key: str, cache: Path
) -> tuple[DataFile | None, Mask]:
    if file is None:
        return None, mask
    path = fetch(store, file, cache)
    table = pq.read_table(path)
    kept = _without(table, ids)
    mask = mask[~_is_in(table, ids)]
    if kept.num_rows == 0:
        return None, mask
    rows = [kept["image_id"].to_pylist(), kept["version"].to_pylist()]
    metadata = {
        **(table.schema.metadata or {}),
        b"bitsieve.source_digest": sha256_hex(canonical_json(rows)).encode(),
        b"bitsieve.stage": f"{STAGE}/{STAGE_VERSION}".encode(),
    }
    group_rows = pq.read_metadata(path).row_group(0).num_rows
    data = _parquet(kept.replace_schema_metadata(metadata), group_rows)
    return upload(store, "embeddings", key, ".parquet", data), mask


def _rewrite_rejects(
    store: ObjectStore, file: DataFile | None, ids: pa.Array, key: str, cache: Path
) -> tuple[DataFile | None, dict[str, int]]:
    if file is None:
        return None, {}
    kept = _without(pq.read_table(fetch(store, file, cache)), ids)
    if kept.num_rows == 0:
        return None, {}
    counts = {row["values"]: row["counts"] for row in pc.value_counts(kept["reason"]).to_pylist()}
    return upload(store, "rejects", key, ".parquet", _parquet(kept)), dict(sorted(counts.items()))


def _is_in(table: pa.Table, ids: pa.Array) -> Mask:
    found: Mask = np.asarray(pc.is_in(table["image_id"], value_set=ids))
    return found


def _without(table: pa.Table, ids: pa.Array) -> pa.Table:
    return table.filter(pa.array(~_is_in(table, ids)))


def _parquet(table: pa.Table, group_rows: int | None = None) -> bytes:
    sink: Any = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=group_rows, compression="zstd", use_dictionary=False)
    return bytes(sink.getvalue())


def ids_array(ids: Sequence[str]) -> pa.Array:
    """The ids as an Arrow array of strings."""
    return pa.array(sorted(set(ids)), type=pa.string())
