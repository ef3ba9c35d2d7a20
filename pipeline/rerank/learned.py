"""Learned query expansion: a network that sees the query and its neighbours says what each neighbour weighs.

After Gordo, Radenovic and Berg, arXiv 2007.08019 (LAttQE). The network itself is a file that
`pipeline.model` runs and `pipeline.train` makes; here is only what is done with its weights: they multiply
the stored vectors, as in ``expansion``.
"""

from dataclasses import dataclass
from typing import Protocol

from pipeline.rerank.base import NOBODY, Base, Rows, Vectors, Weights
from pipeline.rerank.expansion import expand, first_neighbours


class Weigh(Protocol):
    """What gives weights [Q, N] to the neighbours x_QND of queries xq_QD; a neighbour of zeros is nobody."""

    def __call__(self, xq_QD: Vectors, x_QND: Vectors) -> Weights:
        """Weights that are not negative."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedExpansion:
    """The query and its ``n`` nearest, weighed by ``weigh``."""

    n: int
    weigh: Weigh
    where: str
    """The file it comes from, for people."""

    def rank(self, base: Base, xq_QD: Vectors, k: int, own_Q: Rows | None = None) -> Rows:
        """The images nearest to the expanded query."""
        row_QN, x_QND = first_neighbours(base, xq_QD, self.n, own_Q)
        weight_QN = self.weigh(xq_QD, x_QND) * (row_QN != NOBODY)
        return base.nearest(expand(xq_QD, x_QND, weight_QN), k, own_Q).row_QK
