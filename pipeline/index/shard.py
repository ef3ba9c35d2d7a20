"""One index shard as it is searched: its files mapped, checked against each other and the encoder.

The files are plain: ``codes`` opens with ``faiss.read_index_binary``, ``vectors`` with ``numpy.load``,
``rows`` with ``pyarrow.ipc.open_file``. In flat form rows are in id order (UTF-8 bytes), so a row number
orders like its id. In lists form they are in (list, id) order; ``offsets`` says where each list begins and
``order`` which rank each row's id has. Nothing is read until it is needed, so opening costs milliseconds and
many processes share one copy in the page cache.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from pipeline.errors import DataCorrupt
from pipeline.index.arrays import (
    BoolArray,
    ByteArray,
    Float32Array,
    Int8Array,
    Int32Array,
    IntArray,
    VectorArray,
)
from pipeline.index.encoder import Encoder
from pipeline.index.lists import assign_lists
from pipeline.index.mapped import faiss_header

ROWS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.large_string(), nullable=False),
        pa.field("part", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
    ]
)
ShardFile: TypeAlias = Literal["codes", "vectors", "row_ids", "offsets", "order", "int8", "scales"]
"""``codes``, ``vectors`` and ``row_ids`` always; ``offsets`` and ``order`` in lists form; ``int8`` and
``scales`` where rough vectors were asked for."""
_SELF_CHECK_ROWS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class IndexShard:
    """A mapped index shard. Arrays are read-only views of the files; safe to use from many threads."""

    codes_NW: ByteArray | None
    """Packed bits, uint8; None where the shard was opened for exact search only."""
    vectors_ND: VectorArray
    """Second-stage vectors, float32 or float16, unit length: exact distances are distances to these."""
    ids: "pa.LargeStringArray"
    part_N: Int32Array
    """Which embedding part each row came from: its place in the list the shard was built from."""
    row_N: Int32Array
    """Row inside that part."""
    alive_N: BoolArray | None
    """False for rows that a newer part replaced or that left the catalog; None where all are live."""
    faiss_index: Any
    """Owns the mapping that ``codes_NW`` looks into."""
    offsets_L: IntArray | None = None
    """Lists form: list i is rows offsets_L[i] to offsets_L[i + 1], int64 [n_lists + 1]; None in flat form."""
    order_N: Int32Array | None = None
    """Rank of each row's id within the shard, in UTF-8 byte order; None where row number is that rank."""
    int8_ND: Int8Array | None = None
    """Rounded vectors for a rough distance before ``vectors_ND`` is read: x is about int8 * scale."""
    int8_scale_N: Float32Array | None = None
    """One scale a row, so that sharding changes no result; present where ``int8_ND`` is."""

    @classmethod
    def open(
        cls,
        codes_path: Path | None,
        vectors_path: Path,
        rows_path: Path,
        encoder: Encoder | None,
        alive: BoolArray | None = None,
        *,
        extra: Mapping[ShardFile, Path] | None = None,
    ) -> "IndexShard":
        """Maps the files of a shard.

        Args:
            codes_path: the Faiss file; None (with ``encoder`` None) opens the shard for exact search only.
            vectors_path: the .npy file.
            rows_path: the Arrow file.
            encoder: the encoder that the snapshot names; a few rows are encoded again to prove it.
            alive: bool [N] in row order; None where every row is live.
            extra: the .npy files of the lists form and of rough vectors, where the shard has them.

        Raises:
            DataCorrupt: a file is garbled or missing, the files disagree with each other, with ``alive`` or
                with the encoder.
        """
        extra = extra or {}
        vectors_ND = _map_vectors(vectors_path)
        rows = _map_rows(rows_path)
        index = _map_codes(codes_path) if codes_path is not None and encoder is not None else None
        codes_NW = _codes_of(index) if index is not None else None
        shard = cls(
            codes_NW=codes_NW,
            vectors_ND=vectors_ND,
            ids=_only_chunk(rows["image_id"]),
            part_N=_only_chunk(rows["part"]).to_numpy(),
            row_N=_only_chunk(rows["row"]).to_numpy(),
            alive_N=None if alive is None or alive.all() else np.array(alive, dtype=np.bool_),
            faiss_index=index,
            offsets_L=_map_numbers(extra.get("offsets"), "i8", 1),
            order_N=_map_numbers(extra.get("order"), "i4", 1),
            int8_ND=_map_numbers(extra.get("int8"), "i1", 2),
            int8_scale_N=_map_numbers(extra.get("scales"), "f4", 1),
        )
        _check_sizes(shard, vectors_path, None if alive is None else len(alive))
        if encoder is not None and codes_path is not None:
            _check_encoder(shard, encoder, codes_path)
        return shard

    @property
    def n_rows(self) -> int:
        """All rows, dead ones included."""
        return len(self.vectors_ND)

    @cached_property
    def n_live(self) -> int:
        """Rows that a search may return."""
        return self.n_rows if self.alive_N is None else int(np.count_nonzero(self.alive_N))

    @cached_property
    def live_bitmap(self) -> ByteArray | None:
        """``alive_N`` packed little-endian, and eight zero bytes to read past; None where all are live."""
        return None if self.alive_N is None else np.pad(np.packbits(self.alive_N, bitorder="little"), (0, 8))

    def find(self, image_id: str) -> IntArray:
        """Live rows that hold ``image_id``, ascending: one or none, usually. Reads O(log N) ids."""
        wanted = image_id.encode()
        rows = np.arange(self._first_at_least(wanted), self._first_at_least(wanted + b"\0"), dtype=np.int64)
        if self.by_id is not None:
            rows = np.sort(self.by_id[rows]).astype(np.int64)
        return rows if self.alive_N is None else rows[self.alive_N[rows]]

    @cached_property
    def by_id(self) -> Int32Array | None:
        """Rows in the order of their ids; None where that is the order they lie in."""
        if self.order_N is None:
            return None
        by_id_N = np.empty(self.n_rows, dtype=np.int32)
        by_id_N[self.order_N] = np.arange(self.n_rows, dtype=np.int32)
        return by_id_N

    def _first_at_least(self, wanted: bytes) -> int:
        low, high = 0, self.n_rows
        while low < high:
            middle = (low + high) // 2
            if self.ids[middle if self.by_id is None else int(self.by_id[middle])].as_py().encode() < wanted:
                low = middle + 1
            else:
                high = middle
        return low


