"""Rows of a listing file as columns: what its readers hand on, so that millions of rows make no objects.

A batch speaks of its rows by position; ``rows`` makes a ``ListedKey`` of those that have to be looked at.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SourceError

BATCH_ROWS = 65_536
_MOST_DIGITS = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedKey:
    """One row of a listing file. ``where`` names it in messages; ``None`` is what the file does not say.

    ``foreign`` says why it is not an object of this source, if the reader of the file knows.
    """

    where: str
    key: str | None
    image_id: str | None = None
    etag: str | None = None
    version: str | None = None
    size_bytes: int | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)
    foreign: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ListedBatch:
    """Consecutive rows of the file ``name``; null, or no column, is what the file does not say.

    ``numbers`` counts them in ``unit``s, as messages do. ``key``, ``image_id``, ``etag`` and ``version`` are
    strings, ``size_bytes`` whole numbers. ``foreign`` says of rows, by position, why they are none of this
    source, and ``odd_keys`` the keys that are not UTF-8, with surrogate escapes.
    """

    name: str
    unit: str
    numbers: npt.NDArray[np.int64]
    key: pa.Array
    image_id: pa.Array | None = None
    etag: pa.Array | None = None
    version: pa.Array | None = None
    size_bytes: pa.Array | None = None
    attributes: Mapping[str, Sequence[object]] = field(default_factory=dict)
    foreign: Mapping[int, str] = field(default_factory=dict)
    odd_keys: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many rows it has."""
        return len(self.numbers)

    def rows(self, positions: npt.NDArray[np.int64] | None = None) -> Iterator[ListedKey]:
        """The rows at these positions, in order; all of them without."""
        positions = np.arange(len(self)) if positions is None else positions
        columns = (self.key, self.image_id, self.etag, self.version, self.size_bytes)
        texts = [
            [None] * len(positions) if column is None else column.take(pa.array(positions)).to_pylist()
            for column in columns
        ]
        for position, key, image_id, etag, version, size_bytes in zip(
            positions.tolist(), *texts, strict=True
        ):
            yield ListedKey(
                where=f"{self.name}: {self.unit} {self.numbers[position]}",
                key=self.odd_keys.get(position, key),
                image_id=image_id,
                etag=etag,
                version=version,
                size_bytes=size_bytes,
                attributes=self.attributes_at(position),
                foreign=self.foreign.get(position, ""),
            )

    def attributes_at(self, position: int) -> dict[str, object]:
        """The attributes that a row has."""
        found = {name: values[position] for name, values in self.attributes.items()}
        return {name: value for name, value in found.items() if value is not None}


def as_text(column: pa.Array) -> pa.Array:
    """A column as strings, numbers as Python writes them; nulls stay."""
    if pa.types.is_string(column.type):
        return column
    if pa.types.is_large_string(column.type):
        return column.cast(pa.string())
    texts = [None if value is None else _text(value) for value in column.to_pylist()]
    return pa.array(texts, type=pa.string())


def filled(texts: pa.Array) -> pa.Array:
    """Texts with null in the place of empty ones."""
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def sizes(column: pa.Array, name: str, unit: str, numbers: npt.NDArray[np.int64]) -> pa.Array:
    """A column of sizes as whole numbers of 0 or more; null and empty text are unknown.

    Raises:
        SourceError: one is something else; names its row.
    """
    if pa.types.is_integer(column.type):
        limits = pc.min_max(column).as_py()
        if limits["min"] is None or (limits["min"] >= 0 and limits["max"] < 10**_MOST_DIGITS):
            return column.cast(pa.int64())
    places = zip(as_text(column).to_pylist(), numbers.tolist(), strict=True)
    found = [whole_number(text or "", f"{name}: {unit} {number}", "size") for text, number in places]
    return pa.array(found, type=pa.int64())


def whole_number(text: str, where: str, what: str) -> int | None:
    """A size as text; None if empty.

    Raises:
        SourceError: not a whole number of 0 or more.
    """
    if text == "":
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > _MOST_DIGITS:
        raise SourceError(f"{where}: the {what} {text[:40]!r} is not a whole number", fix="correct the file")
    return int(text)


def in_batches(
    rows: Iterable[tuple[int, list[str]]],
) -> Iterator[tuple[npt.NDArray[np.int64], list[list[str]]]]:
    """Rows of a CSV file with their lines, so many at a time."""
    lines: list[int] = []
    fields: list[list[str]] = []
    for line, found in rows:
        lines.append(line)
        fields.append(found)
        if len(lines) == BATCH_ROWS:
            yield np.array(lines, dtype=np.int64), fields
            lines, fields = [], []
    if lines:
        yield np.array(lines, dtype=np.int64), fields


def _text(value: object) -> str:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)
