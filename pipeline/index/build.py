"""Builds one index shard from embedding parts: codes, vectors and rows, in id order.

1. Read the ids of all parts; sort rows by (image id in UTF-8 bytes, part, row).
2. Stream the embeddings by bounded batches; check each; put vector and code where the row belongs.
3. Write ``codes.faiss``, ``vectors.npy`` and ``rows.arrow``.

Memory holds the ids and codes of the shard and one batch of vectors; the vectors go straight into a mapped
file. The same parts and encoder give the same bytes. Codes are made from the vectors *as stored* (float16
rounding included), so that anybody can encode a stored vector and find its code.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import DataCorrupt
from pipeline.index.arrays import ByteArray, Float32Array, IntArray, VectorArray
from pipeline.index.balance import bit_balance, count_ones
from pipeline.index.encoder import Encoder
from pipeline.index.shard import ROWS_SCHEMA

VectorDtype: TypeAlias = Literal["float32", "float16"]
NORM_TOLERANCE = 1e-3
_BATCH_ROWS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BuiltShard:
    """The three files of an index shard, and facts about them for the receipt and the gates."""

    codes_path: Path
    vectors_path: Path
    rows_path: Path
    n_rows: int
    d: int
    bits: int
    vector_dtype: VectorDtype
    encoder_digest: str
    ones_B: IntArray
    """How many codes have each bit set; sums over index shards."""

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
        folder: gets codes.faiss, vectors.npy and rows.arrow.
        vector_dtype: of the stored second-stage vectors.

    Raises:
        DataCorrupt: a part is not such a file, or a row is not a finite vector of length 1 within 1e-3.
    """
    rows = _sorted_rows(parts)
    target_of = _targets(rows, len(parts))
    codes_path, vectors_path, rows_path = (folder / n for n in ("codes.faiss", "vectors.npy", "rows.arrow"))
    index, codes_NW = _empty_codes(len(rows), encoder.bits)
    vectors_ND = _create_vectors(vectors_path, (len(rows), encoder.d), vector_dtype)
    for number, part in enumerate(parts):
        for first_row, x_ND in _embeddings(part, encoder.d):
            target_N = target_of[number][first_row : first_row + len(x_ND)]
            stored_ND = x_ND.astype(vector_dtype)
            vectors_ND[target_N] = stored_ND
            codes_NW[target_N] = encoder.encode(stored_ND)
    if isinstance(vectors_ND, np.memmap):
        vectors_ND.flush()
    faiss.write_index_binary(index, str(codes_path))
    with pa.OSFile(str(rows_path), "wb") as sink, pa.ipc.new_file(sink, ROWS_SCHEMA) as writer:
        writer.write_table(rows)
    return BuiltShard(
        codes_path=codes_path,
        vectors_path=vectors_path,
        rows_path=rows_path,
        n_rows=len(rows),
        d=encoder.d,
        bits=encoder.bits,
        vector_dtype=vector_dtype,
        encoder_digest=encoder.digest,
        ones_B=count_ones(codes_NW),
    )


def _sorted_rows(parts: Sequence[Path]) -> "pa.Table":
    """The rows table of the shard, one chunk per column, sorted by (image_id, part, row)."""
    tables = [ROWS_SCHEMA.empty_table()]
    for number, part in enumerate(parts):
        ids = _column(part, "image_id")
        if ids.null_count:
            raise DataCorrupt(f"{part}: {ids.null_count} rows have no image_id")
        row = pa.array(np.arange(len(ids), dtype=np.int32))
        columns = [ids, pa.array(np.full(len(ids), number, dtype=np.int32)), row]
        tables.append(pa.table(columns, schema=ROWS_SCHEMA))
    rows = pa.concat_tables(tables).combine_chunks()
    return rows.take(
        pc.sort_indices(rows, [(name, "ascending") for name in ROWS_SCHEMA.names])
    ).combine_chunks()


