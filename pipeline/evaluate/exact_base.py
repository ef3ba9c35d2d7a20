"""All vectors of a collection in memory, with exact answers: the base that re-rankers are judged on.

Rows are in the order of ids (UTF-8 byte order), so that a row number breaks ties. The neighbours of a row are
computed when they are first asked for and kept.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.distances import DistanceTable
from pipeline.evaluate.metrics import Ints
from pipeline.rerank.base import NOBODY, Nearest

_DISTANCES_AT_ONCE = 1 << 23  # 32 MiB of float32
_MOST_QUERIES_AT_ONCE = 512
_KEPT = 32  # neighbours kept of each row

Vectors = NDArray[np.float32]


class ExactBase:
    """A `pipeline.rerank.base.Base`; the same whatever the order of the vectors given."""

    def __init__(self, x_ND: Vectors, ids: Sequence[str]) -> None:
        """``x_ND``: unit vectors; ``ids``: distinct."""
        order_N = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        self._table = DistanceTable.of(x_ND[order_N])
        self._kept_NK = np.empty((len(ids), min(_KEPT, max(len(ids) - 1, 0))), dtype=np.int32)
        self._is_kept_N = np.zeros(len(ids), dtype=np.bool_)
        self.given_N = order_N
        """Where each row of this base stands in the vectors given."""

    @property
    def x_ND(self) -> Vectors:  # noqa: N802 - ND is the shape
        """All vectors, in the order of rows."""
        return self._table.x_ND

    def nearest(self, xq_QD: Vectors, k: int, own_Q: Ints | None = None) -> Nearest:
        """The ``k`` nearest rows of each query, by exact distances."""
        n_rows = len(self.x_ND)
        row_QK = np.full((len(xq_QD), k), NOBODY, dtype=np.int64)
        distance_QK = np.full((len(xq_QD), k), np.inf, dtype=np.float32)
        step = min(_MOST_QUERIES_AT_ONCE, max(1, _DISTANCES_AT_ONCE // max(n_rows, 1)))
        for start in range(0, len(xq_QD), step):
            d2_BN = self._table.squared_l2(xq_QD[start : start + step])
            if own_Q is not None:
                own_B = own_Q[start : start + step]
                has_own = np.flatnonzero(own_B != NOBODY)
                d2_BN[has_own, own_B[has_own]] = np.inf
            for q, d2_N in enumerate(d2_BN, start=start):
                near = _first(d2_N, k)
                row_QK[q, : len(near)], distance_QK[q, : len(near)] = near, d2_N[near]
        return Nearest(row_QK=row_QK, distance_QK=distance_QK)

    def vectors(self, row_M: Ints) -> Vectors:
        """The vectors of some rows."""
        return self.x_ND[row_M]

    def neighbours(self, row_M: Ints, k: int) -> Ints:
        """The ``k`` rows nearest to each of these, itself left out."""
        if k > self._kept_NK.shape[1]:
            return self.nearest(self.x_ND[row_M], k, row_M).row_QK
        new = np.unique(row_M[~self._is_kept_N[row_M]])
        self._kept_NK[new] = self.nearest(self.x_ND[new], self._kept_NK.shape[1], new).row_QK
        self._is_kept_N[new] = True
        return self._kept_NK[row_M, :k].astype(np.int64)


def _first(d2_N: NDArray[np.float32], k: int) -> Ints:
    """The first ``k`` finite of one row of distances, ties by place."""
    farthest = np.partition(d2_N, k - 1)[k - 1] if k < len(d2_N) else np.inf
    near = np.flatnonzero(d2_N <= farthest)
    first: Ints = near[np.argsort(d2_N[near], kind="stable")[:k]]
    return first[np.isfinite(d2_N[first])]
