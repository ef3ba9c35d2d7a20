"""Builds one index shard from embedding parts: codes, vectors and rows, in id order or in (list, id) order.

1. Read the ids of all parts; sort rows by (image id in UTF-8 bytes, part, row).
2. In lists form, stream the embeddings once to find every row's list, and sort rows by (list, rank of id).
   A small shard's are kept, to be read and checked once.
3. Stream the embeddings by bounded batches; check each; put vector and code where the row belongs, in mapped
   files whose pages are given up whenever they could be half a GiB.

Memory holds the ids of the shard, a few numbers a row, and two batches of vectors. The same parts and encoder
give the same bytes. Codes and lists are made from the vectors *as stored* (float16 rounding included), so
that anybody can encode a stored vector and find its code.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.index.arrays import Float32Array, FloatArray, IntArray
from pipeline.index.balance import bit_balance, count_ones
from pipeline.index.encoder import Encoder
from pipeline.index.int8 import to_int8
from pipeline.index.lists import assign_lists, list_imbalance
from pipeline.index.mapped import MappedArray, create_array, faiss_header, npy_header
from pipeline.index.parts import Batch, batches, batches_twice, ids_of
from pipeline.index.shard import ROWS_SCHEMA, ShardFile

VectorDtype: TypeAlias = Literal["float32", "float16", "int8"]
"""``int8`` is float16 with rough int8 vectors beside it."""
_PAGE_BYTES = 4_096
_RESIDENT_BYTES = 1 << 29
"""Pages of the files that may be resident before they are given up: rows are written in random order."""
_SUM_GRID = 2.0**20
_FILE_NAMES: dict[ShardFile, str] = {
    "codes": "codes.faiss",
    "vectors": "vectors.npy",
    "row_ids": "rows.arrow",
    "offsets": "offsets.npy",
    "order": "order.npy",
    "int8": "int8.npy",
    "scales": "scales.npy",
}
"""Of an index shard in its folder."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BuiltShard:
    """The files of an index shard, and facts about them for the receipt and the gates."""

    codes_path: Path
    vectors_path: Path
    rows_path: Path
    extra: Mapping[ShardFile, Path]
    """Files that only some shards have: offsets, order, int8, scales."""
    n_rows: int
    d: int
    bits: int
    vector_dtype: VectorDtype
    encoder_digest: str
    ones_B: IntArray
    """How many codes have each bit set; sums over index shards."""
    sum_D: FloatArray
    """Sum of the stored vectors, to a multiple of 2**-20; sums over index shards."""
    list_imbalance: float
    """`lists.list_imbalance`; 1 in flat form."""

    @property
    def files(self) -> dict[ShardFile, Path]:
        """All files of the shard."""
        always: dict[ShardFile, Path] = {
            "codes": self.codes_path,
            "vectors": self.vectors_path,
            "row_ids": self.rows_path,
        }
        return always | dict(self.extra)

    @property
    def bit_balance(self) -> float:
        """Mean over bits of |share of ones - 1/2|."""
        return bit_balance(self.ones_B, self.n_rows)


def build_index_shard(
    parts: Sequence[Path], encoder: Encoder, folder: Path, *, vector_dtype: VectorDtype = "float32"
) -> BuiltShard:
    """Builds the index shard of ``parts`` into ``folder`` (which must exist; files in it are replaced).

    Args:
        parts: local Parquet files with columns image_id (string) and embedding (FixedSizeList<float32>[d]).
            The order matters: it numbers the parts. No part, or parts without rows, give an empty shard.
        encoder: makes the codes.
        folder: gets codes.faiss, vectors.npy, rows.arrow and what the form or the type add.
        vector_dtype: of the stored second-stage vectors.

    Raises:
        DataCorrupt: a part is not such a file, or a row is not a finite vector of length 1 within 1e-3.
    """
    rows = _sorted_rows(parts)
    dtype = np.dtype("float16" if vector_dtype == "int8" else vector_dtype)
    read: Callable[[], Iterator[Batch]] = partial(batches, parts, encoder.d, dtype)
    path_of = {name: folder / file for name, file in _FILE_NAMES.items()}
    offsets_L = None
    if encoder.centroids_LD is not None:
        read = batches_twice(parts, encoder.d, dtype, len(rows))
        rows, offsets_L = _in_lists(rows, len(parts), read(), encoder.centroids_LD)
        np.save(path_of["offsets"], offsets_L)
        np.save(path_of["order"], rows["rank"].to_numpy())
        rows = rows.drop_columns("rank")
    target_of = _targets(rows, len(parts))
    touched = 0
    ones_B, sum_D = np.zeros(encoder.bits, dtype=np.int64), np.zeros(encoder.d)
    with ExitStack() as files:
        arrays = _create(files, path_of, len(rows), encoder, vector_dtype)
        written_bytes = sum(array.array.nbytes for array in arrays.values())
        for number, first_row, stored_ND in read():
            target_N = target_of[number][first_row : first_row + len(stored_ND)]
            codes_NW = encoder.encode(stored_ND)
            arrays["vectors"].array[target_N] = stored_ND
            arrays["codes"].array[target_N] = codes_NW
            if vector_dtype == "int8":
                arrays["int8"].array[target_N], arrays["scales"].array[target_N] = to_int8(stored_ND)
            ones_B += count_ones(codes_NW)
            sum_D += stored_ND.sum(axis=0, dtype=np.float64)
            touched += len(stored_ND) * max(_PAGE_BYTES, stored_ND[:1].nbytes)
            if min(touched, written_bytes) > _RESIDENT_BYTES:
                for array in arrays.values():
                    array.release()
                touched = 0
    with pa.OSFile(str(path_of["row_ids"]), "wb") as sink, pa.ipc.new_file(sink, ROWS_SCHEMA) as writer:
        writer.write_table(rows)
    of_lists: tuple[ShardFile, ...] = () if offsets_L is None else ("offsets", "order")
    return BuiltShard(
        codes_path=path_of["codes"],
        vectors_path=path_of["vectors"],
        rows_path=path_of["row_ids"],
        extra={name: path_of[name] for name in (*of_lists, *arrays) if name not in ("codes", "vectors")},
        n_rows=len(rows),
        d=encoder.d,
        bits=encoder.bits,
        vector_dtype=vector_dtype,
        encoder_digest=encoder.digest,
        ones_B=ones_B,
        sum_D=np.rint(sum_D * _SUM_GRID) / _SUM_GRID,
        list_imbalance=1.0 if offsets_L is None else list_imbalance(np.diff(offsets_L)),
    )