def _column(part: Path, name: str) -> "pa.ChunkedArray":
    with _open(part) as file:
        if name not in file.schema_arrow.names:
            raise DataCorrupt(f"{part} has no column {name}, only {file.schema_arrow.names}")
        try:
            return file.read([name])[name].cast(pa.large_string())
        except (pa.ArrowException, OSError) as exc:
            raise DataCorrupt(f"{part}: column {name} cannot be read as strings: {exc}") from exc


def _open(part: Path) -> "pq.ParquetFile":
    try:
        return pq.ParquetFile(part)
    except (pa.ArrowInvalid, OSError) as exc:
        raise DataCorrupt(f"{part} is not a Parquet file: {exc}") from exc


def _targets(rows: "pa.Table", n_parts: int) -> list[IntArray]:
    """For each part, the shard row of each of its rows."""
    part_N, row_N = rows["part"].to_numpy(), rows["row"].to_numpy()
    targets = [np.empty(n, dtype=np.int64) for n in np.bincount(part_N, minlength=n_parts)]
    for number, target in enumerate(targets):
        here = np.flatnonzero(part_N == number)
        target[row_N[here]] = here
    return targets


def _empty_codes(n: int, bits: int) -> tuple[Any, ByteArray]:
    """A Faiss index of ``n`` zero codes and a writable view of them: one copy of the codes, not two."""
    index = faiss.IndexBinaryFlat(bits)
    if n == 0:
        return index, np.empty((0, bits // 8), dtype=np.uint8)
    index.xb.resize(n * bits // 8)
    index.ntotal = n
    codes_NW: ByteArray = faiss.rev_swig_ptr(index.xb.data(), n * bits // 8).reshape(n, bits // 8)
    return index, codes_NW


def _create_vectors(path: Path, shape_ND: tuple[int, int], dtype: VectorDtype) -> VectorArray:
    if shape_ND[0] == 0:  # an empty file cannot be mapped
        np.save(path, np.empty(shape_ND, dtype=dtype))
        return np.empty(shape_ND, dtype=dtype)
    vectors_ND: VectorArray = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.dtype(dtype), shape=shape_ND
    )
    return vectors_ND


def _embeddings(part: Path, d: int) -> Iterator[tuple[int, Float32Array]]:
    """Batches of checked vectors of a part with the number of their first row."""
    first_row = 0
    with _open(part) as file:
        _check_type(part, file.schema_arrow, d)
        try:
            for batch in file.iter_batches(_BATCH_ROWS, columns=["embedding"]):
                x_ND = _checked(part, first_row, batch.column(0), d)
                yield first_row, x_ND
                first_row += len(x_ND)
        except (pa.ArrowException, OSError) as exc:
            raise DataCorrupt(f"{part}: embeddings after row {first_row} cannot be read: {exc}") from exc


def _check_type(part: Path, schema: "pa.Schema", d: int) -> None:
    if "embedding" not in schema.names:
        raise DataCorrupt(f"{part} has no column embedding, only {schema.names}")
    found = schema.field("embedding").type
    if not pa.types.is_fixed_size_list(found) or found.value_type != pa.float32() or found.list_size != d:
        raise DataCorrupt(f"{part}: expected embeddings of type fixed_size_list<float>[{d}], got {found}")


def _checked(part: Path, first_row: int, column: "pa.FixedSizeListArray", d: int) -> Float32Array:
    values = column.flatten()
    if column.null_count or values.null_count:
        raise DataCorrupt(
            f"{part}: an embedding between rows {first_row} and {first_row + len(column)} is null"
        )
    x_ND: Float32Array = values.to_numpy(zero_copy_only=True).reshape(-1, d)
    norm_N = np.sqrt(np.einsum("nd,nd->n", x_ND, x_ND, dtype=np.float64))
    bad = np.flatnonzero(
        ~(np.abs(norm_N - 1.0) <= NORM_TOLERANCE)
    )  # NaN and infinity fail the comparison too
    if len(bad):
        raise DataCorrupt(
            f"{part}, row {first_row + int(bad[0])}: expected a finite vector of length 1 "
            f"within {NORM_TOLERANCE}, got length {norm_N[bad[0]]:.6g} ({len(bad)} such rows in this batch)",
            "embed this part again",
        )
    return x_ND
