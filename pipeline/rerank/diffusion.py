"""Diffusion: similarity spreads from the query's neighbours over the graph of its candidates.

Zhou et al. 2004 and Iscen et al., arXiv 1611.05113, truncated to the first W candidates of each query:

1. Affinity of two candidates: max(s, 0) ** gamma where each is among the other's ``graph`` nearest of them,
   else 0; none with itself. S = D^-1/2 A D^-1/2 with the row sums D.
2. y = max(q . x, 0) ** gamma for the query's ``n`` nearest, else 0.
3. f = (1 - damping) (I - damping S)^-1 y by conjugate gradients: the new order is by f, descending.

Legend: Q queries, W candidates of the window, D dimensions.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError
from pipeline.rerank.base import NOBODY, Base, Rows, Vectors, Weights, reordered, vectors_of
from pipeline.rerank.expansion import check_at_least, padded

_STEPS = 20
_TOLERANCE = 1e-6
_AT_ONCE = 1 << 22  # affinities held at once: 32 MiB

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffusion:
    """Candidates by what reaches them over the graph of all candidates."""

    n: int = 10
    graph: int = 50
    window: int = 200
    gamma: float = 3.0
    damping: float = 0.99

    def __post_init__(self) -> None:
        check_at_least("n", self.n, 1)
        check_at_least("graph", self.graph, 1)
        check_at_least("window", self.window, 1)
        check_at_least("gamma", self.gamma, 0)
        if not 0 <= self.damping < 1:
            raise UsageError(f"damping must be at least 0 and below 1, got {self.damping:g}")

    def rank(self, base: Base, xq_QD: Vectors, k: int, own_Q: Rows | None = None) -> Rows:
        """The candidates by what the query's first neighbours spread to them."""
        row_QK = base.nearest(xq_QD, max(k, self.window), own_Q).row_QK
        row_QW = row_QK[:, : self.window]
        worth_QW = np.empty(row_QW.shape)
        step = max(1, _AT_ONCE // max(1, row_QW.shape[1] * max(row_QW.shape[1], xq_QD.shape[1])))
        for start in range(0, len(xq_QD), step):
            some = slice(start, start + step)
            x_QWD = vectors_of(base, row_QW[some])
            worth_QW[some] = self.spread(xq_QD[some], x_QWD, row_QW[some] != NOBODY)
        return padded(reordered(row_QK, worth_QW), k)[:, :k]

    def spread(self, xq_QD: Vectors, x_QWD: Vectors, present_QW: npt.NDArray[np.bool_]) -> Floats:
        """What reaches every candidate, float64 [Q, W]; candidates are in the query's order."""
        source_QW = np.maximum(np.einsum("qd,qwd->qw", xq_QD.astype(np.float64), x_QWD), 0) ** self.gamma
        source_QW[:, self.n :] = 0
        return diffused(
            affinities(x_QWD, present_QW, self.graph, self.gamma), source_QW * present_QW, self.damping
        )


def affinities(x_QWD: Vectors, present_QW: npt.NDArray[np.bool_], graph: int, gamma: float) -> Floats:
    """Affinity of mutual neighbours among the candidates of each query, normalised; float64 [Q, W, W]."""
    x_QWD = x_QWD.astype(np.float64)
    similarity_QWW = np.matmul(x_QWD, x_QWD.transpose(0, 2, 1))
    window = similarity_QWW.shape[1]
    similarity_QWW[:, np.arange(window), np.arange(window)] = -np.inf
    if not present_QW.all():
        similarity_QWW[~(present_QW[:, :, None] & present_QW[:, None, :])] = -np.inf
    joined_QWW = similarity_QWW > 0
    if graph < window:
        least_QW1 = np.partition(similarity_QWW, window - graph, axis=2)[:, :, window - graph, None]
        joined_QWW &= similarity_QWW >= np.maximum(least_QW1, least_QW1.transpose(0, 2, 1))
    affinity_QWW = np.zeros_like(similarity_QWW)
    affinity_QWW[joined_QWW] = similarity_QWW[joined_QWW] ** gamma
    degree_QW = affinity_QWW.sum(axis=2)
    scale_QW = np.divide(1.0, np.sqrt(degree_QW), out=np.zeros_like(degree_QW), where=degree_QW > 0)
    normalised: Floats = affinity_QWW * scale_QW[:, :, None] * scale_QW[:, None, :]
    return normalised


def diffused(affinity_QWW: Floats, source_QW: Weights, damping: float) -> Floats:
    """(1 - damping) (I - damping S)^-1 y of every query, by conjugate gradients; float64 [Q, W]."""
    found_QW = np.zeros(source_QW.shape)
    rest_QW = source_QW.astype(np.float64)
    way_QW, square_Q = rest_QW.copy(), (rest_QW**2).sum(axis=1)
    enough_Q = _TOLERANCE**2 * square_Q
    for _ in range(_STEPS):
        going_Q = square_Q > enough_Q
        if not going_Q.any():
            break
        image_QW = way_QW - damping * np.matmul(affinity_QWW, way_QW[:, :, None])[:, :, 0]
        length_Q = np.divide(
            square_Q, (way_QW * image_QW).sum(axis=1), out=np.zeros_like(square_Q), where=going_Q
        )
        found_QW += length_Q[:, None] * way_QW
        rest_QW -= length_Q[:, None] * image_QW
        before_Q, square_Q = square_Q, (rest_QW**2).sum(axis=1)
        turn_Q = np.divide(square_Q, before_Q, out=np.zeros_like(square_Q), where=going_Q)
        way_QW = rest_QW + turn_Q[:, None] * way_QW
    return (1 - damping) * found_QW
