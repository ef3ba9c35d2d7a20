"""Reads the bytes of listed images: the one way from a listing row to image bytes.

Rows of a tar are read in byte ranges that are joined where they lie close together, several ranges at a time;
objects of a prefix likewise. Rows of a Parquet file or a gzipped tar come out of one stream that goes forward
(``read_streams``). Nothing is written to disk, and memory is bounded by a budget, whatever the size of the
tar, file or row group. What has gone or changed since it was listed is handed on as a reject; a failing store
is an error.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby

import pyarrow as pa

from pipeline.catalog.fetched import FetchedImage, Row, checked, fetched, refused
from pipeline.catalog.ids import original
from pipeline.catalog.read_streams import is_stream, read_stream
from pipeline.catalog.source import SourceSpec
from pipeline.catalog.table import MAX_IMAGE_BYTES
from pipeline.catalog.versions import is_listed_object, object_version
from pipeline.errors import DataCorrupt, ObjectMissing
from pipeline.storage.store import ObjectStore
from pipeline.values import RejectReason

__all__ = ["FetchedImage", "read_images"]

BUDGET_BYTES = 32 << 20
RANGE_BYTES = 8 << 20
_GAP_BYTES = 64 << 10
_UNKNOWN_BYTES = 1 << 20  # what an object is thought to take if its listing does not say
_IN_FLIGHT, _MOST_IN_FLIGHT = 32, 128  # fetches that are begun and not handed on
_MOST_THREADS = 64
_FAR_S = 0.005  # a store whose answers are waited for so long gets more requests at once
_COLUMNS = ["image_id", "version", "size_bytes", "locator", "container", "row_group", "offset"]

_Fetch = Callable[[], list[FetchedImage]]


def read_images(
    source: ObjectStore,
    spec: SourceSpec,
    rows: pa.Table,
    *,
    budget_bytes: int = BUDGET_BYTES,
) -> Iterator[FetchedImage]:
    """The images of ``rows`` in their order; exactly one result for each row.

    Args:
        source: the store that ``spec.uri`` names.
        spec: how to read it.
        rows: a listing.
        budget_bytes: about how much of what is being fetched is held; one image or page always is.

    Raises:
        StorageError: the source's store failed; nothing is said about the images then.
    """
    range_bytes = min(RANGE_BYTES, max(budget_bytes // 4, _GAP_BYTES))
    for streams, group in groupby(rows.select(_COLUMNS).to_pylist(), key=is_stream):
        by_container = groupby(group, key=lambda row: str(row["container"]))
        if streams:
            for container, members in by_container:
                yield from read_stream(source, spec, original(container), list(members), budget_bytes)
        else:
            yield from _in_flight(_fetches(source, by_container, range_bytes), budget_bytes)


def _fetches(
    source: ObjectStore, by_container: Iterable[tuple[str, Iterator[Row]]], range_bytes: int
) -> Iterator[tuple[int, _Fetch]]:
    """What to fetch, in order: how many bytes, and how."""
    for container, members in by_container:
        if container == "":
            for row in members:
                yield row["size_bytes"] or _UNKNOWN_BYTES, partial(_object, source, row)
        else:
            for run in _runs(members, range_bytes):
                yield _end(run[-1]) - run[0]["offset"], partial(_range, source, original(container), run)


def _in_flight(fetches: Iterable[tuple[int, _Fetch]], budget_bytes: int) -> Iterator[FetchedImage]:
    """The images in order, while as many fetches as the budget allows (one always may) are under way.

    There are the more of them the farther away the store is: what matters is how many answers are waited for.
    """
    pending: deque[tuple[int, Future[list[FetchedImage]]]] = deque()
    held_bytes, most = 0, _IN_FLIGHT
    with ThreadPoolExecutor(_MOST_THREADS, "fetch") as threads:
        try:
            for size_bytes, fetch in fetches:
                while pending and (held_bytes + size_bytes > budget_bytes or len(pending) >= most):
                    asked_s = time.monotonic()
                    images = pending[0][1].result()
                    if len(pending) >= most and time.monotonic() - asked_s > _FAR_S:
                        most = min(2 * most, _MOST_IN_FLIGHT)
                    yield from images
                    held_bytes -= pending.popleft()[0]
                pending.append((size_bytes, threads.submit(fetch)))
                held_bytes += size_bytes
            while pending:
                yield from pending.popleft()[1].result()
        finally:
            for _, future in pending:
                future.cancel()


def _object(source: ObjectStore, row: Row) -> list[FetchedImage]:
    try:
        stat, data = source.read(original(row["locator"]), most_bytes=MAX_IMAGE_BYTES)
    except ObjectMissing as exc:
        return [refused(row, RejectReason.SOURCE_MISSING, exc.message)]
    if not is_listed_object(row["version"], row["size_bytes"], stat):
        detail = f"listed as {row['version']}, read as {object_version(stat)}"
        return [refused(row, RejectReason.SOURCE_CHANGED, detail)]
    if stat.size_bytes > MAX_IMAGE_BYTES:  # the listing did not know
        detail = f"{stat.size_bytes} bytes, at most {MAX_IMAGE_BYTES}"
        return [refused(row, RejectReason.TOO_LARGE, detail)]
    return [fetched(row, data, hashlib.sha256(data).hexdigest())]


def _range(source: ObjectStore, container: str, run: list[Row]) -> list[FetchedImage]:
    """The images of a run of tar members, read at once."""
    start = run[0]["offset"]
    try:
        block = source.get_range(container, start, _end(run[-1]) - start)
    except ObjectMissing as exc:
        return [refused(row, RejectReason.SOURCE_MISSING, exc.message) for row in run]
    except DataCorrupt as exc:  # the tar is shorter now: the run's first images may still be there
        if len(run) == 1:
            return [refused(run[0], RejectReason.SOURCE_CHANGED, exc.message)]
        return [image for row in run for image in _range(source, container, [row])]
    return [checked(row, block[row["offset"] - start : _end(row) - start]) for row in run]


def _runs(rows: Iterable[Row], range_bytes: int) -> Iterator[list[Row]]:
    """Rows that one ranged read covers: ascending, small gaps, ``range_bytes`` unless one image is larger."""
    run: list[Row] = []
    for row in rows:
        if run:
            gap_bytes = row["offset"] - _end(run[-1])
            if not (0 <= gap_bytes <= _GAP_BYTES and _end(row) - run[0]["offset"] <= range_bytes):
                yield run
                run = []
        run.append(row)
    if run:
        yield run


def _end(row: Row) -> int:
    return int(row["offset"] + row["size_bytes"])
