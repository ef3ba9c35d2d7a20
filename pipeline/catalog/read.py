"""Reads the bytes of listed images: the one way from a listing row to image bytes.

Rows of a tar are read in byte ranges that are joined where they lie close together, rows of a Parquet file
row group by row group, objects of a prefix several at a time; memory is bounded by a few reads. What has gone
or changed since it was listed is handed on as a reject; a failing store is an error.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.catalog.container import container_file
from pipeline.catalog.ids import original
from pipeline.catalog.parquet import image_bytes, image_columns, open_parquet, read_group
from pipeline.catalog.source import SourceSpec
from pipeline.catalog.tars import is_gzipped, open_tar
from pipeline.catalog.versions import is_listed_object, object_version
from pipeline.errors import DataCorrupt, ObjectMissing, SourceError
from pipeline.storage.store import ObjectStore
from pipeline.values import RejectReason

RANGE_BYTES = 8 << 20
_GAP_BYTES = 64 << 10
_AHEAD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedImage:
    """The bytes of one listed image, or why there are none (``reject`` and ``detail``)."""

    image_id: str
    version: str
    locator: str
    data: bytes
    content_digest: str
    reject: RejectReason | None = None
    detail: str = ""


Row = dict[str, Any]


def read_images(source: ObjectStore, spec: SourceSpec, rows: pa.Table, cache: Path) -> Iterator[FetchedImage]:
    """The images of ``rows`` in their order; exactly one result for each row.

    Raises:
        StorageError: the source's store failed; nothing is said about the images then.
    """
    for container, group in groupby(rows.to_pylist(), key=lambda row: row["container"]):
        members = list(group)
        if container == "":
            yield from _prefix(source, members)
        elif members[0]["row_group"] >= 0:
            yield from _parquet(source, spec, original(container), members, cache)
        elif is_gzipped(original(container)):
            yield from _gzipped_tar(source, original(container), members, cache)
        else:
            yield from _tar(source, original(container), members)


def _prefix(source: ObjectStore, rows: list[Row]) -> Iterator[FetchedImage]:
    with ThreadPoolExecutor(_AHEAD) as threads:
        pending: list[tuple[Row, Future[FetchedImage]]] = []
        for row in rows:
            pending.append((row, threads.submit(_object, source, row)))
            if len(pending) >= 2 * _AHEAD:
                yield pending.pop(0)[1].result()
        for _, future in pending:
            yield future.result()


def _object(source: ObjectStore, row: Row) -> FetchedImage:
    try:
        stat, data = source.read(original(row["locator"]))
    except ObjectMissing as exc:
        return _refused(row, RejectReason.SOURCE_MISSING, exc.message)
    if not is_listed_object(row["version"], row["size_bytes"], stat):
        detail = f"listed as {row['version']}, read as {object_version(stat)}"
        return _refused(row, RejectReason.SOURCE_CHANGED, detail)
    return _fetched(row, data, hashlib.sha256(data).hexdigest())


def _tar(source: ObjectStore, container: str, rows: list[Row]) -> Iterator[FetchedImage]:
    for start, end, members in _ranges(rows):
        try:
            block = source.get_range(container, start, end - start)
        except ObjectMissing as exc:
            yield from (_refused(row, RejectReason.SOURCE_MISSING, exc.message) for row in members)
        except DataCorrupt as exc:  # the tar is shorter now: the range's first images may still be there
            if len(members) > 1:
                for row in members:
                    yield from _tar(source, container, [row])
            else:
                yield _refused(members[0], RejectReason.SOURCE_CHANGED, exc.message)
        else:
            for row in members:
                offset = row["offset"] - start
                yield _checked(row, block[offset : offset + row["size_bytes"]])


def _gzipped_tar(source: ObjectStore, container: str, rows: list[Row], cache: Path) -> Iterator[FetchedImage]:
    """Decompresses the tar up to the last of ``rows``; from its start again for one that lies before."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(container_file(source, container, cache))
        except ObjectMissing as exc:
            yield from (_refused(row, RejectReason.SOURCE_MISSING, exc.message) for row in rows)
            return
        file, _ = stack.enter_context(open_tar(path, container))
        for row in rows:
            if row["offset"] < file.tell():
                file, _ = stack.enter_context(open_tar(path, container))
            try:
                file.seek(row["offset"])
                yield _checked(row, file.read(row["size_bytes"]))
            except SourceError as exc:  # it could be read when it was listed
                yield _refused(row, RejectReason.SOURCE_CHANGED, exc.message)


def _ranges(rows: list[Row]) -> Iterator[tuple[int, int, list[Row]]]:
    """Runs of rows that one ranged read covers: ascending, small gaps, 8 MiB unless one image is larger."""
    run: list[Row] = []
    end = 0
    for row in rows:
        row_end = row["offset"] + row["size_bytes"]
        near = run and end <= row["offset"] <= end + _GAP_BYTES and row_end - run[0]["offset"] <= RANGE_BYTES
        if run and not near:
            yield run[0]["offset"], end, run
            run = []
        run.append(row)
        end = row_end
    if run:
        yield run[0]["offset"], end, run


def _parquet(
    source: ObjectStore, spec: SourceSpec, container: str, rows: list[Row], cache: Path
) -> Iterator[FetchedImage]:
    with ExitStack() as stack:
        try:
            path = stack.enter_context(container_file(source, container, cache))
            file = stack.enter_context(open_parquet(path, container))
            name = image_columns(file, container, spec.id_column, spec.image_column)[1]
        except ObjectMissing as exc:
            yield from (_refused(row, RejectReason.SOURCE_MISSING, exc.message) for row in rows)
            return
        except SourceError as exc:  # it could be read when it was listed
            yield from (_refused(row, RejectReason.SOURCE_CHANGED, exc.message) for row in rows)
            return
        for group, members in groupby(rows, key=lambda row: row["row_group"]):
            yield from _row_group(file, group, list(members), container, name)


def _row_group(
    file: pq.ParquetFile, group: int, rows: list[Row], container: str, image_name: str
) -> Iterator[FetchedImage]:
    n_rows = file.metadata.row_group(group).num_rows if group < file.num_row_groups else 0
    try:
        column = image_bytes(read_group(file, group, [image_name], container)[image_name]) if n_rows else None
    except SourceError as exc:
        yield from (_refused(row, RejectReason.SOURCE_CHANGED, exc.message) for row in rows)
        return
    for row in rows:
        data = column[row["offset"]].as_py() if column is not None and row["offset"] < n_rows else None
        yield _checked(row, data or b"")


def _checked(row: Row, data: bytes) -> FetchedImage:
    digest = hashlib.sha256(data).hexdigest()
    if digest != row["version"]:
        return _refused(
            row, RejectReason.SOURCE_CHANGED, f"listed with sha256 {row['version']}, read {digest}"
        )
    return _fetched(row, data, digest)


def _fetched(row: Row, data: bytes, digest: str) -> FetchedImage:
    return FetchedImage(
        image_id=row["image_id"],
        version=row["version"],
        locator=row["locator"],
        data=data,
        content_digest=digest,
    )


def _refused(row: Row, reason: RejectReason, detail: str) -> FetchedImage:
    return FetchedImage(
        image_id=row["image_id"],
        version=row["version"],
        locator=row["locator"],
        data=b"",
        content_digest="",
        reject=reason,
        detail=detail,
    )