def _in_lists(
    rows: "pa.Table", n_parts: int, batches: Iterator[Batch], centroids_LD: Float32Array
) -> tuple["pa.Table", IntArray]:
    """The rows by (list, rank), with their ranks as one more column, and where each list begins."""
    rank_of = _targets(rows, n_parts)
    list_N = np.empty(len(rows), dtype=np.int32)
    for number, first_row, stored_ND in batches:
        rank_N = rank_of[number][first_row : first_row + len(stored_ND)]
        list_N[rank_N] = assign_lists(stored_ND, centroids_LD)
    rank_N = np.argsort(list_N, kind="stable").astype(np.int32)
    offsets_L = np.zeros(len(centroids_LD) + 1, dtype=np.int64)
    np.cumsum(np.bincount(list_N, minlength=len(centroids_LD)), out=offsets_L[1:])
    return rows.append_column("rank", pa.array(np.arange(len(rows), dtype=np.int32))).take(
        pa.array(rank_N)
    ).combine_chunks(), offsets_L


def _sorted_rows(parts: Sequence[Path]) -> "pa.Table":
    """The rows table of the shard, one chunk per column, sorted by (image_id, part, row)."""
    tables = [ROWS_SCHEMA.empty_table()]
    for number, part in enumerate(parts):
        ids = ids_of(part)
        row = pa.array(np.arange(len(ids), dtype=np.int32))
        columns = [ids, pa.array(np.full(len(ids), number, dtype=np.int32)), row]
        tables.append(pa.table(columns, schema=ROWS_SCHEMA))
    rows = pa.concat_tables(tables).combine_chunks()
    return rows.take(
        pc.sort_indices(rows, [(name, "ascending") for name in ROWS_SCHEMA.names])
    ).combine_chunks()


def _targets(rows: "pa.Table", n_parts: int) -> list[IntArray]:
    """For each part, the shard row of each of its rows."""
    part_N, row_N = rows["part"].to_numpy(), rows["row"].to_numpy()
    targets = [np.empty(n, dtype=np.int64) for n in np.bincount(part_N, minlength=n_parts)]
    for number, target in enumerate(targets):
        here = np.flatnonzero(part_N == number)
        target[row_N[here]] = here
    return targets


def _create(
    files: ExitStack, path_of: Mapping[ShardFile, Path], n: int, encoder: Encoder, vector_dtype: VectorDtype
) -> dict[ShardFile, MappedArray]:
    """The files that are written row by row, in place."""
    dtype = np.dtype("float16" if vector_dtype == "int8" else vector_dtype)
    kinds: dict[ShardFile, tuple[tuple[int, ...], np.dtype[Any]]] = {"vectors": ((n, encoder.d), dtype)}
    if vector_dtype == "int8":
        kinds |= {"int8": ((n, encoder.d), np.dtype(np.int8)), "scales": ((n,), np.dtype(np.float32))}
    arrays = {
        name: files.enter_context(create_array(path_of[name], npy_header(shape, kind), shape, kind))
        for name, (shape, kind) in kinds.items()
    }
    codes = create_array(
        path_of["codes"], faiss_header(n, encoder.bits), (n, encoder.bits // 8), np.dtype(np.uint8)
    )
    return arrays | {"codes": files.enter_context(codes)}
