"""Recall of the sieve at every number of candidates and of probes, from one pass over the codes.

For each query and k: the *members* are the rows at most as far as the exact k-th neighbour (more than k if
rows tie there). The second stage is exact, so a search returns as many of them as the first stage lets
through, up to k. The i-th member to get through needs

    rank_i = (rows that are not members, at most as far in Hamming as it) + i

candidates, even if every tie goes against the members. Recall at k with C candidates is the share of rank_1 …
rank_k that are at most C: the whole curve follows from the ranks. In lists form only rows and members of the
probed lists count, and a member that is in none of them has no rank, whatever C. A catalog row that asks is
no member, but takes one of the C places: a new photo finds one more image of its product than a catalog row
does, and needs one candidate more (decisions/0014). Counts are kept for each
*level* of probes (the lists that P probes add to P / 2), so that one pass serves all levels.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.index.arrays import BoolArray, ByteArray, Float32Array, FloatArray, IntArray
from pipeline.index.exact import nearest, pairs_at_distance
from pipeline.index.hamming import hamming_counts, hamming_of
from pipeline.index.levels import ProbeLevels
from pipeline.index.order import Neighbours
from pipeline.index.queries import QuerySet
from pipeline.index.shard import IndexShard

NEVER = np.iinfo(np.int64).max
"""The rank of a member that does not get through with any number of candidates."""


def sieve_ranks(
    shards: Sequence[IndexShard],
    queries: QuerySet,
    codes_QW: ByteArray,
    ks: Sequence[int],
    *,
    truth: Neighbours | None = None,
    threads: int | None = None,
) -> Mapping[int, IntArray]:
    """For each k, the pessimistic ranks of the k members that get through first: int64 [Q, k], ascending.

    All codes are scanned, in lists form too. There must be at least max(ks) live rows besides the query
    itself; ``truth`` saves finding the max(ks) + 1 nearest again.
    """
    all_GQH = hamming_counts(shards, codes_QW, threads=threads)[None]
    found = _ranks_by_level(shards, queries, codes_QW, ks, all_GQH, None, truth)
    return {k: ranks_GQK[0] for k, ranks_GQK in found.items()}


def probed_ranks(
    shards: Sequence[IndexShard],
    queries: QuerySet,
    codes_QW: ByteArray,
    ks: Sequence[int],
    levels: ProbeLevels,
    *,
    truth: Neighbours | None = None,
    threads: int | None = None,
) -> Mapping[int, IntArray]:
    """The same in lists form, for each level of probes: int64 [G, Q, k], `NEVER` where nothing helps."""
    all_GQH = levels.hamming_counts(shards, codes_QW, threads=threads)
    return _ranks_by_level(shards, queries, codes_QW, ks, all_GQH, levels, truth)


def recall_at(ranks_QK: IntArray, candidates: int) -> FloatArray:
    """Recall of each query with so many candidates: float64 [Q]."""
    recall_Q: FloatArray = (ranks_QK <= candidates).mean(axis=1)
    return recall_Q


def _ranks_by_level(
    shards: Sequence[IndexShard],
    queries: QuerySet,
    codes_QW: ByteArray,
    ks: Sequence[int],
    all_GQH: IntArray,
    levels: ProbeLevels | None,
    truth: Neighbours | None,
) -> Mapping[int, IntArray]:
    counter = _Counter(shards, codes_QW, len(all_GQH), levels)
    k_max = max(ks)
    if truth is None:
        truth = nearest(shards, queries.xq_QD, k_max + 1, excluded_QE=queries.excluded_QE)
    horizon_Q, beyond_GQH = _ties_at_the_end(counter, queries, truth)
    ranks = {}
    for k in ks:
        bound_Q = truth.distance_QK[:, k - 1]
        listed_QK = truth.distance_QK <= bound_Q[:, None]
        open_end_Q = bound_Q == horizon_Q
        listed_QK &= ~(open_end_Q[:, None] & (truth.distance_QK == bound_Q[:, None]))
        members_GQH = counter.histogram(truth.place_QK, listed_QK)
        members_GQH[:, open_end_Q] += beyond_GQH[:, open_end_Q]
        cumulative = zip(all_GQH.cumsum(axis=0), members_GQH.cumsum(axis=0), strict=True)
        ranks[k] = np.stack([_ranks(all_QH, members_QH, k) for all_QH, members_QH in cumulative])
    return ranks


def _ranks(all_QH: IntArray, members_QH: IntArray, k: int) -> IntArray:
    nth_K = np.arange(1, k + 1)
    all_QH, members_QH = all_QH.cumsum(axis=1), members_QH.cumsum(axis=1)
    ranks_QK = np.full((len(all_QH), k), NEVER, dtype=np.int64)
    for query, (all_H, members_H) in enumerate(zip(all_QH, members_QH, strict=True)):
        n = min(k, int(members_H[-1]))
        hamming_K = np.searchsorted(members_H, nth_K[:n])  # of the member that gets through as number 1 … n
        ranks_QK[query, :n] = all_H[hamming_K] - members_H[hamming_K] + nth_K[:n]
    return ranks_QK


class _Counter:
    """Counts pairs of a query and a place by level and Hamming distance."""

    def __init__(
        self, shards: Sequence[IndexShard], codes_QW: ByteArray, n_levels: int, levels: ProbeLevels | None
    ) -> None:
        self.shards = shards
        self._codes_QW = codes_QW
        self._levels = levels
        self._shape = (n_levels, len(codes_QW), codes_QW.shape[1] * 8 + 1)

    def empty(self) -> IntArray:
        """No counts, int64 [G, Q, B + 1]."""
        return np.zeros(self._shape, dtype=np.int64)

    def add(self, counts_GQH: IntArray, query_M: IntArray, place_M: IntArray) -> None:
        """Counts each pair once, those in lists beyond the last level not at all."""
        hamming_M = hamming_of(self.shards, self._codes_QW, query_M, place_M)
        if self._levels is None:
            np.add.at(counts_GQH[0], (query_M, hamming_M), 1)
            return
        level_M = self._levels.of(self.shards, query_M, place_M)
        probed_M = level_M < self._shape[0]
        np.add.at(counts_GQH, (level_M[probed_M], query_M[probed_M], hamming_M[probed_M]), 1)

    def histogram(self, place_QM: IntArray, counted_QM: BoolArray) -> IntArray:
        """How many of the counted places of each query are at each level and distance."""
        counts_GQH = self.empty()
        query_M, column_M = np.nonzero(counted_QM)
        self.add(counts_GQH, query_M, place_QM[query_M, column_M])
        return counts_GQH


def _ties_at_the_end(
    counter: _Counter, queries: QuerySet, truth: Neighbours
) -> tuple[Float32Array, IntArray]:
    """For queries whose list of neighbours ends within a tie, all rows at that distance.

    A catalog where one picture stands for ten thousand products has such queries. Returns the distance
    (infinite where the list does not end so), and how many rows at it are at each level and Hamming distance.
    """
    last_Q = truth.distance_QK[:, -1]
    counts_GQH = counter.empty()
    cut_Q = np.isfinite(last_Q) & (last_Q == truth.distance_QK[:, -2])
    horizon_Q = np.where(cut_Q, last_Q, np.float32(np.inf))
    affected = np.flatnonzero(cut_Q)
    pairs = pairs_at_distance(
        counter.shards, queries.xq_QD[affected], last_Q[affected], excluded_QE=queries.excluded_QE[affected]
    )
    for nth_M, place_M in pairs:
        counter.add(counts_GQH, affected[nth_M], place_M)
    return horizon_Q, counts_GQH
