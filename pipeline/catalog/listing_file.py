"""Reads a catalog from a file that lists its images: Parquet or CSV with a column of keys.

Columns are found by name. ``key``, ``path`` or ``locator`` is the object below the root and has to be there;
``id`` (or ``image_id``), ``etag``, ``size`` and ``version`` may be; all others are attributes. Rows stream
through in batches, whatever the size of the file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.catalog.csv_rows import CsvRow, csv_rows
from pipeline.catalog.listed_batch import (
    BATCH_ROWS,
    ListedBatch,
    ListedKey,
    as_text,
    filled,
    in_batches,
    sizes,
)
from pipeline.catalog.parquet import open_parquet
from pipeline.errors import SourceError
from pipeline.storage.gunzip import GunzipStream

_KEYS = ("key", "path", "locator")
_IDS = ("id", "image_id")
_ETAGS = ("etag", "e_tag")
_SIZES = ("size", "size_bytes")
_VERSIONS = ("version",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The positions of the columns that mean something here, and of the attributes."""

    key: int
    image_id: int | None
    etag: int | None
    size: int | None
    version: int | None
    attributes: Sequence[tuple[int, str]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ListingFile:
    """An opened listing: its rows, to be read once, and whether they carry ids."""

    batches: Iterator[ListedBatch]
    has_ids: bool

    @property
    def rows(self) -> Iterator[ListedKey]:
        """The rows one by one."""
        for batch in self.batches:
            yield from batch.rows()


def read_listing(path: Path, name: str, id_column: str | None) -> ListingFile:
    """Opens a listing file; ``.parquet`` is Parquet, ``.csv`` and ``.csv.gz`` are CSV with a header.

    Args:
        path: the file on this machine, there until the rows were read.
        name: what it is called in the source; its ending tells the format.
        id_column: the column with ids, None for the usual names, or none.

    Raises:
        SourceError: no such format, no column of keys, or (while reading) a row that cannot be read.
    """
    if name.lower().endswith(".parquet"):
        return _parquet(path, name, id_column)
    if name.lower().endswith((".csv", ".csv.gz")):
        return _csv(path, name, id_column)
    raise SourceError(
        f"{name} is not a listing file that can be read",
        fix="write it as .parquet, .csv or .csv.gz; of an S3 Inventory give the manifest.json",
    )


def open_csv(path: Path, name: str) -> BinaryIO:
    """The bytes of a CSV file, decompressed if its name ends in ``.gz``."""
    file = path.open("rb")
    if not name.lower().endswith(".gz"):
        return file
    import io

    stream = GunzipStream(file, path.stat().st_size, name)
    return io.BufferedReader(stream, 1 << 20)


def _csv(path: Path, name: str, id_column: str | None) -> ListingFile:
    with open_csv(path, name) as file:
        header = next(csv_rows(file, name), None)
    if header is None:
        raise SourceError(f"{name} is empty", fix="a CSV listing begins with a line of column names")
    columns = _columns([column.strip() for column in header[1]], name, id_column)
    batches = _csv_batches(path, name, len(header[1]), columns)
    return ListingFile(batches=batches, has_ids=columns.image_id is not None)


def _csv_batches(path: Path, name: str, width: int, columns: Columns) -> Iterator[ListedBatch]:
    with open_csv(path, name) as file:
        rows = csv_rows(file, name)
        next(rows)
        for lines, fields in in_batches(_of_width(rows, name, width)):
            columns_of_text = list(zip(*fields, strict=True))

            def at(position: int | None, texts: list[tuple[str, ...]] = columns_of_text) -> pa.Array | None:
                return None if position is None else filled(pa.array(texts[position], type=pa.string()))

            size = at(columns.size)
            trimmed = None if size is None else pc.utf8_trim_whitespace(size)
            yield ListedBatch(
                name=name,
                unit="line",
                numbers=lines,
                key=at(columns.key),
                image_id=at(columns.image_id),
                etag=at(columns.etag),
                version=at(columns.version),
                size_bytes=None if trimmed is None else sizes(trimmed, name, "line", lines),
                attributes={
                    attribute: [text or None for text in columns_of_text[position]]
                    for position, attribute in columns.attributes
                },
            )


def _of_width(rows: Iterator[CsvRow], name: str, width: int) -> Iterator[CsvRow]:
    for line, fields in rows:
        if len(fields) != width:
            raise SourceError(
                f"{name}: line {line} has {len(fields)} fields, the header has {width}",
                fix="correct the file",
            )
        yield line, fields


def _parquet(path: Path, name: str, id_column: str | None) -> ListingFile:
    with open_parquet(path, name) as file:
        plain = [field.name for field in file.schema_arrow if _is_plain(field.type)]
    columns = _columns(plain, name, id_column)
    batches = _parquet_batches(path, name, plain, columns)
    return ListingFile(batches=batches, has_ids=columns.image_id is not None)


def _parquet_batches(path: Path, name: str, plain: list[str], columns: Columns) -> Iterator[ListedBatch]:
    behind = 0
    with open_parquet(path, name) as file:
        for batch in parquet_batches(file, plain, name):
            numbers = np.arange(behind + 1, behind + 1 + batch.num_rows)
            behind += batch.num_rows

            def at(position: int | None, batch: pa.RecordBatch = batch) -> pa.Array | None:
                return None if position is None else as_text(batch.column(position))

            size = None if columns.size is None else batch.column(columns.size)
            yield ListedBatch(
                name=name,
                unit="row",
                numbers=numbers,
                key=at(columns.key),
                image_id=at(columns.image_id),
                etag=at(columns.etag),
                version=at(columns.version),
                size_bytes=None if size is None else sizes(size, name, "row", numbers),
                attributes={
                    attribute: batch.column(position).to_pylist()
                    for position, attribute in columns.attributes
                },
            )


def parquet_batches(file: pq.ParquetFile, names: list[str], name: str) -> Iterator[pa.RecordBatch]:
    """The columns ``names``, a bounded number of rows at a time.

    Raises:
        SourceError: the file cannot be read on.
    """
    try:
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=names)
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise SourceError(f"{name} cannot be read to its end: {exc}", fix="write the file again") from exc


def _columns(names: list[str], name: str, id_column: str | None) -> Columns:
    lowered = [column.lower() for column in names]
    if len(set(lowered)) != len(lowered):
        raise SourceError(f"{name} has two columns of the same name", fix="rename one of them")

    def find(usual: Sequence[str]) -> int | None:
        return next((lowered.index(column) for column in usual if column in lowered), None)

    key = find(_KEYS)
    if key is None or (id_column is not None and id_column not in names):
        missing = f"no column {' or '.join(_KEYS)}" if key is None else f"no column {id_column!r}"
        raise SourceError(
            f"{name} has {missing}; its columns are {', '.join(names)}",
            fix="name the column of keys `key`, and the one of ids with --id-column",
        )
    image_id = names.index(id_column) if id_column is not None else find(_IDS)
    known = (image_id, find(_ETAGS), find(_SIZES), find(_VERSIONS))
    attributes = [(i, column) for i, column in enumerate(names) if i not in {key, *known}]
    return Columns(
        key=key, image_id=image_id, etag=known[1], size=known[2], version=known[3], attributes=attributes
    )


def _is_plain(kind: pa.DataType) -> bool:
    of_kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating)
    return any(cast(bool, is_kind(kind)) for is_kind in (*of_kinds, pa.types.is_boolean))
