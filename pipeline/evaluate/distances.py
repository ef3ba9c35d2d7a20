"""Exact squared L2 distances in float32, where equal vectors are at exactly equal distances.

Ranks are only as exact as ties are. A plain float32 product places two copies of one image at slightly
different distances, and an image's own copy at 1e-7 instead of 0. Legend: N base rows, S of them at once,
B queries, P repeats, D dimensions.

1. Vectors are moved to the mean of the base, in float64, where collapsed embeddings keep their digits.
2. Distances are accumulated in float64 by products, a slice of the base at a time, and rounded once to
   float32.
3. Where cancellation would cost digits (near duplicates) they are computed again from differences: an
   identical vector is at exactly 0.
4. Base rows that repeat an earlier row get a copy of its column.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.metrics import Floats, Ints

_BASE_AT_ONCE = 1 << 12  # base rows multiplied at once: 8 B x 4096 x queries of float64 distances
_PAIRS_AT_ONCE = 1 << 14  # near duplicates computed again at once
_NEAR = 1e-5  # below this share of the norms a float64 product does not give all 24 bits of a float32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DistanceTable:
    """A base that distances are asked of.

    Attributes:
        x_ND: Base vectors, float32.
        mean_D: Their mean, float64; only shifts, so it need not be exact.
        norms_N: Squared norms of the base vectors less their mean.
        repeats_P: Rows equal to an earlier row.
        firsts_P: That earlier row.
    """

    x_ND: NDArray[np.float32]
    mean_D: Floats
    norms_N: Floats
    repeats_P: Ints
    firsts_P: Ints

    @classmethod
    def of(cls, x_ND: NDArray[np.float32]) -> "DistanceTable":
        """Find the repeated rows of a base; takes little memory beside it."""
        n_rows, n_dims = x_ND.shape
        mean_D = x_ND.mean(axis=0, dtype=np.float64) if n_rows else np.zeros(n_dims)
        slices = [x_ND[start : start + _BASE_AT_ONCE] for start in range(0, n_rows, _BASE_AT_ONCE)]
        norms = [((b_SD.astype(np.float64) - mean_D) ** 2).sum(axis=1) for b_SD in slices]
        digests = [_digests(b_SD) for b_SD in slices]
        repeats_P, firsts_P = _repeats(x_ND, np.concatenate([np.zeros(0, dtype=np.uint64), *digests]))
        return cls(
            x_ND=x_ND,
            mean_D=mean_D,
            norms_N=np.concatenate([np.zeros(0), *norms]),
            repeats_P=repeats_P,
            firsts_P=firsts_P,
        )

    def squared_l2(self, xq_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distances [B, N] of queries to all base rows; never negative, -0.0 or NaN for finite vectors."""
        q_BD = xq_BD.astype(np.float64) - self.mean_D
        d2_BN = np.empty((len(xq_BD), len(self.x_ND)), dtype=np.float32)
        for start in range(0, len(self.x_ND), _BASE_AT_ONCE):
            some = slice(start, start + _BASE_AT_ONCE)
            b_SD = self.x_ND[some].astype(np.float64)
            b_SD -= self.mean_D
            d2_BN[:, some] = _squared_l2(q_BD, b_SD, self.norms_N[some])
        d2_BN[:, self.repeats_P] = d2_BN[:, self.firsts_P]
        return d2_BN


def _digests(x_SD: NDArray[np.float32]) -> NDArray[np.uint64]:
    """A number for each row, the same for equal rows; -0.0 equals 0.0."""
    n_dims = x_SD.shape[1]
    odd_D = np.random.default_rng(n_dims).integers(0, 1 << 63, size=n_dims, dtype=np.uint64) * 2 + 1
    words_SD = (x_SD + np.float32(0)).view(np.uint32).astype(np.uint64)
    words_SD ^= words_SD << np.uint64(29)
    digests: NDArray[np.uint64] = (words_SD * odd_D).sum(axis=1, dtype=np.uint64)
    return digests


def _repeats(x_ND: NDArray[np.float32], digest_N: NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """Rows equal to an earlier row, ascending, and the first row that each of them equals."""
    order_N = np.argsort(digest_N, kind="stable")
    same = np.flatnonzero(np.diff(digest_N[order_N]) == 0)
    first_of: dict[bytes, int] = {}
    repeats: dict[int, int] = {}
    for row in np.unique(order_N[np.union1d(same, same + 1)]).tolist():
        vector = (x_ND[row] + np.float32(0)).tobytes()  # equal digests are a reason to look, not a proof
        first = first_of.setdefault(vector, row)
        if first != row:
            repeats[row] = first
    return np.array(list(repeats), dtype=np.int64), np.array(list(repeats.values()), dtype=np.int64)


def _squared_l2(q_BD: Floats, b_SD: Floats, norms_S: Floats) -> Floats:
    norms_BS = (q_BD**2).sum(axis=1)[:, None] + norms_S
    d2_BS: Floats = q_BD @ b_SD.T
    d2_BS *= -2
    d2_BS += norms_BS
    rows, columns = np.nonzero(d2_BS <= _NEAR * norms_BS)
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        i, j = rows[start : start + _PAIRS_AT_ONCE], columns[start : start + _PAIRS_AT_ONCE]
        d2_BS[i, j] = ((q_BD[i] - b_SD[j]) ** 2).sum(axis=1)
    return d2_BS
