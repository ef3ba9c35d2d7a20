"""All pairs of labelled images, a block at a time: their distances, the error curve, and the oddest of them.

Legend: N images in the order of their rows, Q queries, M pairs of one block, F thresholds, I identities, D
dimensions. A pair is i < j, or a query and an image; it is the same if the codes of its images are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.error_curve import ErrorCurve, PairCounter
from pipeline.evaluate.metrics import Floats, Ints

_BLOCK_ROWS = 1 << 10
_KEPT = 256  # of each kind, so that some remain when no two are of the same identities

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OddPairs:
    """Same pairs that are far apart, farthest first, and different ones that are near, nearest first."""

    same_P2: Ints
    same_distance_P: NDArray[np.float32]
    different_P2: Ints
    different_distance_P: NDArray[np.float32]


def curve_of_all_pairs(x_ND: Vectors, code_N: Ints) -> ErrorCurve:
    """The curve at bin edges of all pairs of rows; memory does not grow with the pairs.

    Raises:
        UsageError: if there are not both same and different pairs.
    """
    return curve_and_odd_pairs(x_ND, code_N)[0]


def curve_of_query_pairs(
    queries: tuple[Vectors, Ints], base: tuple[Vectors, Ints], own_Q: Ints
) -> ErrorCurve:
    """The curve at bin edges of all pairs of a query and a row, less each query and its own row.

    Args:
        queries: Their vectors and codes.
        base: Vectors and codes of the rows.
        own_Q: The row that is the query itself; -1 where none is.

    Raises:
        UsageError: if there are not both same and different pairs.
    """
    (xq_QD, code_Q), (xb_ND, code_N) = queries, base
    row_N, counter = np.arange(len(xb_ND)), PairCounter()
    for a in range(0, len(xq_QD), _BLOCK_ROWS):
        asking = slice(a, a + _BLOCK_ROWS)
        for b in range(0, len(xb_ND), _BLOCK_ROWS):
            rows = slice(b, b + _BLOCK_ROWS)
            distance_BS = np.maximum(2 - 2 * (xq_QD[asking] @ xb_ND[rows].T), 0)
            other_BS = own_Q[asking, None] != row_N[rows]
            counter.add(distance_BS[other_BS], (code_Q[asking, None] == code_N[rows])[other_BS])
    return counter.curve()


def curve_and_odd_pairs(x_ND: Vectors, code_N: Ints) -> tuple[ErrorCurve, OddPairs]:
    """The same, and the oddest pairs, in one pass.

    Raises:
        UsageError: if there are not both same and different pairs.
    """
    counter, far_apart, near = PairCounter(), _Smallest(), _Smallest()
    for block in _blocks(x_ND, code_N):
        counter.add(block.distance_M, block.same_M)
        far_apart.add(-block.distance_M, block.same_M, block)
        near.add(block.distance_M, ~block.same_M, block)
    odd = OddPairs(
        same_P2=far_apart.pairs_P2,
        same_distance_P=-far_apart.values_P,
        different_P2=near.pairs_P2,
        different_distance_P=near.values_P,
    )
    return counter.curve(), odd


def same_pairs_by_identity(x_ND: Vectors, code_N: Ints, thresholds_F: Floats) -> tuple[Ints, Ints]:
    """Same pairs of each identity that has any, int64 [I], and how many each threshold accepts, [I, F]."""
    order_N = np.argsort(code_N, kind="stable")
    starts = np.flatnonzero(np.diff(code_N[order_N], prepend=-1))
    n_pairs, accepted = [], []
    for rows in np.split(order_N, starts[1:]):
        if len(rows) < 2:
            continue
        count, below_F = 0, np.zeros(len(thresholds_F), dtype=np.int64)
        for block in _blocks(x_ND[rows], code_N[rows]):
            count += len(block.distance_M)
            below_F += (block.distance_M[:, None] < thresholds_F).sum(axis=0)
        n_pairs.append(count)
        accepted.append(below_F)
    return np.array(n_pairs, dtype=np.int64), np.array(accepted, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """Distances of the pairs of rows from ``first`` with rows from ``second`` on, and which are the same."""

    distance_M: NDArray[np.float32]
    same_M: NDArray[np.bool_]
    first: int
    second: int
    width: int

    def pairs(self, at: Ints) -> Ints:
        """The rows of some of its pairs, [P, 2]."""
        if self.first == self.second:
            left, right = np.triu_indices(self.width, 1)
            return np.column_stack([left[at], right[at]]) + self.first
        return np.column_stack([at // self.width + self.first, at % self.width + self.second])


class _Smallest:
    """The smallest values of all blocks, ascending, ties by rows; most blocks have none of them."""

    def __init__(self) -> None:
        self.values_P = np.zeros(0, dtype=np.float32)
        self.pairs_P2: Ints = np.zeros((0, 2), dtype=np.int64)

    def add(self, values_M: NDArray[np.float32], wanted_M: NDArray[np.bool_], block: _Block) -> None:
        """Looks through the wanted values of a block."""
        if len(self.values_P) == _KEPT:
            at = np.flatnonzero((values_M <= self.values_P[-1]) & wanted_M)
        else:
            at = np.flatnonzero(wanted_M)
        if len(at) > _KEPT:
            at = at[values_M[at] <= np.partition(values_M[at], _KEPT - 1)[_KEPT - 1]]
        if not len(at):
            return
        values = np.concatenate([self.values_P, values_M[at]])
        pairs = np.concatenate([self.pairs_P2, block.pairs(at)])
        order = np.lexsort((pairs[:, 1], pairs[:, 0], values))[:_KEPT]
        self.values_P, self.pairs_P2 = values[order], pairs[order]


def _blocks(x_ND: Vectors, code_N: Ints) -> Iterator[_Block]:
    n_rows = len(x_ND)
    for a in range(0, n_rows, _BLOCK_ROWS):
        rows = slice(a, min(a + _BLOCK_ROWS, n_rows))
        for b in range(a, n_rows, _BLOCK_ROWS):
            columns = slice(b, min(b + _BLOCK_ROWS, n_rows))
            distance_BS = np.maximum(2 - 2 * (x_ND[rows] @ x_ND[columns].T), 0)
            same_BS = code_N[rows, None] == code_N[columns]
            distance_M, same_M = distance_BS.ravel(), same_BS.ravel()
            if a == b:
                upper = np.triu_indices(len(distance_BS), 1)
                distance_M, same_M = distance_BS[upper], same_BS[upper]
            yield _Block(
                distance_M=distance_M, same_M=same_M, first=a, second=b, width=columns.stop - columns.start
            )
