"""Exact distances, and the exact k nearest by brute force: what every approximate answer is measured against.

A distance is the squared L2 distance computed in float64 from the stored vectors, rounded once to float32, by
one function, `pair_distances`; search by brute force and the second stage of the sieve both rank by it, so
they agree bit for bit. Float32 arithmetic only decides for which rows it is worth calling:

1. For a block of rows, distances to all queries by a float32 matrix product. Rows that could be among the k
   best, given the proven error of the product, are kept; the k-th of these bounds the next block.
2. What is left, hardly more than k rows of each query, gets its distance from `pair_distances`.
3. The k best of each query by (distance, image id).
"""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.index.arrays import BoolArray, Float32Array, IntArray, VectorArray
from pipeline.index.hamming import DeviceScan
from pipeline.index.order import (
    Neighbours,
    nearest_pairs,
    position_in_query,
    row_of,
    shard_of,
    to_neighbours,
    to_place,
)
from pipeline.index.shard import IndexShard
from pipeline.index.threads import cut

_QUERY_BLOCK = 1_024
_BLOCK_ELEMENTS = 1 << 20  # float32 distances of one block: 4 MiB
_CROWD = 3  # times as many pairs as there are neighbours: then rows tie
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
    shards: Sequence[IndexShard],
    xq_QD: Float32Array,
    k: int,
    *,
    excluded_QE: IntArray | None = None,
    device: DeviceScan | None = None,
) -> Neighbours:
    """The exact ``k`` nearest live rows of each query.

    Args:
        shards: of one snapshot.
        xq_QD: unit queries, float32.
        k: with fewer live rows, all of them are returned and the rest is padding.
        excluded_QE: places that are not results of that query; -1 for none.
        device: compares in float32 where it has the vectors; changes no result.
    """
    blocks = []
    for q0 in range(0, len(xq_QD), _QUERY_BLOCK):
        block = slice(q0, q0 + _QUERY_BLOCK)
        blocks.append(_nearest_block(shards, xq_QD[block], k, _rows_of(excluded_QE, block), device))
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
        asking_QD = xq_QD[q0 : q0 + _QUERY_BLOCK]
        distance_B = distance_Q[q0 : q0 + _QUERY_BLOCK]
        rough_B1 = (distance_B - np.einsum("qd,qd->q", asking_QD, asking_QD))[:, None]
        for number, row_N, rough_QN in _rough_distances(shards, asking_QD):
            query_M, column_M = _where(np.abs(rough_QN - rough_B1) <= margin)
            place_M = to_place(number, row_N[column_M])
            exact_M = place_distances(shards, asking_QD, query_M, place_M)
            at_M = exact_M == distance_B[query_M]
            if excluded_QE is not None:
                at_M &= (place_M[:, None] != excluded_QE[q0 + query_M]).all(axis=1)
            yield query_M[at_M] + q0, place_M[at_M]


def _nearest_block(
    shards: Sequence[IndexShard],
    xq_QD: Float32Array,
    k: int,
    excluded_QE: IntArray | None,
    device: DeviceScan | None,
) -> Neighbours:
    near = _Near(shards, xq_QD, k)
    n_asked = k + (0 if excluded_QE is None else excluded_QE.shape[1])
    for number, pairs in _near_pairs(shards, xq_QD, n_asked, near, device):
        query_M, row_M, rough_M = pairs
        place_M = to_place(number, row_M)
        if excluded_QE is not None and len(query_M):
            stays_M = (place_M[:, None] != excluded_QE[query_M]).all(axis=1)
            query_M, place_M, rough_M = query_M[stays_M], place_M[stays_M], rough_M[stays_M]
        near.add(query_M, rough_M, place_M)
    return near.neighbours()


