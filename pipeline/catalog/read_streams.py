"""Reads images out of files that can only be read forward: Parquet row groups and gzipped tars.

A file is gone through once, by ranges that are fetched ahead, up to the last image that is wanted. An image
that comes before its turn is held, so rows in file order cost no memory. What precedes a wanted image in its
row group, or in its gzipped tar, has to be decoded to reach it; ``plan`` therefore cuts these seldom.
"""

from collections.abc import Iterator
from itertools import groupby, islice
from typing import BinaryIO, cast

import pyarrow.parquet as pq

from pipeline.catalog.fetched import FetchedImage, Row, checked, refused
from pipeline.catalog.ids import original
from pipeline.catalog.parquet import column_ranges, each_image, image_columns, open_parquet, read_group
from pipeline.catalog.source import SourceSpec
from pipeline.catalog.tars import is_gzipped, tar_stream
from pipeline.errors import DataCorrupt, ObjectMissing, SourceError
from pipeline.storage.ranged import open_ranged
from pipeline.storage.store import ObjectStore
from pipeline.values import RejectReason


def is_stream(row: Row) -> bool:
    """Whether the row's container can only be read forward."""
    return row["row_group"] >= 0 or is_gzipped(original(row["container"]))


def read_stream(
    source: ObjectStore, spec: SourceSpec, container: str, rows: list[Row], budget_bytes: int
) -> Iterator[FetchedImage]:
    """The images of ``rows``, all of one container, in their order."""
    order = sorted(range(len(rows)), key=lambda index: (rows[index]["row_group"], rows[index]["offset"]))
    forward = [rows[index] for index in order]
    if forward[0]["row_group"] >= 0:
        bodies = _parquet(source, spec, container, forward, budget_bytes)
    else:
        bodies = _gzipped_tar(source, container, forward, budget_bytes)
    images = _images(forward, bodies)
    held: dict[int, FetchedImage] = {}
    turn = 0
    for index, image in zip(order, images, strict=True):
        held[index] = image
        while turn in held:
            yield held.pop(turn)
            turn += 1


def _images(rows: list[Row], bodies: Iterator[bytes]) -> Iterator[FetchedImage]:
    """Each row with its bytes; once the file cannot be read any further, the reason for the others."""
    reason, detail = RejectReason.SOURCE_CHANGED, ""
    for row in rows:
        if not detail:
            try:
                yield checked(row, next(bodies))
                continue
            except ObjectMissing as exc:
                reason, detail = RejectReason.SOURCE_MISSING, exc.message
            except (SourceError, DataCorrupt) as exc:  # it could be read when it was listed
                detail = exc.message
        yield refused(row, reason, detail)


def _gzipped_tar(source: ObjectStore, container: str, rows: list[Row], budget_bytes: int) -> Iterator[bytes]:
    with open_ranged(source, container, budget_bytes) as file:
        stream, _ = tar_stream(cast(BinaryIO, file), file.size_bytes, container)
        for row in rows:
            stream.seek(row["offset"])
            yield stream.read(row["size_bytes"])


def _parquet(
    source: ObjectStore, spec: SourceSpec, container: str, rows: list[Row], budget_bytes: int
) -> Iterator[bytes]:
    with open_ranged(source, container, budget_bytes) as raw:
        file = open_parquet(raw, container)
        name = image_columns(file, container, spec.id_column, spec.image_column)[1]
        groups = {row["row_group"] for row in rows if row["row_group"] < file.num_row_groups}
        raw.expect(column_ranges(file, groups, [name]))
        for group, members in groupby(rows, key=lambda row: int(row["row_group"])):
            yield from _row_group(file, group, members, container, name)


def _row_group(
    file: pq.ParquetFile, group: int, rows: Iterator[Row], container: str, name: str
) -> Iterator[bytes]:
    batches = read_group(file, group, [name], container) if group < file.num_row_groups else iter(())
    images = (image for batch in batches for image in each_image(batch.column(name)))
    position = 0
    for row in rows:
        data = next(islice(images, row["offset"] - position, None), None)
        position = row["offset"] + 1
        yield bytes(data or b"")
