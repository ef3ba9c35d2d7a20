"""Exact distances, and the exact k nearest by brute force: what every approximate answer is measured against.

A distance is the squared L2 distance computed in float64 from the stored vectors, rounded once to float32, by
one function, `pair_distances`; search by brute force and the second stage of the sieve both rank by it, so
they agree bit for bit. Float32 arithmetic only decides for which rows it is worth calling:

1. For a block of rows, distances to all queries by a float32 matrix product.
2. Rows that could be among the k best, given the proven error of step 1, get their distance from
   `pair_distances`.
3. Keep the k best of each query by (distance, image id); the k-th bounds step 2 of the next block.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.index.arrays import Float32Array, IntArray, VectorArray
from pipeline.index.order import (
    Neighbours,
    nearest_pairs,
    row_of,
    shard_of,
    to_neighbours,
    to_place,
)
from pipeline.index.shard import IndexShard
from pipeline.index.threads import cut

_QUERY_BLOCK = 1_024
_BLOCK_ELEMENTS = 1 << 23  # float32 distances of one block: 32 MiB
_PAIR_ELEMENTS = 1 << 21  # float64 differences held at once: 16 MiB


def pair_distances(x_MD: VectorArray, y_MD: VectorArray) -> Float32Array:
    """Squared L2 distance of each pair of rows; float32 [M].

    Computed in float64 in one fixed order and rounded once: the square of component j adds to running sum
    j % 8, and the eight sums are added in pairs. The same pair gives the same bits whatever else is in the
    call, here and in `kernel_rank`.
    """
    distance_M = np.empty(len(x_MD), dtype=np.float32)
    d = x_MD.shape[1]
    step = max(1, _PAIR_ELEMENTS // max(1, d))
    for start in range(0, len(x_MD), step):
        square_MD = np.subtract(x_MD[start : start + step], y_MD[start : start + step], dtype=np.float64)
        np.square(square_MD, out=square_MD)
        sum_M8 = np.zeros((len(square_MD), 8))
        for j in range(0, d, 8):
            sum_M8[:, : d - j] += square_MD[:, j : j + 8]
        while sum_M8.shape[1] > 1:
            sum_M8 = sum_M8[:, 0::2] + sum_M8[:, 1::2]
        distance_M[start : start + step] = sum_M8[:, 0]
    return distance_M


def place_distances(
    shards: Sequence[IndexShard], xq_QD: Float32Array, query_M: IntArray, place_M: IntArray
) -> Float32Array:
    """`pair_distances` of queries and stored vectors; float32 [M]. Reads vectors in bounded pieces."""
    distance_M = np.empty(len(place_M), dtype=np.float32)
    shard_M, row_M = shard_of(place_M), row_of(place_M)
    step = max(1, _PAIR_ELEMENTS // max(1, xq_QD.shape[1]))
    for number in np.unique(shard_M):
        here = np.flatnonzero(shard_M == number)
        for start in range(0, len(here), step):
            some = here[start : start + step]
            distance_M[some] = pair_distances(shards[number].vectors_ND[row_M[some]], xq_QD[query_M[some]])
    return distance_M


def vectors_at(shards: Sequence[IndexShard], place_M: IntArray) -> Float32Array:
    """The stored vectors of places (not of -1), in their order; float32 [M, D]."""
    d = next((shard.vectors_ND.shape[1] for shard in shards), 0)
    x_MD = np.empty((len(place_M), d), dtype=np.float32)
    shard_M, row_M = shard_of(place_M), row_of(place_M)
    for number in np.unique(shard_M):
        here = np.flatnonzero(shard_M == number)
        x_MD[here] = shards[number].vectors_ND[row_M[here]]
    return x_MD


def float32_margin(d: int) -> np.float32:
    """How far a float32 squared distance of two unit vectors can be from the exact one.

    A float32 dot product of d terms is off by at most d * 2**-24 * |x| |y| in any order of summation (Higham,
    Accuracy and Stability, section 3.1). |x|^2 + |y|^2 - 2 x.y has four such terms; 16 is for the roundings
    of the sum, of the result, and for lengths off by 1e-3.
    """
    return np.float32(4 * (d + 16) * 2.0**-24)


def nearest(
    shards: Sequence[IndexShard], xq_QD: Float32Array, k: int, *, excluded_QE: IntArray | None = None
) -> Neighbours:
    """The exact ``k`` nearest live rows of each query.

    Args:
        shards: of one snapshot.
        xq_QD: unit queries, float32.
        k: with fewer live rows, all of them are returned and the rest is padding.
        excluded_QE: places that are not results of that query; -1 for none.
    """
    blocks = []
    for q0 in range(0, len(xq_QD), _QUERY_BLOCK):
        block = slice(q0, q0 + _QUERY_BLOCK)
        blocks.append(_nearest_block(shards, xq_QD[block], k, _rows_of(excluded_QE, block)))
    if not blocks:
        return to_neighbours(*_no_pairs(), shards, (0, k))
    return Neighbours(
        place_QK=np.concatenate([b.place_QK for b in blocks]),
        distance_QK=np.concatenate([b.distance_QK for b in blocks]),
    )


def pairs_at_distance(
    shards: Sequence[IndexShard],
    xq_QD: Float32Array,
    distance_Q: Float32Array,
    *,
    excluded_QE: IntArray | None = None,
) -> Iterator[tuple[IntArray, IntArray]]:
    """All live rows at exactly ``distance_Q`` from each query, as (query_M, place_M) block by block."""
    margin = float32_margin(xq_QD.shape[1])
    for q0 in range(0, len(xq_QD), _QUERY_BLOCK):
        queries = slice(q0, q0 + _QUERY_BLOCK)
        for number, row_N, rough_QN in _rough_distances(
            shards, xq_QD[queries], _rows_of(excluded_QE, queries)
        ):
            near = np.abs(rough_QN - distance_Q[queries, None]) <= margin
            query_M, column_M = np.nonzero(near)
            place_M = to_place(number, row_N[column_M])
            exact_M = place_distances(shards, xq_QD[queries], query_M, place_M)
            at = exact_M == distance_Q[queries][query_M]
            yield query_M[at] + q0, place_M[at]


def _nearest_block(
    shards: Sequence[IndexShard], xq_QD: Float32Array, k: int, excluded_QE: IntArray | None
) -> Neighbours:
    shape_QK, margin = (len(xq_QD), k), float32_margin(xq_QD.shape[1])
    best_M = _no_pairs()
    bound_Q = np.full(len(xq_QD), np.inf, dtype=np.float32)  # no row further than this is among the k best
    for number, row_N, rough_QN in _rough_distances(shards, xq_QD, excluded_QE):
        own_bound_Q = bound_Q
        if not np.isfinite(bound_Q).all() and rough_QN.shape[1] > k:
            own_bound_Q = np.minimum(bound_Q, np.partition(rough_QN, k - 1, axis=1)[:, k - 1] + margin)
        query_M, column_M = np.nonzero((rough_QN <= (own_bound_Q + margin)[:, None]) & np.isfinite(rough_QN))
        if len(query_M) == 0:
            continue
        place_M = to_place(number, row_N[column_M])
        distance_M = place_distances(shards, xq_QD, query_M, place_M)
        query_M = np.concatenate((best_M[0], query_M))
        distance_M = np.concatenate((best_M[1], distance_M))
        place_M = np.concatenate((best_M[2], place_M))
        kept_M, position_M = nearest_pairs(query_M, distance_M, place_M, shards, k)
        best_M = (query_M[kept_M], distance_M[kept_M], place_M[kept_M])
        last = position_M == k - 1
        bound_Q[best_M[0][last]] = best_M[1][last]
    return to_neighbours(*best_M, shards, shape_QK)


def _rough_distances(
    shards: Sequence[IndexShard], xq_QD: Float32Array, excluded_QE: IntArray | None
) -> Iterator[tuple[int, IntArray, Float32Array]]:
    """Float32 distances block by block: (shard, live rows, [Q, rows]); infinite where excluded."""
    step = max(1_024, min(1 << 16, _BLOCK_ELEMENTS // max(1, len(xq_QD))))
    square_Q1 = np.einsum("qd,qd->q", xq_QD, xq_QD)[:, None]
    for number, shard in enumerate(shards):
        for row_N in _live_blocks(shard, step):
            x_ND = np.asarray(shard.vectors_ND[_as_slice(row_N)], dtype=np.float32)
            rough_QN = xq_QD @ x_ND.T
            rough_QN *= -2.0
            rough_QN += np.einsum("nd,nd->n", x_ND, x_ND)
            rough_QN += square_Q1
            if excluded_QE is not None:
                _exclude(rough_QN, excluded_QE, number, row_N)
            yield number, row_N, rough_QN


def _live_blocks(shard: IndexShard, step: int) -> Iterator[IntArray]:
    if shard.alive_N is None:
        for a, b in cut(shard.n_rows, -(-shard.n_rows // step)):
            yield np.arange(a, b)
        return
    live_N = np.flatnonzero(shard.alive_N)
    for a, b in cut(len(live_N), -(-len(live_N) // step)):
        yield live_N[a:b]


def _as_slice(row_N: IntArray) -> slice | IntArray:
    """Ascending rows as a slice where none is missing between them: a view instead of a copy."""
    first, last = int(row_N[0]), int(row_N[-1])
    return slice(first, last + 1) if last - first + 1 == len(row_N) else row_N


def _exclude(rough_QN: Float32Array, excluded_QE: IntArray, number: int, row_N: IntArray) -> None:
    row_QE = np.where(shard_of(excluded_QE) == number, row_of(excluded_QE), -1)
    column_QE = np.minimum(np.searchsorted(row_N, row_QE), len(row_N) - 1)
    query_M, nth_M = np.nonzero(row_N[column_QE] == row_QE)
    rough_QN[query_M, column_QE[query_M, nth_M]] = np.inf


def _rows_of(array: IntArray | None, rows: slice) -> IntArray | None:
    return None if array is None else array[rows]


def _no_pairs() -> tuple[IntArray, Float32Array, IntArray]:
    return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
