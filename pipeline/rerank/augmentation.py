"""Database-side augmentation: a base image is compared as the weighted sum of itself and its neighbours.

Every candidate moves towards its own ``n`` nearest (weights max(s, 0) ** alpha, as in ``expansion``; itself
is no neighbour of its own) and the candidates are ordered by the query's distance to where they moved
(Turcot and Lowe 2009; in Gordo et al., arXiv 1610.07940, section 5). The stored vectors stay as they are.

Only the first ``window`` candidates are moved and ordered anew. With a window of the whole base it is what a
base augmented beforehand would answer.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.rerank.base import NOBODY, Base, Rows, Vectors, reordered, vectors_of
from pipeline.rerank.expansion import alpha_weights, check_at_least, expand, padded

_AT_ONCE = 1 << 22  # components of neighbours held at once: 16 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Candidates as weighted sums of themselves and their ``n`` nearest."""

    n: int = 5
    alpha: float = 3.0
    window: int = 100

    def __post_init__(self) -> None:
        check_at_least("n", self.n, 0)
        check_at_least("alpha", self.alpha, 0)
        check_at_least("window", self.window, 1)

    def rank(self, base: Base, xq_QD: Vectors, k: int, own_Q: Rows | None = None) -> Rows:
        """The candidates by distance to their augmented vectors."""
        row_QK = base.nearest(xq_QD, max(k, self.window), own_Q).row_QK
        row_QW = row_QK[:, : self.window]
        present_QW = row_QW != NOBODY
        unique_U, where_M = np.unique(row_QW[present_QW], return_inverse=True)
        x_UD = augmented(base, unique_U, self.n, self.alpha)
        query_M = np.nonzero(present_QW)[0]
        worth_QW = np.full(row_QW.shape, -np.inf)
        worth_QW[present_QW] = _products(xq_QD, query_M, x_UD, where_M)
        return padded(reordered(row_QK, worth_QW), k)[:, :k]


def augmented(base: Base, row_M: Rows, n: int, alpha: float) -> Vectors:
    """The augmented vectors of some rows, unit length, float32 [M, D]; made in bounded pieces."""
    x_MD = base.vectors(row_M)
    if n == 0:
        return x_MD
    moved_MD = np.empty_like(x_MD)
    step = max(1, _AT_ONCE // max(1, n * x_MD.shape[1]))
    for start in range(0, len(row_M), step):
        some = slice(start, start + step)
        row_MN = base.neighbours(row_M[some], n)
        x_MND = vectors_of(base, row_MN)
        weight_MN = alpha_weights(x_MD[some], x_MND, alpha) * (row_MN != NOBODY)
        moved_MD[some] = expand(x_MD[some], x_MND, weight_MN)
    return moved_MD


def _products(
    xq_QD: Vectors, query_M: Rows, x_UD: Vectors, where_M: Rows
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    product_M = np.empty(len(query_M))
    step = max(1, _AT_ONCE // max(1, xq_QD.shape[1]))
    for start in range(0, len(query_M), step):
        some = slice(start, start + step)
        product_M[some] = np.einsum("md,md->m", xq_QD[query_M[some]].astype(np.float64), x_UD[where_M[some]])
    return product_M
