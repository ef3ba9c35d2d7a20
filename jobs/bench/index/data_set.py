"""Base, queries and exact neighbours of a benchmark as files that ours and every peer read.

    base.npy      float32 [N, D], unit rows       queries.npy   float32 [Q, D], unit rows, none of the base
    bounds.npy    float64 [Q]: squared distance of the k-th exact neighbour
    parts/        the base as embedding parts, which is what ours starts from; row r is image ``r``

The exact neighbours come from a plain matrix product in float32, the best of them recomputed in float64:
neither our code nor a peer's decides what is right.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.bench.index.identity import D, identity_model
from pipeline.errors import UsageError

N_QUERIES = 1_000
_PART_ROWS = 100_000
_BLOCK = 1 << 16
_SPARE = 16  # neighbours beyond k that float32 may have put in the wrong order

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Where the files are, and how many there are of what."""

    name: str
    folder: Path
    rows: int
    d: int
    n_queries: int

    @property
    def float32_bytes(self) -> int:
        """What the bare vectors take."""
        return self.rows * self.d * 4

    def parts(self) -> list[Path]:
        """The embedding parts, in order."""
        return sorted((self.folder / "parts").iterdir())


def identity_set(folder: Path, rows: int, *, k: int, seed: int = 0) -> DataSet:
    """``rows`` vectors of the identity model; queries are new images of the same identities."""
    model = identity_model(rows, seed)
    folder.mkdir(parents=True)
    shape_ND = (rows, D)
    base_ND = np.lib.format.open_memmap(folder / "base.npy", mode="w+", dtype=np.float32, shape=shape_ND)
    start = 0
    for x_ND in model.blocks():
        base_ND[start : start + len(x_ND)] = x_ND
        start += len(x_ND)
    base_ND.flush()
    return _finish("identity", folder, base_ND, model.queries(min(N_QUERIES, rows)), k)


def vectors_set(
    name: str, folder: Path, vectors_ND: Array, rows: int | None, *, k: int, seed: int = 0
) -> DataSet:
    """Real vectors: a seeded tenth of them, at most 1,000, are queries and leave the base.

    Raises:
        UsageError: they are not finite vectors, or too few.
    """
    if vectors_ND.ndim != 2 or len(vectors_ND) < 100:
        raise UsageError(
            f"{name}: expected an array of at least 100 vectors, got one of shape {vectors_ND.shape}"
        )
    norm_N = np.linalg.norm(vectors_ND.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(norm_N).all() or not norm_N.all():
        raise UsageError(f"{name}: a vector is zero or not finite", fix="leave such rows out")
    order_N = np.random.default_rng(seed).permutation(len(vectors_ND))
    n_queries = min(N_QUERIES, len(vectors_ND) // 10)
    unit_ND = (vectors_ND / norm_N).astype(np.float32)
    folder.mkdir(parents=True)
    base_ND = unit_ND[np.sort(order_N[n_queries:])][:rows]
    np.save(folder / "base.npy", base_ND)
    return _finish(name, folder, base_ND, unit_ND[order_N[:n_queries]], k)


def exact_bounds(base_ND: Array, xq_QD: Array, k: int) -> npt.NDArray[np.float64]:
    """Squared distance of each query's k-th nearest row, float64 [Q], by brute force."""
    n_kept = min(k + _SPARE, len(base_ND))
    query_M, row_M = (np.empty(0, dtype=np.int64) for _ in range(2))
    near_M = np.empty(0, dtype=np.float32)
    worst_Q = np.full(len(xq_QD), -np.inf, dtype=np.float32)  # of those kept; nothing below it gets in
    for start, stop in _blocks(len(base_ND)):
        inner_QN = xq_QD @ np.asarray(base_ND[start:stop]).T
        query_new, column_new = np.nonzero(inner_QN > worst_Q[:, np.newaxis])
        near_M = np.concatenate([near_M, inner_QN[query_new, column_new]])
        query_M = np.concatenate([query_M, query_new])
        row_M = np.concatenate([row_M, column_new + start])
        order_M = np.lexsort((-near_M, query_M))
        query_M, row_M, near_M = query_M[order_M], row_M[order_M], near_M[order_M]
        place_M = np.arange(len(query_M)) - np.searchsorted(query_M, query_M)
        kept_M = place_M < n_kept
        query_M, row_M, near_M = query_M[kept_M], row_M[kept_M], near_M[kept_M]
        full_M = place_M[kept_M] == n_kept - 1
        worst_Q[query_M[full_M]] = near_M[full_M]
    row_QK = row_M.reshape(len(xq_QD), n_kept)
    bounds = [
        np.sort(np.sum((base_ND[np.sort(rows)].astype(np.float64) - query) ** 2, axis=1))[min(k, n_kept) - 1]
        for rows, query in zip(row_QK, xq_QD.astype(np.float64), strict=True)
    ]
    return np.array(bounds, dtype=np.float64)


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    """Short ones first, so that later ones have something to beat."""
    start, size = 0, 1 << 10
    while start < n:
        yield start, min(start + size, n)
        start += size
        size = min(2 * size, _BLOCK)


def _finish(name: str, folder: Path, base_ND: Array, xq_QD: Array, k: int) -> DataSet:
    np.save(folder / "queries.npy", np.ascontiguousarray(xq_QD))
    np.save(folder / "bounds.npy", exact_bounds(base_ND, xq_QD, k))
    (folder / "parts").mkdir()
    for number, table in enumerate(_tables(base_ND)):
        pq.write_table(table, folder / "parts" / f"{number:05d}.parquet")
    rows, d = base_ND.shape
    return DataSet(name=name, folder=folder, rows=rows, d=d, n_queries=len(xq_QD))


def _tables(base_ND: Array) -> Iterator["pa.Table"]:
    d = base_ND.shape[1]
    schema = pa.schema([("image_id", pa.string()), ("embedding", pa.list_(pa.float32(), d))])
    for start in range(0, len(base_ND), _PART_ROWS):
        x_ND = np.asarray(base_ND[start : start + _PART_ROWS])
        ids = pa.array([image_id(row) for row in range(start, start + len(x_ND))])
        embeddings = pa.FixedSizeListArray.from_arrays(pa.array(x_ND.reshape(-1)), d)
        yield pa.table([ids, embeddings], schema=schema)


def image_id(row: int) -> str:
    """The id under which ours knows a row of the base; ids order like rows."""
    return f"{row:010d}"


def read_vectors(path: Path) -> Array:
    """Vectors of a .npy file, or the column ``embedding`` of a Parquet file or of a folder of them.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, mmap_mode="r"))
        column = pq.read_table(path, columns=["embedding"])["embedding"].combine_chunks()
        flat = column.values.to_numpy(zero_copy_only=False)
        return np.asarray(flat.reshape(len(column), -1))
    except (OSError, ValueError, pa.ArrowException, KeyError) as exc:
        raise UsageError(
            f"{path} is neither a .npy file nor Parquet with a column embedding: {exc}",
            fix="--data identity, or a path to such a file",
        ) from exc