def _map_codes(path: Path) -> Any:
    import faiss

    if not path.is_file():
        raise DataCorrupt(f"{path} is missing")
    _check_header(path)
    try:
        index = faiss.read_index_binary(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as exc:
        raise DataCorrupt(f"{path} is not a Faiss binary index: {exc}") from exc
    return index


def _check_header(path: Path) -> None:
    """Refuses, before Faiss believes any number in it, a file whose header does not fit its size."""
    with path.open("rb") as file:
        header = file.read(len(faiss_header(0, 8)))
    if not header.startswith(b"IBxF"):
        raise DataCorrupt(f"{path}: expected a Faiss IndexBinaryFlat (IBxF), got a file of {header[:4]!r}")
    bits, n = int.from_bytes(header[4:8], "little"), int.from_bytes(header[12:20], "little")
    if header != faiss_header(n, bits) or path.stat().st_size != len(header) + n * (bits // 8):
        raise DataCorrupt(
            f"{path}: the header of {n} codes of {bits} bits and a size of {path.stat().st_size} bytes "
            "do not agree"
        )


def _codes_of(index: Any) -> ByteArray:
    import faiss

    shape_NW = (index.ntotal, index.d // 8)
    if index.xb.size() != shape_NW[0] * shape_NW[1]:
        raise DataCorrupt(f"a Faiss index of {shape_NW} code bytes holds {index.xb.size()}")
    if index.ntotal == 0:
        return np.empty(shape_NW, dtype=np.uint8)
    codes_NW: ByteArray = faiss.rev_swig_ptr(index.xb.data(), index.xb.size()).reshape(shape_NW)
    codes_NW.flags.writeable = False
    return codes_NW


def _map_vectors(path: Path) -> VectorArray:
    try:
        vectors_ND = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as exc:
        raise DataCorrupt(f"{path} is not an .npy file: {exc}") from exc
    if not isinstance(vectors_ND, np.ndarray) or vectors_ND.ndim != 2 or vectors_ND.dtype not in ("f4", "f2"):
        raise DataCorrupt(f"{path}: expected a 2-D float32 or float16 array, got {type(vectors_ND).__name__}")
    return vectors_ND.view(np.ndarray)


def _map_numbers(path: Path | None, dtype: str, n_dimensions: int) -> Any:
    if path is None:
        return None
    try:
        numbers = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as exc:
        raise DataCorrupt(f"{path} is not an .npy file: {exc}") from exc
    if not isinstance(numbers, np.ndarray) or numbers.ndim != n_dimensions or numbers.dtype != dtype:
        raise DataCorrupt(f"{path}: expected a {n_dimensions}-D array of {np.dtype(dtype)}")
    return numbers.view(np.ndarray)


def _map_rows(path: Path) -> "pa.Table":
    try:
        with pa.memory_map(str(path)) as source:
            rows = pa.ipc.open_file(source).read_all()
    except (pa.ArrowInvalid, OSError) as exc:
        raise DataCorrupt(f"{path} is not an Arrow file: {exc}") from exc
    if rows.schema != ROWS_SCHEMA:
        raise DataCorrupt(f"{path}: expected the columns {ROWS_SCHEMA.names}, got {rows.schema.names}")
    return rows


def _only_chunk(column: "pa.ChunkedArray") -> "pa.Array":
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _check_sizes(shard: IndexShard, vectors_path: Path, n_alive: int | None) -> None:
    counts = {"vectors": shard.n_rows, "rows": len(shard.ids)}
    if shard.codes_NW is not None:
        counts["codes"] = len(shard.codes_NW)
    if shard.offsets_L is not None:
        counts["rows in lists"] = _rows_in_lists(shard.offsets_L)
    for name, array in (("id ranks", shard.order_N), ("int8", shard.int8_ND), ("scales", shard.int8_scale_N)):
        if array is not None:
            counts[name] = len(array)
    if n_alive is not None:
        counts["live flags"] = n_alive
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{n} {name}" for name, n in counts.items())
        raise DataCorrupt(f"the files of the index shard at {vectors_path.parent} do not agree: {said}")


def _rows_in_lists(offsets_L: IntArray) -> int:
    """Where the last list ends; -1 where offsets are no offsets."""
    sound = len(offsets_L) > 1 and offsets_L[0] == 0 and bool((np.diff(offsets_L) >= 0).all())
    return int(offsets_L[-1]) if sound else -1


def _check_encoder(shard: IndexShard, encoder: Encoder, codes_path: Path) -> None:
    """Refuses codes that this encoder did not make: sizes first, then a few rows encoded again."""
    assert shard.codes_NW is not None  # noqa: S101 (for the type checker)
    d, bits = shard.vectors_ND.shape[1], shard.codes_NW.shape[1] * 8
    if (d, bits) != (encoder.d, encoder.bits):
        raise DataCorrupt(
            f"{codes_path}: the encoder makes {encoder.bits} bits from {encoder.d} dimensions, "
            f"the files hold {bits} bits and {d} dimensions"
        )
    n_lists = None if shard.offsets_L is None else len(shard.offsets_L) - 1
    if n_lists != encoder.n_lists:
        raise DataCorrupt(f"{codes_path}: the encoder has {encoder.n_lists} lists, the shard {n_lists}")
    rows = np.unique(np.linspace(0, max(shard.n_rows - 1, 0), _SELF_CHECK_ROWS).astype(np.int64))[
        : shard.n_rows
    ]
    wrong = rows[(encoder.encode(shard.vectors_ND[rows]) != shard.codes_NW[rows]).any(axis=1)]
    if len(wrong):
        raise DataCorrupt(
            f"{codes_path}: the codes of {len(wrong)} of {len(rows)} checked rows (first: row {wrong[0]}) "
            f"are not those of encoder {encoder.digest[:12]}: another encoder made them, or a file is garbled"
        )
    if shard.offsets_L is not None and encoder.centroids_LD is not None and len(rows):
        list_N = assign_lists(shard.vectors_ND[rows], encoder.centroids_LD)
        misplaced = rows[list_N != np.searchsorted(shard.offsets_L, rows, side="right") - 1]
        if len(misplaced):
            raise DataCorrupt(
                f"{codes_path}: {len(misplaced)} of {len(rows)} checked rows (first: row {misplaced[0]}) "
                f"lie in a list that encoder {encoder.digest[:12]} did not choose: a file is garbled"
            )
