"""k-reciprocal encoding: two images are alike if the same images count both among their nearest.

Zhong et al., arXiv 1701.08398. Over a set X with the query in it, D squared L2, each row divided by its own
maximum, ranks with the image itself first:

1. R(i, k) = the j among the first k + 1 of i that have i among their own first k + 1.
2. R*(i) = R(i, k1) and every R(c, k1 / 2), c in R(i, k1), of which more than two thirds are in R(i, k1).
3. V_i = exp(-D(i, j)) for j in R*(i), divided by its sum; then the mean of V over the first k2 of i.
4. Jaccard distance J = 1 - m / (2 - m), m = sum over j of min(V_q, V_g); the new distance is
   (1 - weight) J + weight D. Weight 1 keeps the order by distance.

``ReciprocalCode`` is exact: X is the whole base, which has to be in memory and small. ``LocalReciprocal``
takes for X the query and its first W candidates: what lies beyond them has no say, so its numbers are
others, and it works on a base of any size. Half of k1 is rounded as numpy does (5 / 2 is 2), as the
authors' code does.

Legend: X images of the set, Q queries, W candidates of the window, L list length, P pairs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from pipeline.errors import UsageError
from pipeline.rerank.base import NOBODY, Base, Rows, Vectors, reordered, vectors_of
from pipeline.rerank.expansion import check_at_least, padded

_AT_ONCE = 1 << 22  # float32 distances held at once: 16 MiB

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalReciprocal:
    """k-reciprocal re-ranking of the first ``window`` candidates by one another."""

    k1: int = 20
    k2: int = 6
    weight: float = 0.3
    window: int = 100

    def __post_init__(self) -> None:
        check_at_least("k1", self.k1, 1)
        check_at_least("k2", self.k2, 1)
        check_at_least("window", self.window, 1)
        if not 0 <= self.weight <= 1:
            raise UsageError(f"weight must be between 0 and 1, got {self.weight:g}")

    def rank(self, base: Base, xq_QD: Vectors, k: int, own_Q: Rows | None = None) -> Rows:
        """The candidates by their new distances."""
        row_QK = base.nearest(xq_QD, max(k, self.window), own_Q).row_QK
        row_QW = row_QK[:, : self.window]
        worth_QW = np.empty(row_QW.shape)
        side = 1 + row_QW.shape[1]
        step = max(1, _AT_ONCE // (side * max(side, xq_QD.shape[1])))
        for start in range(0, len(xq_QD), step):
            some = slice(start, start + step)
            x_QXD = np.concatenate([xq_QD[some, None], vectors_of(base, row_QW[some])], axis=1)
            worth_QW[some] = -self.distances(x_QXD, row_QW[some] != NOBODY)
        return padded(reordered(row_QK, worth_QW), k)[:, :k]

    def distances(self, x_QXD: Vectors, present_QW: npt.NDArray[np.bool_]) -> Floats:
        """New distances [Q, W] of the first of each set to the others; no meaning where nobody is present."""
        n_queries, side, _ = x_QXD.shape
        gone_QX = np.pad(~present_QW, ((0, 0), (1, 0)))
        distance_QXX = _squared_l2(x_QXD, x_QXD)
        distance_QXX[np.broadcast_to(gone_QX[:, None, :], distance_QXX.shape)] = np.inf
        n_first = min(side, max(self.k1 + 1, self.k2))
        first_QXL = _first(distance_QXX, np.arange(side), n_first)
        longest_QX = np.where(np.isfinite(distance_QXX), distance_QXX, 0).max(axis=2)
        start_Q11 = (np.arange(n_queries) * side)[:, None, None]
        flat_XD = x_QXD.reshape(n_queries * side, -1)
        code = _encode(
            flat_XD,
            (first_QXL + start_Q11).reshape(-1, n_first),
            longest_QX.ravel(),
            gone_QX.ravel(),
            self.k1,
            self.k2,
        )
        query_P = np.repeat(np.arange(n_queries) * side, side - 1)
        other_P = (np.arange(n_queries)[:, None] * side + np.arange(1, side)).ravel()
        shared_P = np.asarray(code[query_P].minimum(code[other_P]).sum(axis=1)).ravel()
        return _blended(
            shared_P.reshape(n_queries, -1),
            np.where(present_QW, distance_QXX[:, 0, 1:], 0),
            longest_QX[:, :1],
            self.weight,
        )


class ReciprocalCode:
    """Exact k-reciprocal encoding of a whole set; its distances are streamed, its lists are kept."""

    def __init__(self, x_XD: Vectors, *, k1: int = 20, k2: int = 6, weight: float = 0.3) -> None:
        """``x_XD``: unit vectors of all images and queries."""
        settings = LocalReciprocal(k1=k1, k2=k2, weight=weight)
        self._x_XD, self._weight = x_XD, settings.weight
        n_first = min(len(x_XD), max(k1 + 1, k2))
        first_XL = np.empty((len(x_XD), n_first), dtype=np.int64)
        self._longest_X = np.empty(len(x_XD))
        step = max(1, _AT_ONCE // max(1, len(x_XD)))
        for start in range(0, len(x_XD), step):
            some = slice(start, start + step)
            distance_BX = _squared_l2(x_XD[None, some], x_XD[None])
            own_B = np.arange(len(x_XD))[some]
            first_XL[some] = _first(distance_BX, own_B, n_first)[0]
            self._longest_X[some] = distance_BX[0].max(axis=1)
        gone_X = np.zeros(len(x_XD), dtype=np.bool_)
        self._code = _encode(x_XD, first_XL, self._longest_X, gone_X, k1, k2)
        self._by_column = self._code.tocsc()

    def distances(self, row_Q: Rows) -> Floats:
        """New distances [Q, X] of some rows of the set to all of it."""
        shared_QX = np.stack([self._shared(row) for row in row_Q.tolist()])
        distance_QX = _squared_l2(self._x_XD[None, row_Q], self._x_XD[None])[0]
        return _blended(shared_QX, distance_QX, self._longest_X[row_Q, None], self._weight)

    def _shared(self, row: int) -> Floats:
        """Sum over all columns of the smaller of this row's and each row's value; float64 [X]."""
        own = slice(*self._code.indptr[row : row + 2].tolist())
        theirs = self._by_column[:, self._code.indices[own]]
        least_P = np.minimum(theirs.data, np.repeat(self._code.data[own], np.diff(theirs.indptr)))
        shared_X = np.bincount(theirs.indices, weights=least_P, minlength=len(self._x_XD))
        return shared_X.astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExactReciprocal:
    """Exact re-ranking of queries that are rows of the base; ``code`` is of the base's vectors."""

    code: ReciprocalCode

    def rank(self, base: Base, xq_QD: Vectors, k: int, own_Q: Rows | None = None) -> Rows:  # noqa: ARG002
        """All images by their new distances, ties by row."""
        if own_Q is None or (own_Q == NOBODY).any():
            raise ValueError("exact k-reciprocal encoding knows the images of its set only: pass own_Q")
        distance_QX = self.code.distances(own_Q)
        distance_QX[np.arange(len(own_Q)), own_Q] = np.inf
        order_QX = np.argsort(distance_QX, axis=1, kind="stable")[:, : min(k, distance_QX.shape[1] - 1)]
        return padded(order_QX.astype(np.int64), k)


