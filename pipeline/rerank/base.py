"""What a re-ranker may ask of the images that are searched, and the contract that all re-rankers keep.

An image is known by its row: a number that only the base understands (a place in an index, a line of a
matrix). Legend: Q queries, K results, N neighbours of a query that speak for it, M loose rows, D dimensions.
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Rows: TypeAlias = npt.NDArray[np.int64]
Vectors: TypeAlias = npt.NDArray[np.float32]
Distances: TypeAlias = npt.NDArray[np.float32]
Weights: TypeAlias = npt.NDArray[np.floating[Any]]

NOBODY = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nearest:
    """The nearest images of each query, best first by (distance, image id).

    Short rows are padded at the end with row -1 and distance infinity.
    """

    row_QK: Rows
    distance_QK: Distances


class Base(Protocol):
    """The images that are searched. All vectors are of unit length."""

    def nearest(self, xq_QD: Vectors, k: int, own_Q: Rows | None = None) -> Nearest:
        """The ``k`` nearest images; ``own_Q`` is the image that a query is itself, -1 for none: left out."""
        ...

    def vectors(self, row_M: Rows) -> Vectors:
        """The vectors of some rows, float32 [M, D]."""
        ...

    def neighbours(self, row_M: Rows, k: int) -> Rows:
        """The ``k`` images nearest to each of these, itself left out; int64 [M, k], padded with -1."""
        ...


class Reranker(Protocol):
    """A way to order images for a query. The same question gives the same answer, whoever else asks."""

    def rank(self, base: Base, xq_QD: Vectors, k: int, own_Q: Rows | None = None) -> Rows:
        """The first ``k`` images of each query in the new order; int64 [Q, k], padded with -1."""
        ...


def vectors_of(base: Base, row_QN: Rows) -> Vectors:
    """The vectors of all neighbours, float32 [Q, N, D]; zeros where there is nobody."""
    present_QN = row_QN != NOBODY
    unique_U, where_M = np.unique(row_QN[present_QN], return_inverse=True)
    x_UD = base.vectors(unique_U)
    x_QND = np.zeros((*row_QN.shape, x_UD.shape[1]), dtype=np.float32)
    x_QND[present_QN] = x_UD[where_M]
    return x_QND


def reordered(row_QK: Rows, worth_QW: Weights) -> Rows:
    """The first W rows of each query by descending worth, ties as they were; the rest stays behind them."""
    window = worth_QW.shape[1]
    worth_QW = np.where(row_QK[:, :window] == NOBODY, -np.inf, worth_QW)
    order_QW = np.argsort(-worth_QW, axis=1, kind="stable")
    first_QW = np.take_along_axis(row_QK[:, :window], order_QW, axis=1)
    return np.concatenate([first_QW, row_QK[:, window:]], axis=1)
