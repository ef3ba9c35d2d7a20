"""Levels of probes: 1, 2, 3, 4, 6, 8, 12, … lists; each level is the lists that were not in the one before.

A query's lists are in order of nearness. Level g holds those a search with ``probes[g]`` probes looks into
and one with ``probes[g - 1]`` does not.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from pipeline.index import kernel
from pipeline.index.arrays import ByteArray, Float32Array, IntArray
from pipeline.index.hamming import codes_of
from pipeline.index.lists import probe_order
from pipeline.index.order import Neighbours, row_of, shard_of
from pipeline.index.shard import IndexShard
from pipeline.index.threads import default_threads, map_pieces

_LISTS_AT_ONCE = 64
_PAIRS = 1 << 22  # of a query and a code held at once


class ProbeLevels:
    """Which level every list has for every query."""

    def __init__(self, xq_QD: Float32Array, centroids_LD: Float32Array) -> None:
        """For the queries ``xq_QD``; the last level is all lists."""
        n_lists = len(centroids_LD)
        powers = [2**g for g in range((n_lists - 1).bit_length())]
        steps = {*powers, *(3 * power // 2 for power in powers[1:])}
        self.probes = [*sorted(step for step in steps if step < n_lists), n_lists]
        place_QL = probe_order(xq_QD, centroids_LD)
        self._level_QL = np.searchsorted(self.probes, place_QL, side="right").astype(np.int8)

    def up_to(self, n_probes: int) -> None:
        """Forgets the levels beyond the first that has at least ``n_probes`` probes."""
        enough = [g for g, probes in enumerate(self.probes) if probes >= n_probes]
        self.probes = self.probes[: enough[0] + 1] if enough else self.probes

    def of(self, shards: Sequence[IndexShard], query_M: IntArray, place_M: IntArray) -> IntArray:
        """The level at which a query reaches a place; int64 [M]."""
        level_M = np.empty(len(place_M), dtype=np.int64)
        shard_M = shard_of(place_M)
        for number in np.unique(shard_M):
            here = np.flatnonzero(shard_M == number)
            list_M = np.searchsorted(offsets_of(shards[number]), row_of(place_M[here]), side="right") - 1
            level_M[here] = self._level_QL[query_M[here], list_M]
        return level_M

    def reached(self, shards: Sequence[IndexShard], truth: Neighbours, k: int) -> IntArray:
        """The level at which each query reaches each of its ``k`` nearest: int64 [Q, k]."""
        query_QK = np.broadcast_to(np.arange(len(truth.place_QK))[:, None], (len(truth.place_QK), k))
        return self.of(shards, query_QK.ravel(), truth.place_QK[:, :k].ravel()).reshape(-1, k)

    def mean_rows(self, shards: Sequence[IndexShard]) -> list[float]:
        """Codes that a query scans on average at each number of probes, dead ones included."""
        rows_L = sum(np.diff(offsets_of(shard)) for shard in shards)
        per_level = [float(((self._level_QL == g) * rows_L).sum()) for g in range(len(self.probes))]
        return [float(total) / max(1, len(self._level_QL)) for total in np.cumsum(per_level)]

    def hamming_counts(
        self, shards: Sequence[IndexShard], codes_QW: ByteArray, *, threads: int | None = None
    ) -> IntArray:
        """How many live rows of each level's lists are at each Hamming distance: int64 [G, Q, B + 1]."""
        counts_GQH = np.zeros((len(self.probes), len(codes_QW), codes_QW.shape[1] * 8 + 1), dtype=np.int64)
        threads = default_threads() if threads is None else threads
        n_lists = self._level_QL.shape[1]
        for shard in shards:
            for first in range(0, n_lists, _LISTS_AT_ONCE):
                some = range(first, min(first + _LISTS_AT_ONCE, n_lists))
                work = partial(self._count, shard, np.ascontiguousarray(codes_QW))
                for column, counted in zip(some, map_pieces(work, some, threads), strict=True):
                    level_Q = self._level_QL[:, column]
                    probing_Q = np.flatnonzero(level_Q < len(self.probes))
                    counts_GQH[level_Q[probing_Q], probing_Q] += counted
        return counts_GQH

    def _count(self, shard: IndexShard, codes_QW: ByteArray, number: int) -> IntArray:
        """Of the queries that probe list ``number``, how many of its live rows are at each distance."""
        probing_Q = np.flatnonzero(self._level_QL[:, number] < len(self.probes))
        a, b = (int(row) for row in offsets_of(shard)[number : number + 2])
        if kernel.can_scan(shard, codes_QW.shape[1]):
            return kernel.count_distances(shard, codes_QW, probing_Q, (a, b))
        import faiss

        codes_NW = codes_of(shard)[a:b]
        if shard.alive_N is not None:
            codes_NW = codes_NW[shard.alive_N[a:b]]
        n_bins = codes_QW.shape[1] * 8 + 1
        counts_QH = np.zeros((len(probing_Q), n_bins), dtype=np.int64)
        for rows in _blocks(len(probing_Q), len(codes_NW)):
            queries = np.ascontiguousarray(codes_QW[probing_Q[rows]])
            hamming_QN = np.empty((len(queries), len(codes_NW)), dtype=np.int32)
            faiss.hammings(
                faiss.swig_ptr(queries),
                faiss.swig_ptr(np.ascontiguousarray(codes_NW)),
                *hamming_QN.shape,
                codes_QW.shape[1],
                faiss.swig_ptr(hamming_QN),
            )
            hamming_QN += np.arange(len(queries), dtype=np.int32)[:, None] * n_bins
            counted = np.bincount(hamming_QN.ravel(), minlength=len(queries) * n_bins)
            counts_QH[rows] = counted.reshape(len(queries), n_bins)
        return counts_QH


def offsets_of(shard: IndexShard) -> IntArray:
    """Where each list of a shard in lists form begins."""
    if shard.offsets_L is None:
        raise ValueError("the index shard is in flat form: it has no lists to probe")
    return shard.offsets_L


def _blocks(n_queries: int, n_rows: int) -> Iterator[slice]:
    step = max(1, _PAIRS // max(1, n_rows))
    for start in range(0, n_queries if n_rows else 0, step):
        yield slice(start, min(start + step, n_queries))