def _encode(
    x_XD: Vectors, first_XL: Rows, longest_X: Floats, gone_X: npt.NDArray[np.bool_], k1: int, k2: int
) -> Any:
    """V of every image as a sparse matrix [X, X] whose rows sum to 1; nothing where nobody is."""
    near = _mutual(first_XL[:, : k1 + 1], gone_X)
    half = _mutual(first_XL[:, : int(np.around(k1 / 2)) + 1], gone_X)
    size_X = np.asarray(half.sum(axis=1)).ravel()
    shared = (near @ half.T).multiply(near).tocoo()
    joins = shared.data > 2 / 3 * size_X[shared.col]
    joined = sparse.csr_array((np.ones(joins.sum()), (shared.row[joins], shared.col[joins])), near.shape)
    pairs = (near + joined @ half).tocoo()
    distance_P = _pair_distances(x_XD, pairs.row, pairs.col)
    weight_P = np.exp(-distance_P / np.where(longest_X > 0, longest_X, 1)[pairs.row])
    weight_P /= np.bincount(pairs.row, weights=weight_P, minlength=len(x_XD))[pairs.row]
    code = sparse.csr_array((weight_P, (pairs.row, pairs.col)), near.shape)
    if k2 > 1:
        lists = _lists(first_XL[:, :k2], gone_X)
        n_listed_X = np.asarray(lists.sum(axis=1)).ravel()  # fewer than k2 where a set has fewer
        code = sparse.diags_array(1 / np.maximum(n_listed_X, 1)) @ (lists @ code)
    return code.tocsr()


