"""Reads the data files of an S3 Inventory, CSV or Parquet, as columns of text under the names of Parquet."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote_plus

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.csv_rows import CsvRow, csv_rows
from pipeline.catalog.listed_batch import as_text, in_batches
from pipeline.catalog.listing_file import open_csv, parquet_batches
from pipeline.catalog.parquet import open_parquet
from pipeline.errors import SourceError

_CSV_NAMES = {"etag": "e_tag", "islatest": "is_latest", "isdeletemarker": "is_delete_marker"}
_COLUMNS = ("bucket", "key", "is_latest", "is_delete_marker", "size", "e_tag")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InventoryCells:
    """Rows of a data file: all columns are text, empty where it says nothing; ``size`` may be numbers.

    ``key`` is null where it cannot be decoded; ``odd_keys`` has those, by row, that are only not UTF-8.
    """

    name: str
    unit: str
    numbers: npt.NDArray[np.int64]
    bucket: pa.Array
    key: pa.Array
    is_latest: pa.Array
    is_delete_marker: pa.Array
    size: pa.Array
    e_tag: pa.Array
    odd_keys: Mapping[int, str] = field(default_factory=dict)


def read_cells(path: Path, name: str, form: str, schema: str) -> Iterator[InventoryCells]:
    """The rows of the data file ``name`` in the manifest's ``form``; ``schema`` names the columns of CSV.

    Raises:
        SourceError: it has no column of keys, or cannot be read.
    """
    if form.upper() == "PARQUET":
        return _parquet_cells(path, name)
    names = [column.strip().lower() for column in schema.split(",")]
    return _csv_cells(path, name, [_CSV_NAMES.get(column, column) for column in names])


def _csv_cells(path: Path, name: str, names: Sequence[str]) -> Iterator[InventoryCells]:
    _check_columns(names, name)
    with open_csv(path, name) as file:
        for lines, fields in in_batches(_of_width(csv_rows(file, name), name, len(names))):
            text_of = dict(zip(names, zip(*fields, strict=True), strict=True))
            text_of["key"] = tuple(map(_decoded, text_of["key"]))
            columns = {
                column: pa.array(text_of.get(column, ("",) * len(lines)), type=pa.string())
                for column in _COLUMNS
            }
            yield InventoryCells(name=name, unit="line", numbers=lines, **columns)


def _of_width(rows: Iterator[CsvRow], name: str, width: int) -> Iterator[CsvRow]:
    for line, fields in rows:
        if len(fields) != width:
            raise SourceError(
                f"{name}: line {line} has {len(fields)} fields, the manifest names {width} columns",
                fix="use an inventory as S3 wrote it",
            )
        yield line, fields


def _decoded(key: str) -> str | None:
    """The key as S3 has it; None if it does not decode to text."""
    if "%" not in key and "+" not in key:
        return key
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError:
        return None


def _parquet_cells(path: Path, name: str) -> Iterator[InventoryCells]:
    behind = 0
    with open_parquet(path, name) as file:
        _check_columns(file.schema_arrow.names, name)
        present = [column for column in _COLUMNS if column in file.schema_arrow.names]
        for batch in parquet_batches(file, present, name):
            numbers = np.arange(behind + 1, behind + 1 + batch.num_rows)
            behind += batch.num_rows
            columns = {
                column: _cell(batch.column(column)) if column in present else pa.array([""] * batch.num_rows)
                for column in _COLUMNS
                if column != "key"
            }
            key, odd_keys = _keys(batch.column("key"))
            yield InventoryCells(
                name=name, unit="row", numbers=numbers, key=key, odd_keys=odd_keys, **columns
            )


def _keys(column: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """Keys as strings, no key as an empty one; and those, by row, that are not UTF-8."""
    if not pa.types.is_binary(column.type) and not pa.types.is_large_binary(column.type):
        return pc.fill_null(as_text(column), ""), {}
    try:
        return pc.fill_null(column.cast(pa.string()), ""), {}
    except pa.ArrowInvalid:
        names = [b"" if key is None else key for key in column.to_pylist()]
    texts = [name.decode(errors="surrogateescape") for name in names]
    odd_keys = {row: text for row, text in enumerate(texts) if not _is_utf8(text)}
    return pa.array([None if row in odd_keys else text for row, text in enumerate(texts)]), odd_keys


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _cell(column: pa.Array) -> pa.Array:
    """A column that is no key: whole numbers as they are, all else as text, empty where it says nothing."""
    if pa.types.is_integer(column.type):
        return column
    text = column.cast(pa.string()) if pa.types.is_boolean(column.type) else as_text(column)
    return pc.fill_null(text, "")


def _check_columns(names: Sequence[str], name: str) -> None:
    if "key" not in names:
        raise SourceError(
            f"the inventory file {name} has no column of keys; its columns are {', '.join(names)}",
            fix="use an inventory as S3 wrote it",
        )
