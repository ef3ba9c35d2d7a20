"""The uncertainty of a mean over queries: a seeded two-sided 95 % bootstrap interval.

A sample in which nothing was missed would give the interval [1, 1]. But n queries without a miss are also
what a system that misses now and then shows with luck, so the lower bound is never above .025 ** (1 / n), the
recall at which n perfect queries have a chance of 2.5 %.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.index.arrays import FloatArray

RESAMPLES = 1_000
TAIL = 0.025
DIGITS = 6
"""Figures are rounded so that the order of a sum, which BLAS chooses, cannot show in a manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean over queries with its two-sided 95 % interval."""

    mean: float
    low: float
    high: float


class Bootstrap:
    """Resamples of n queries, drawn once, so that every mean of the same queries is judged alike.

    With the same resamples the lower bound never falls when every query's value rises.
    """

    def __init__(self, n: int, seed: int) -> None:
        """``n`` queries; the same seed draws the same resamples."""
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) if n else None
        self.ceiling = round(TAIL ** (1 / n), DIGITS) if n else 0.0
        self._weights_RQ: FloatArray = np.zeros((RESAMPLES, 0)) if drawn is None else drawn / n

    def interval(self, value_Q: FloatArray) -> Interval:
        """Mean and interval of one value in [0, 1] per query."""
        if len(value_Q) == 0:
            return Interval(mean=0.0, low=0.0, high=0.0)
        mean_R = self._weights_RQ @ value_Q
        tails = np.quantile(mean_R, [TAIL, 1 - TAIL])
        mean, low, high = (round(float(value), DIGITS) for value in (value_Q.mean(), *tails))
        return Interval(mean=mean, low=min(low, self.ceiling, mean), high=max(high, mean))


def queries_needed(target: float) -> int:
    """The fewest queries whose lower bound can reach ``target``.

    >>> queries_needed(0.99)
    368
    """
    return math.ceil(math.log(TAIL) / math.log(target)) if 0 < target < 1 else 1
