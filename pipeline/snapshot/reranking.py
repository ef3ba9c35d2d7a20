"""Searches a snapshot and orders the answer anew: the index asked by a re-ranker.

A re-ranker asks for neighbours by the search that users call, with its candidates and its filter. What it
answers is in its own order; the distances beside it are still those of the query as it was asked, so that a
threshold on them means what it always meant.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.index.arrays import Float32Array, IntArray
from pipeline.index.order import NOWHERE
from pipeline.index.search import Searcher, SearchResult
from pipeline.rerank.base import Nearest, Reranker


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexBase:
    """The images of an opened snapshot as a base for re-rankers; a row is a place in its index."""

    searcher: Searcher
    exact: bool = False
    """Compare every row instead of candidates."""

    def nearest(self, xq_QD: Float32Array, k: int, own_Q: IntArray | None = None) -> Nearest:
        """The ``k`` nearest images of each query."""
        asked = k if own_Q is None else k + 1
        found = self.searcher.search_places(xq_QD, asked, exact=self.exact).neighbours
        if own_Q is None:
            return Nearest(row_QK=found.place_QK, distance_QK=found.distance_QK)
        return _without(found.place_QK, found.distance_QK, own_Q, k)

    def vectors(self, row_M: IntArray) -> Float32Array:
        """The stored vectors of some rows."""
        return self.searcher.vectors(row_M)

    def neighbours(self, row_M: IntArray, k: int) -> IntArray:
        """The ``k`` images nearest to each of these, itself left out."""
        return self.nearest(self.searcher.vectors(row_M), k, row_M).row_QK


def reranked(base: IndexBase, reranker: Reranker, xq_QD: Float32Array, k: int) -> SearchResult:
    """The first ``k`` images of each query in the re-ranker's order, with their distances to the query.

    Args:
        base: the images that may be found.
        reranker: what orders them.
        xq_QD: unit vectors, one query a row.
        k: how many; more than there are gives all.
    """
    plain = base.searcher.search_places(xq_QD[:0], k, exact=base.exact)  # for what it says of itself
    k = min(k, max(base.searcher.n_live, 1))
    row_QK = reranker.rank(base, np.ascontiguousarray(xq_QD, dtype=np.float32), k)
    present_QK = row_QK != NOWHERE
    query_M, place_M = np.nonzero(present_QK)[0], row_QK[present_QK]
    ids = base.searcher.ids(place_M).to_pylist()
    distances = base.searcher.distances(xq_QD, query_M, place_M).tolist()
    stops = np.cumsum(present_QK.sum(axis=1)).tolist()
    spans = list(zip([0, *stops], stops, strict=False))
    return SearchResult(
        ids=tuple(tuple(ids[a:b]) for a, b in spans),
        distances=tuple(tuple(distances[a:b]) for a, b in spans),
        method=plain.method,
        candidates=plain.candidates,
        warning=plain.warning,
    )


def _without(place_QK: IntArray, distance_QK: Float32Array, own_Q: IntArray, k: int) -> Nearest:
    """The first ``k`` that are not the query's own row."""
    own_QK = (place_QK == own_Q[:, None]) & (place_QK != NOWHERE)
    order_QK = np.argsort(own_QK, axis=1, kind="stable")[:, :k]
    row_QK = np.take_along_axis(place_QK, order_QK, axis=1)
    is_own_QK = np.take_along_axis(own_QK, order_QK, axis=1)
    return Nearest(
        row_QK=np.where(is_own_QK, NOWHERE, row_QK),
        distance_QK=np.where(is_own_QK, np.inf, np.take_along_axis(distance_QK, order_QK, axis=1)),
    )
