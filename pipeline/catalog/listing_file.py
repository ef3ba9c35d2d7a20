"""Reads a catalog from a file that lists its images: Parquet or CSV with a column of keys.

Columns are found by name. ``key``, ``path`` or ``locator`` is the object below the root and has to be there;
``id`` (or ``image_id``), ``etag``, ``size`` and ``version`` may be; all others are attributes. Rows stream
through in batches, whatever the size of the file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.catalog.csv_rows import csv_rows
from pipeline.catalog.listed_keys import ListedKey
from pipeline.catalog.parquet import open_parquet
from pipeline.errors import SourceError
from pipeline.storage.gunzip import GunzipStream

_KEYS = ("key", "path", "locator")
_IDS = ("id", "image_id")
_ETAGS = ("etag", "e_tag")
_SIZES = ("size", "size_bytes")
_VERSIONS = ("version",)
_BATCH = 20_000


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

    rows: Iterator[ListedKey]
    has_ids: bool


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


def whole_number(text: str, where: str, what: str) -> int | None:
    """A size as text; None if empty.

    Raises:
        SourceError: not a whole number of 0 or more.
    """
    if text == "":
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise SourceError(f"{where}: the {what} {text[:40]!r} is not a whole number", fix="correct the file")
    return int(text)


def _csv(path: Path, name: str, id_column: str | None) -> ListingFile:
    with open_csv(path, name) as file:
        header = next(csv_rows(file, name), None)
    if header is None:
        raise SourceError(f"{name} is empty", fix="a CSV listing begins with a line of column names")
    columns = _columns([column.strip() for column in header[1]], name, id_column)
    rows = _csv_rows(path, name, len(header[1]), columns)
    return ListingFile(rows=rows, has_ids=columns.image_id is not None)


def _csv_rows(path: Path, name: str, width: int, columns: Columns) -> Iterator[ListedKey]:
    with open_csv(path, name) as file:
        rows = csv_rows(file, name)
        next(rows)
        for line, fields in rows:
            where = f"{name}: line {line}"
            if len(fields) != width:
                raise SourceError(
                    f"{where} has {len(fields)} fields, the header has {width}", fix="correct the file"
                )
            yield _csv_row(where, fields, columns)


def _csv_row(where: str, fields: list[str], columns: Columns) -> ListedKey:
    def at(position: int | None) -> str:
        return "" if position is None else fields[position]

    return ListedKey(
        where=where,
        key=fields[columns.key] or None,
        image_id=at(columns.image_id) or None,
        etag=at(columns.etag) or None,
        version=at(columns.version) or None,
        size_bytes=whole_number(at(columns.size).strip(), where, "size"),
        attributes={
            name: fields[position] for position, name in columns.attributes if fields[position] != ""
        },
    )


def _parquet(path: Path, name: str, id_column: str | None) -> ListingFile:
    with open_parquet(path, name) as file:
        plain = [field.name for field in file.schema_arrow if _is_plain(field.type)]
    columns = _columns(plain, name, id_column)
    return ListingFile(rows=_parquet_rows(path, name, plain, columns), has_ids=columns.image_id is not None)


def _parquet_rows(path: Path, name: str, plain: list[str], columns: Columns) -> Iterator[ListedKey]:
    number = 0
    with open_parquet(path, name) as file:
        for batch in parquet_batches(file, plain, name):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                yield _parquet_row(f"{name}: row {number}", row, columns)


def parquet_batches(file: pq.ParquetFile, names: list[str], name: str) -> Iterator[pa.RecordBatch]:
    """The columns ``names``, a bounded number of rows at a time.

    Raises:
        SourceError: the file cannot be read on.
    """
    try:
        yield from file.iter_batches(batch_size=_BATCH, columns=names)
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise SourceError(f"{name} cannot be read to its end: {exc}", fix="write the file again") from exc


def _parquet_row(where: str, row: tuple[object, ...], columns: Columns) -> ListedKey:
    def at(position: int | None) -> str | None:
        value = None if position is None else row[position]
        return None if value is None else str(value)

    return ListedKey(
        where=where,
        key=at(columns.key),
        image_id=at(columns.image_id),
        etag=at(columns.etag),
        version=at(columns.version),
        size_bytes=whole_number(at(columns.size) or "", where, "size"),
        attributes={
            name: row[position] for position, name in columns.attributes if row[position] is not None
        },
    )


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