def _lists(first_XL: Rows, gone_X: npt.NDArray[np.bool_]) -> Any:
    """1 where the column is in the row's list; rows and columns of nobody are empty."""
    row_P, column_P = np.repeat(np.arange(len(first_XL)), first_XL.shape[1]), first_XL.ravel()
    there_P = ~(gone_X[row_P] | gone_X[column_P])
    return sparse.csr_array(
        (np.ones(there_P.sum()), (row_P[there_P], column_P[there_P])), (len(first_XL), len(first_XL))
    )


def _mutual(first_XL: Rows, gone_X: npt.NDArray[np.bool_]) -> Any:
    lists = _lists(first_XL, gone_X)
    return lists.multiply(lists.T).tocsr()


def _first(distance_BRX: npt.NDArray[np.float32], own_R: Rows, n: int) -> Rows:
    """The ``n`` nearest of each row, itself first, ties by place; int64 [B, R, n]."""
    distance_BRX = distance_BRX.copy()
    distance_BRX[:, np.arange(len(own_R)), own_R] = -1
    bound_BR1 = np.partition(distance_BRX, n - 1, axis=2)[:, :, n - 1, None]
    tied = (distance_BRX == bound_BR1).sum(axis=2) > 1
    first_BRL = np.argpartition(distance_BRX, n - 1, axis=2)[:, :, :n]
    first_BRL.sort(axis=2)
    order = np.argsort(np.take_along_axis(distance_BRX, first_BRL, axis=2), axis=2, kind="stable")
    first_BRL = np.take_along_axis(first_BRL, order, axis=2)
    if tied.any():
        first_BRL[tied] = np.argsort(distance_BRX[tied], axis=1, kind="stable")[:, :n]
    return first_BRL.astype(np.int64)


def _squared_l2(x_BRD: Vectors, y_BXD: Vectors) -> npt.NDArray[np.float32]:
    """Squared L2 distances of unit vectors, float32 [B, R, X]; never negative."""
    distance_BRX: npt.NDArray[np.float32] = 2 - 2 * np.matmul(x_BRD, y_BXD.transpose(0, 2, 1))
    return np.maximum(distance_BRX, 0)


def _pair_distances(x_XD: Vectors, left_P: Rows, right_P: Rows) -> Floats:
    distance_P = np.empty(len(left_P))
    step = max(1, _AT_ONCE // max(1, x_XD.shape[1]))
    for start in range(0, len(left_P), step):
        some = slice(start, start + step)
        product_P = np.einsum("pd,pd->p", x_XD[left_P[some]], x_XD[right_P[some]])
        distance_P[some] = np.maximum(2 - 2 * product_P, 0)
    return distance_P


def _blended(shared: Floats, distance: npt.NDArray[np.float32], longest: Floats, weight: float) -> Floats:
    jaccard = 1 - shared / (2 - shared)
    near = distance / np.where(longest > 0, longest, 1)
    blended: Floats = (1 - weight) * jaccard + weight * near
    return blended
