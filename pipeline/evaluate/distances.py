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
        """Find the repeated rows of a base."""
        rows_ND = np.ascontiguousarray(x_ND + np.float32(0))  # -0.0 becomes 0.0: equal vectors, equal bytes
        n_rows, n_dims = rows_ND.shape
        as_bytes_N = rows_ND.view(np.dtype((np.void, rows_ND.itemsize * n_dims))).reshape(n_rows)
        _, first_U, which_N = np.unique(as_bytes_N, return_index=True, return_inverse=True)
        first_N = first_U[which_N]
        repeats_P = np.flatnonzero(first_N != np.arange(n_rows))
        mean_D = rows_ND.mean(axis=0, dtype=np.float64) if n_rows else np.zeros(n_dims)
        slices = [rows_ND[start : start + _BASE_AT_ONCE] for start in range(0, n_rows, _BASE_AT_ONCE)]
        norms = [((b_SD.astype(np.float64) - mean_D) ** 2).sum(axis=1) for b_SD in slices]
        return cls(
            x_ND=rows_ND,
            mean_D=mean_D,
            norms_N=np.concatenate([np.zeros(0), *norms]),
            repeats_P=repeats_P,
            firsts_P=first_N[repeats_P],
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
