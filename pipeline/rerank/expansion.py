"""Query expansion: the query moves towards its first neighbours and asks again.

expanded = normalised(q + sum over the n nearest d_i of w_i d_i), and what is nearest to it is the answer.

- average    w_i = 1 (Chum et al., Total Recall, ICCV 2007)
- decaying   w_i = (n - i) / n for i = 0 … n - 1 (Arandjelovic and Zisserman, CVPR 2012, without its SVM)
- alpha      w_i = max(q . d_i, 0) ** alpha (Radenovic et al., arXiv 1711.02512, section 4.3); a negative
             similarity weighs nothing; alpha 0 is the average
- recursive  alpha-weighted again and again: the neighbours of the expanded query, weighted by their
             similarity to it, are added to the query as it was; stops when they are those of the round
             before, after ``rounds``, and before the query is less than ``drift`` similar to what it was

Sums are made in float64 and rounded once, so that a batch gives what each query gives alone.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.errors import UsageError
from pipeline.rerank.base import NOBODY, Base, Rows, Vectors, Weights, vectors_of


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageExpansion:
    """The mean of the query and its ``n`` nearest."""

    n: int = 5

    def __post_init__(self) -> None:
        check_at_least("n", self.n, 0)

    def rank(self, base: Base, xq_QD: Vectors, k: int, own_Q: Rows | None = None) -> Rows:
        """The images nearest to the expanded query."""
        row_QN, x_QND = first_neighbours(base, xq_QD, self.n, own_Q)
        expanded_QD = expand(xq_QD, x_QND, (row_QN != NOBODY).astype(np.float64))
        return base.nearest(expanded_QD, k, own_Q).row_QK


@dataclass(frozen=True, slots=True, kw_only=True)
class DecayingExpansion:
    """As the average, but a neighbour weighs less the further behind it stands."""

    n: int = 5

    def __post_init__(self) -> None:
        check_at_least("n", self.n, 0)

    def rank(self, base: Base, xq_QD: Vectors, k: int, own_Q: Rows | None = None) -> Rows:
        """The images nearest to the expanded query."""
        row_QN, x_QND = first_neighbours(base, xq_QD, self.n, own_Q)
        weight_QN = np.where(row_QN != NOBODY, decaying_weights(self.n), 0.0)
        return base.nearest(expand(xq_QD, x_QND, weight_QN), k, own_Q).row_QK


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaExpansion:
    """As the average, but a neighbour weighs as much as its similarity to the power of ``alpha``."""

    n: int = 5
    alpha: float = 3.0

    def __post_init__(self) -> None:
        check_at_least("n", self.n, 0)
        check_at_least("alpha", self.alpha, 0)

    def rank(self, base: Base, xq_QD: Vectors, k: int, own_Q: Rows | None = None) -> Rows:
        """The images nearest to the expanded query."""
        row_QN, x_QND = first_neighbours(base, xq_QD, self.n, own_Q)
        weight_QN = alpha_weights(xq_QD, x_QND, self.alpha) * (row_QN != NOBODY)
        return base.nearest(expand(xq_QD, x_QND, weight_QN), k, own_Q).row_QK


@dataclass(frozen=True, slots=True, kw_only=True)
class RecursiveExpansion:
    """Alpha-weighted expansion, repeated."""

    n: int = 5
    alpha: float = 3.0
    rounds: int = 3
    drift: float = 0.7
    """The least cosine of the expanded query and the query; a round that goes further does not count."""

    def __post_init__(self) -> None:
        check_at_least("n", self.n, 0)
        check_at_least("alpha", self.alpha, 0)
        check_at_least("rounds", self.rounds, 1)

    def rank(self, base: Base, xq_QD: Vectors, k: int, own_Q: Rows | None = None) -> Rows:
        """The images nearest to the query after its last round."""
        return base.nearest(self.expanded(base, xq_QD, own_Q), k, own_Q).row_QK

    def expanded(self, base: Base, xq_QD: Vectors, own_Q: Rows | None = None) -> Vectors:
        """Where each query ends, unit vectors of the same shape."""
        at_QD = xq_QD.copy()
        seen_QN = np.full((len(xq_QD), self.n), NOBODY - 1, dtype=np.int64)
        going = np.arange(len(xq_QD))
        for _ in range(self.rounds):
            own = None if own_Q is None else own_Q[going]
            row_QN, x_QND = first_neighbours(base, at_QD[going], self.n, own)
            weight_QN = alpha_weights(at_QD[going], x_QND, self.alpha) * (row_QN != NOBODY)
            moved_QD = expand(xq_QD[going], x_QND, weight_QN)
            near_Q = np.einsum("qd,qd->q", moved_QD, xq_QD[going], dtype=np.float64) >= self.drift
            at_QD[going[near_Q]] = moved_QD[near_Q]
            set_QN = np.sort(row_QN, axis=1)
            changed_Q = near_Q & (set_QN != seen_QN[going]).any(axis=1)
            seen_QN[going] = set_QN
            going = going[changed_Q]
            if not len(going):
                break
        return at_QD


def first_neighbours(base: Base, xq_QD: Vectors, n: int, own_Q: Rows | None) -> tuple[Rows, Vectors]:
    """Rows [Q, n] and vectors [Q, n, D] of the ``n`` nearest of each query."""
    if n == 0:
        n_queries, d = xq_QD.shape
        return np.empty((n_queries, 0), dtype=np.int64), np.empty((n_queries, 0, d), dtype=np.float32)
    row_QN = padded(base.nearest(xq_QD, n, own_Q).row_QK, n)
    return row_QN, vectors_of(base, row_QN)


def expand(xq_QD: Vectors, x_QND: Vectors, weight_QN: Weights) -> Vectors:
    """normalised(q + sum of w_i x_i), float32 [Q, D]; a query whose sum is zero stays where it is.

    >>> q, d = np.float32([[1, 0]]), np.float32([[[0, 1]]])
    >>> expand(q, d, np.array([[1.0]])).round(4).tolist()
    [[0.707099974155426, 0.707099974155426]]
    """
    if x_QND.shape[:2] != weight_QN.shape or x_QND.shape[::2] != xq_QD.shape:
        raise ValueError(
            f"expected neighbours [Q, N, D] and weights [Q, N] of queries {xq_QD.shape}, "
            f"got {x_QND.shape} and {weight_QN.shape}"
        )
    sum_QD = xq_QD + np.einsum("qn,qnd->qd", weight_QN.astype(np.float64), x_QND)
    norm_Q1 = np.linalg.norm(sum_QD, axis=1, keepdims=True)
    moved_Q1 = norm_Q1 > 0
    return np.where(moved_Q1, sum_QD / np.where(moved_Q1, norm_Q1, 1), xq_QD).astype(np.float32)


def alpha_weights(xq_QD: Vectors, x_QND: Vectors, alpha: float) -> Weights:
    """max(q . x_i, 0) ** alpha, float64 [Q, N]."""
    similarity_QN = np.einsum("qd,qnd->qn", xq_QD.astype(np.float64), x_QND)
    weight_QN: Weights = np.maximum(similarity_QN, 0) ** alpha
    return weight_QN


def decaying_weights(n: int) -> Weights:
    """(n - i) / n for i = 0 … n - 1."""
    weight_N: Weights = (n - np.arange(n)) / max(n, 1)
    return weight_N


def padded(row_QK: Rows, k: int) -> Rows:
    """``k`` columns, -1 where a base has fewer images."""
    return np.pad(row_QK, ((0, 0), (0, max(0, k - row_QK.shape[1]))), constant_values=NOBODY)


def check_at_least(name: str, value: float, least: float) -> None:
    """Refuses a setting below what makes sense.

    Raises:
        UsageError: it is, or it is no number.
    """
    if not value >= least or value == float("inf"):
        raise UsageError(
            f"{name} must be at least {least:g}, got {value:g}", fix=f"pass {name}={least:g} or more"
        )
