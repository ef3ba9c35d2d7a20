"""Vectors of earlier parts, found by the sha256 of image bytes that have just been read.

Whoever embeds a shard reads and hashes an image in any case. If a hint knows a row with that sha256, the
vector and the sides are copied from there: the part comes out the same, without decoding or inference. Only
row groups in which something was found are read, each once, for all the hints that lead into it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.catalog.hints import Hints
from pipeline.errors import DataCorrupt, ObjectMissing
from pipeline.storage.receipts import fetch
from pipeline.storage.store import ObjectStore

_Vector = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EarlierRow:
    """A row of an earlier part: the sha256 of its image, its vector as stored, its sides in pixels."""

    digest: bytes
    vector_D: _Vector
    width_px: int
    height_px: int


class EarlierVectors:
    """The rows that ``hints`` lead to, if their files are whole and made as ``schema`` and ``marks`` say."""

    def __init__(
        self, store: ObjectStore, cache: Path, hints: Hints, schema: pa.Schema, marks: dict[str, str]
    ) -> None:
        self._store = store
        self._cache = cache
        self._files = hints.files
        self._schema = schema
        self._marks = marks
        self._starts: dict[int, npt.NDArray[np.int64] | None] = {}
        self._places: dict[bytes, tuple[int, int]] = {}
        self._rows_of: dict[int, list[tuple[int, bytes]]] = {}
        columns = (hints.table[name].to_pylist() for name in ("content_digest", "file", "row"))
        for text, file, row in zip(*columns, strict=True):
            digest = bytes.fromhex(text)
            if digest not in self._places:
                self._places[digest] = (file, row)
                self._rows_of.setdefault(file, []).append((row, digest))

    def around(self, digest: bytes) -> Iterator[EarlierRow]:
        """The row with this digest, and all others that are hinted at in its row group; none if not known.

        What was given once is not given again.
        """
        if digest not in self._places:
            return
        file, row = self._places[digest]
        starts = self._group_starts(file)
        if starts is None:
            return
        group = int(np.searchsorted(starts, row, side="right")) - 1
        wanted = sorted(
            (at, known)
            for at, known in self._rows_of[file]
            if starts[group] <= at < starts[group + 1] and known in self._places
        )
        for _, known in wanted:
            del self._places[known]
        yield from self._read(file, group, int(starts[group]), wanted)

    def _group_starts(self, file: int) -> npt.NDArray[np.int64] | None:
        """Where each row group begins, and the end; None if the file cannot be used."""
        if file not in self._starts:
            self._starts[file] = self._looked_at(file)
        return self._starts[file]

    def _looked_at(self, file: int) -> npt.NDArray[np.int64] | None:
        try:
            path = fetch(self._store, self._files[file], self._cache, verify=True)
        except (DataCorrupt, ObjectMissing):
            return None
        parquet = pq.ParquetFile(path)
        said = parquet.schema_arrow.metadata or {}
        if not parquet.schema_arrow.remove_metadata().equals(self._schema):
            return None
        if any(said.get(name.encode()) != value.encode() for name, value in self._marks.items()):
            return None
        groups = parquet.metadata
        lengths = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def _read(
        self, file: int, group: int, start: int, wanted: list[tuple[int, bytes]]
    ) -> Iterator[EarlierRow]:
        path = fetch(self._store, self._files[file], self._cache)
        columns = ["content_digest", "width", "height", "embedding"]
        table = pq.ParquetFile(path).read_row_group(group, columns=columns)
        rows = table.take(pa.array([row - start for row, _ in wanted]))
        embedding = rows["embedding"].combine_chunks()
        vectors_ND = embedding.flatten().to_numpy().reshape(len(wanted), -1)
        said = zip(*(rows[name].to_pylist() for name in columns[:3]), strict=True)
        for (_, digest), vector_D, (text, width, height) in zip(wanted, vectors_ND, said, strict=True):
            if text == digest.hex():
                yield EarlierRow(digest=digest, vector_D=vector_D, width_px=width, height_px=height)
