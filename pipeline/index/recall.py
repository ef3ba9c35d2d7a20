"""Recall of the sieve at every number of candidates, from one pass over the codes.

For each query and k: the *members* are the rows at most as far as the exact k-th neighbour (more than k if
rows tie there). The second stage is exact, so a search returns as many of them as the first stage lets
through, up to k. The i-th member to get through needs

    rank_i = (rows that are not members, at most as far in Hamming as it) + i

candidates, even if every tie goes against the members. Recall at k with C candidates is the share of rank_1 …
rank_k that are at most C: the whole curve follows from the ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.index.arrays import ByteArray, Float32Array, FloatArray, IntArray
from pipeline.index.exact import nearest, pairs_at_distance
from pipeline.index.hamming import hamming_counts, hamming_of
from pipeline.index.order import NOWHERE, Neighbours
from pipeline.index.shard import IndexShard


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuerySet:
    """Queries of one measurement: unit vectors, and for each the places and the id that are itself."""

    xq_QD: Float32Array
    excluded_QE: IntArray
    exclude_ids: tuple[str | None, ...]

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.xq_QD)


def sieve_ranks(
    shards: Sequence[IndexShard],
    queries: QuerySet,
    codes_QW: ByteArray,
    ks: Sequence[int],
    *,
    threads: int | None = None,
) -> Mapping[int, IntArray]:
    """For each k, the pessimistic ranks of the k members that get through first: int64 [Q, k], ascending.

    There must be at least max(ks) live rows besides the query itself.
    """
    k_max = max(ks)
    truth = nearest(shards, queries.xq_QD, k_max + 1, excluded_QE=queries.excluded_QE)
    all_QH = _without_self(
        hamming_counts(shards, codes_QW, threads=threads), shards, codes_QW, queries.excluded_QE
    )
    horizon_Q, beyond_QH = _ties_at_the_end(shards, queries, codes_QW, truth)
    ranks = {}
    for k in ks:
        bound_Q = truth.distance_QK[:, k - 1]
        listed_QK = truth.distance_QK <= bound_Q[:, None]
        open_end_Q = bound_Q == horizon_Q
        listed_QK &= ~(open_end_Q[:, None] & (truth.distance_QK == bound_Q[:, None]))
        members_QH = _histogram(shards, codes_QW, truth.place_QK, listed_QK)
        members_QH[open_end_Q] += beyond_QH[open_end_Q]
        ranks[k] = _ranks(all_QH, members_QH, k)
    return ranks


def recall_at(ranks_QK: IntArray, candidates: int) -> FloatArray:
    """Recall of each query with so many candidates: float64 [Q]."""
    recall_Q: FloatArray = (ranks_QK <= candidates).mean(axis=1)
    return recall_Q


def _ranks(all_QH: IntArray, members_QH: IntArray, k: int) -> IntArray:
    nth_K = np.arange(1, k + 1)
    all_QH, members_QH = all_QH.cumsum(axis=1), members_QH.cumsum(axis=1)
    ranks_QK = np.empty((len(all_QH), k), dtype=np.int64)
    for query, (all_H, members_H) in enumerate(zip(all_QH, members_QH, strict=True)):
        hamming_K = np.searchsorted(members_H, nth_K)  # of the member that gets through as number 1 … k
        ranks_QK[query] = all_H[hamming_K] - members_H[hamming_K] + nth_K
    return ranks_QK


def _without_self(
    counts_QH: IntArray, shards: Sequence[IndexShard], codes_QW: ByteArray, excluded_QE: IntArray
) -> IntArray:
    return counts_QH - _histogram(shards, codes_QW, excluded_QE, excluded_QE != NOWHERE)


def _histogram(
    shards: Sequence[IndexShard],
    codes_QW: ByteArray,
    place_QM: IntArray,
    counted_QM: "np.ndarray[tuple[int, int], np.dtype[np.bool_]]",
) -> IntArray:
    """How many of the counted places of each query are at each Hamming distance; int64 [Q, B + 1]."""
    counts_QH = np.zeros((len(codes_QW), codes_QW.shape[1] * 8 + 1), dtype=np.int64)
    query_M, column_M = np.nonzero(counted_QM)
    hamming_M = hamming_of(shards, codes_QW, query_M, place_QM[query_M, column_M])
    np.add.at(counts_QH, (query_M, hamming_M), 1)
    return counts_QH


def _ties_at_the_end(
    shards: Sequence[IndexShard], queries: QuerySet, codes_QW: ByteArray, truth: Neighbours
) -> tuple[Float32Array, IntArray]:
    """For queries whose list of neighbours ends within a tie, all rows at that distance.

    A catalog where one picture stands for ten thousand products has such queries. Returns the distance
    (infinite where the list does not end so), and how many rows at it are at each Hamming distance.
    """
    last_Q = truth.distance_QK[:, -1]
    counts_QH = np.zeros((len(queries), codes_QW.shape[1] * 8 + 1), dtype=np.int64)
    cut_Q = np.isfinite(last_Q) & (last_Q == truth.distance_QK[:, -2])
    horizon_Q = np.where(cut_Q, last_Q, np.float32(np.inf))
    affected = np.flatnonzero(cut_Q)
    pairs = pairs_at_distance(
        shards, queries.xq_QD[affected], last_Q[affected], excluded_QE=queries.excluded_QE[affected]
    )
    for nth_M, place_M in pairs:
        hamming_M = hamming_of(shards, codes_QW, affected[nth_M], place_M)
        np.add.at(counts_QH, (affected[nth_M], hamming_M), 1)
    return horizon_Q, counts_QH