def _near_pairs(
    shards: Sequence[IndexShard], xq_QD: Float32Array, n: int, near: "_Near", device: DeviceScan | None
) -> Iterator[tuple[int, tuple[IntArray, IntArray, Float32Array]]]:
    """What can be among the ``n`` nearest, block by block: shard; queries, rows, rough distances of pairs."""
    if device is not None and device.has_vectors:
        for number, shard in enumerate(shards):
            for pairs in device.near_rows(shard, xq_QD, n, near.bound_Q, near.slack):
                yield number, pairs
        return
    for number, row_N, rough_QN in _rough_distances(shards, xq_QD):
        bound_Q = near.bound_Q
        if rough_QN.shape[1] > n and np.isinf(bound_Q).any():
            own_Q = np.partition(rough_QN, n - 1, axis=1)[:, n - 1]
            bound_Q = np.minimum(bound_Q, own_Q + near.slack)
        query_M, column_M = _where(rough_QN <= bound_Q[:, None])
        yield number, (query_M, row_N[column_M], rough_QN[query_M, column_M])


class _Near:
    """Pairs of a query and a row that can be among its k nearest, by a float32 distance less |q|^2."""

    def __init__(self, shards: Sequence[IndexShard], xq_QD: Float32Array, k: int) -> None:
        self._shards, self._xq_QD, self._k = shards, xq_QD, k
        self.slack = 2 * float32_margin(xq_QD.shape[1])
        """If k rows are at most r away roughly, the k nearest rows are at most r + slack away roughly."""
        self.bound_Q = np.full(len(xq_QD), np.inf, dtype=np.float32)
        """No row farther than this is among the k nearest."""
        self._pairs = _no_pairs()
        self._new: list[tuple[IntArray, Float32Array, IntArray]] = []

    def add(self, query_M: IntArray, rough_M: Float32Array, place_M: IntArray) -> None:
        """Pairs within the bound, which falls whenever there are about as many new ones as can stay."""
        self._new.append((query_M, rough_M, place_M))
        if sum(len(new[0]) for new in self._new) >= self._k * len(self.bound_Q):
            self._tighten()

    def neighbours(self) -> Neighbours:
        """The k nearest of each query, by exact distance."""
        self._tighten()
        query_M, _, place_M = self._pairs
        distance_M = place_distances(self._shards, self._xq_QD, query_M, place_M)
        return to_neighbours(query_M, distance_M, place_M, self._shards, (len(self.bound_Q), self._k))

    def _tighten(self) -> None:
        query_M, rough_M, place_M = (np.concatenate(c) for c in zip(self._pairs, *self._new, strict=True))
        order_M = np.lexsort((rough_M, query_M))
        last_M = order_M[position_in_query(query_M[order_M]) == self._k - 1]
        self.bound_Q[query_M[last_M]] = rough_M[last_M] + self.slack
        kept_M = np.flatnonzero(rough_M <= self.bound_Q[query_M])
        if len(kept_M) > _CROWD * self._k * len(self.bound_Q):  # copies: only exact distance and id decide
            distance_M = place_distances(self._shards, self._xq_QD, query_M[kept_M], place_M[kept_M])
            best, _ = nearest_pairs(query_M[kept_M], distance_M, place_M[kept_M], self._shards, self._k)
            kept_M = kept_M[best]
        self._pairs, self._new = (query_M[kept_M], rough_M[kept_M], place_M[kept_M]), []


def _rough_distances(
    shards: Sequence[IndexShard], xq_QD: Float32Array
) -> Iterator[tuple[int, IntArray, Float32Array]]:
    """Float32 distances less |q|^2, block by block that fits into a cache: (shard, live rows, [Q, rows])."""
    step = max(1_024, min(1 << 13, _BLOCK_ELEMENTS // max(1, len(xq_QD))))
    for number, shard in enumerate(shards):
        for row_N in _live_blocks(shard, step):
            x_ND = np.asarray(shard.vectors_ND[_as_slice(row_N)], dtype=np.float32)
            rough_QN = (-2 * xq_QD) @ x_ND.T
            rough_QN += np.einsum("nd,nd->n", x_ND, x_ND)
            yield number, row_N, rough_QN


def _where(true_QN: BoolArray) -> tuple[IntArray, IntArray]:
    """`numpy.nonzero`, several times as fast where little is true."""
    at_M = np.flatnonzero(true_QN)
    return np.divmod(at_M, max(1, true_QN.shape[1]))


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


def _rows_of(array: IntArray | None, rows: slice) -> IntArray | None:
    return None if array is None else array[rows]


def _no_pairs() -> tuple[IntArray, Float32Array, IntArray]:
    return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
