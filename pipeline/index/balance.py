"""Whether an encoder suits its rows: balance of bits and lists, spread of the rows, drift of their mean."""

from dataclasses import dataclass

import numpy as np

from pipeline.index.arrays import ByteArray, FloatArray, IntArray, VectorArray

_BLOCK_ROWS = 8_192
MAX_MEAN_SHIFT = 0.1
MAX_BIT_IMBALANCE = 0.05
MAX_LIST_IMBALANCE = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far the rows of an index have moved from those its encoder was fitted on."""

    mean_shift: float
    """Length of the difference of the two means, in units of the fit rows' distance from their mean (rms)."""
    bit_imbalance: float
    """Mean over bits of |share of ones - 1/2|."""
    list_imbalance: float
    """Rows in the list of a random row against lists of equal length; 1 in flat form."""

    @property
    def advice(self) -> str:
        """In words, why a refit is advised; empty where it is not."""
        limits = (
            ("the mean of the rows moved by", self.mean_shift, MAX_MEAN_SHIFT),
            ("the bits are out of balance by", self.bit_imbalance, MAX_BIT_IMBALANCE),
            ("the lists are out of balance by", self.list_imbalance, MAX_LIST_IMBALANCE),
        )
        past = [f"{what} {value:.3f} (limit {limit})" for what, value, limit in limits if value > limit]
        return "; ".join(past)


def count_ones(codes_NW: ByteArray) -> IntArray:
    """How many codes have each bit set, int64 [B]; adds over blocks and index shards."""
    ones_B = np.zeros(codes_NW.shape[1] * 8, dtype=np.int64)
    for start in range(0, len(codes_NW), _BLOCK_ROWS):
        bits_NB = np.unpackbits(codes_NW[start : start + _BLOCK_ROWS], axis=1, bitorder="little")
        ones_B += bits_NB.sum(axis=0, dtype=np.int64)
    return ones_B


def bit_balance(ones_B: IntArray, n: int) -> float:
    """Mean over bits of |share of ones - 1/2|: 0 is perfect, .5 means that no bit says anything."""
    return float(np.mean(np.abs(ones_B / n - 0.5))) if n else 0.0


def mean_shift(sum_D: FloatArray, n: int, fit_mean_D: FloatArray) -> float:
    """How far the mean of ``n`` unit rows that add up to ``sum_D`` is from the mean of the fit rows.

    In units of the root mean square distance of unit rows from the fit mean, sqrt(1 - |mean|**2).
    """
    spread = max(1.0 - float(fit_mean_D @ fit_mean_D), 1e-6) ** 0.5
    return float(np.linalg.norm(sum_D / n - fit_mean_D)) / spread if n else 0.0


def effective_dimension(x_ND: VectorArray) -> float:
    """Participation ratio of the covariance spectrum: how many dimensions the rows really fill, 1 to d.

    (sum of eigenvalues)**2 / sum of their squares, without an eigenvalue; 0 where all rows are equal.
    """
    if len(x_ND) == 0:
        return 0.0
    centred_ND = x_ND.astype(np.float64) - x_ND.mean(axis=0, dtype=np.float64)
    covariance_DD = centred_ND.T @ centred_ND / len(x_ND)
    total, squares = float(np.trace(covariance_DD)), float(np.sum(covariance_DD**2))
    return total**2 / squares if total > 1e-12 else 0.0
