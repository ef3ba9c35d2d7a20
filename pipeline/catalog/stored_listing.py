"""The listing of one tar or Parquet file as it is stored: whole, or what differs from an earlier whole one.

Of a tar that is written again most images are as they were, at other offsets. Then its listing is stored as
the rows that are new, and which rows of an earlier listing go between them: what is written follows what has
changed. Such a listing always stands on a whole one, which its receipt names too, so that whatever looks
after files keeps it. A whole one is written where the difference would have more than ``most_pieces``.

The hint where the whole listing of a file is found, and what it leads to, may be old, gone or damaged: then
another whole one is written.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.catalog.table import LISTING_SCHEMA
from pipeline.errors import DataCorrupt, ObjectMissing
from pipeline.storage import layout
from pipeline.storage.receipts import DataFile, Receipt, fetch, read_receipt, upload, write_receipt
from pipeline.storage.store import ObjectStore

STAGE = "list"
FILE = "listing"
DIFFERENCE = "difference"
"""In the place of ``FILE``: whoever knows of no differences must not take one for the whole."""
BASE = "base"
_TAKEN = b"bitsieve.taken"
_FEWEST_ROWS = 256
"""A whole listing of fewer rows is hardly larger than a difference."""


@dataclass(frozen=True, slots=True)
class Taken:
    """``rows`` rows of the base from ``start`` on, their offsets moved, before new row number ``at``."""

    at: int
    start: int
    rows: int
    moved: int


@dataclass(frozen=True, slots=True)
class _Base:
    """An earlier whole listing: its file and its rows."""

    file: DataFile
    rows: pa.Table


def most_pieces(rows: int) -> int:
    """New rows and runs of old ones in a difference; so a night writes at most about sqrt(rows) rows.

    >>> most_pieces(1_000), most_pieces(100_000)
    (62, 632)
    """
    return 2 * math.isqrt(rows)


def write_listing(
    store: ObjectStore, key: str, of_file: str, table: pa.Table, skipped: Mapping[str, int], cache: Path
) -> Receipt:
    """Stores the listing ``table`` under ``key``; ``of_file`` is the same for all listings of this file."""
    base = _base(store, of_file, cache) if table.num_rows >= _FEWEST_ROWS else None
    difference = None if base is None else _difference(table, base.rows)
    if base is None or difference is None:
        files = {FILE: _stored(store, key, table)}
    else:
        files = {DIFFERENCE: _stored(store, key, difference), BASE: base.file}
    receipt = write_receipt(
        store,
        Receipt(
            stage=STAGE,
            key=key,
            files=files,
            counts={"rows": table.num_rows, **skipped},
            facts={"file": of_file},
        ),
    )
    if BASE not in receipt.files and table.num_rows >= _FEWEST_ROWS:
        store.put(layout.listing_hint(of_file), key.encode())
    return receipt


def read_listing(store: ObjectStore, receipt: Receipt, cache: Path) -> pa.Table:
    """The rows that ``write_listing`` was given.

    Raises:
        DataCorrupt: a file is not what it was.
    """
    if BASE not in receipt.files:
        return _whole(store, receipt.files[FILE], cache)
    file = receipt.files[DIFFERENCE]
    rows = _whole(store, file, cache)
    table = _together(rows, _taken(store, file, cache), _whole(store, receipt.files[BASE], cache))
    if table.num_rows != receipt.counts["rows"]:
        raise DataCorrupt(
            f"the listing in {file.key} has {table.num_rows} rows, its receipt says {receipt.counts['rows']}",
            fix="delete its receipt; the file is then listed again",
        )
    return table


def _base(store: ObjectStore, of_file: str, cache: Path) -> _Base | None:
    """The newest whole listing, as far as the hint knows; None where it, or what leads to it, is damaged."""
    try:
        key = store.get(layout.listing_hint(of_file)).decode()
        receipt = read_receipt(store, STAGE, key)
        if receipt is None or BASE in receipt.files:
            return None
        file = receipt.files[FILE]
        fetch(store, file, cache, verify=True)
        return _Base(file, _whole(store, file, cache))
    except (ObjectMissing, DataCorrupt, UnicodeDecodeError, pa.ArrowException):
        return None


def _whole(store: ObjectStore, file: DataFile, cache: Path) -> pa.Table:
    return pq.read_table(fetch(store, file, cache), schema=LISTING_SCHEMA)


def _difference(table: pa.Table, base: pa.Table) -> pa.Table | None:
    """The rows of ``table`` that ``base`` has not, with what is taken from it; None if that is too much."""
    if not base.num_rows:
        return None
    place = pc.index_in(table["locator"], value_set=base["locator"].combine_chunks())
    place_N = pc.fill_null(place, -1).to_numpy().astype(np.int64)
    beside = base.take(np.maximum(place_N, 0))
    same_N = place_N >= 0
    for name in table.schema.names:
        if name != "offset":
            same_N &= _equal(table[name], beside[name])
    moved_N = table["offset"].to_numpy() - beside["offset"].to_numpy()
    goes_on_N = np.zeros(len(same_N), dtype=bool)
    goes_on_N[1:] = same_N[1:] & same_N[:-1] & (np.diff(place_N) == 1) & (np.diff(moved_N) == 0)
    first_R = np.flatnonzero(same_N & ~goes_on_N)  # of each run
    last_R = np.flatnonzero(same_N & ~np.append(goes_on_N[1:], False))
    n_new = int((~same_N).sum())
    if n_new + len(first_R) > most_pieces(table.num_rows):
        return None
    at_R = np.cumsum(~same_N)[first_R]
    taken_RC = np.stack([at_R, place_N[first_R], last_R - first_R + 1, moved_N[first_R]], axis=1)
    marks = {_TAKEN: json.dumps(taken_RC.tolist()).encode()}
    return table.filter(pa.array(~same_N)).replace_schema_metadata(marks)


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Where both are equal, or both null."""
    values = pc.fill_null(pc.equal(left, right), False)  # noqa: FBT003 - Arrow's call
    nulls = pc.and_(pc.is_null(left), pc.is_null(right))
    found: npt.NDArray[np.bool_] = np.asarray(pc.or_(values, nulls))
    return found


def _taken(store: ObjectStore, file: DataFile, cache: Path) -> list[Taken]:
    marks = pq.read_schema(fetch(store, file, cache)).metadata or {}
    try:
        return [Taken(*map(int, one)) for one in json.loads(marks[_TAKEN])]
    except (KeyError, ValueError, TypeError) as exc:
        raise DataCorrupt(
            f"{file.key} does not say what it takes from an earlier listing: {exc}",
            fix="delete its receipt; the file is then listed again",
        ) from exc


def _together(new: pa.Table, taken: Sequence[Taken], base: pa.Table) -> pa.Table:
    pieces, done = [LISTING_SCHEMA.empty_table()], 0
    place = LISTING_SCHEMA.get_field_index("offset")
    for one in taken:
        pieces.append(new.slice(done, one.at - done))
        done = one.at
        rows = base.slice(one.start, one.rows)
        offset = pc.add(rows["offset"], pa.scalar(one.moved, pa.int64()))
        pieces.append(rows.set_column(place, LISTING_SCHEMA.field("offset"), offset))
    return pa.concat_tables([*pieces, new.slice(done)]).combine_chunks()


def _stored(store: ObjectStore, key: str, table: pa.Table) -> DataFile:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return upload(store, "listings", key, ".parquet", bytes(sink.getvalue()))
