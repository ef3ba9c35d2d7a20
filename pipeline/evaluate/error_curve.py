"""How often two images are rightly and wrongly taken for the same, at every threshold of their distance.

Legend: T thresholds, R resamples. D is the squared L2 distance; a pair is accepted where D < t, strictly (the
FaceNet paper writes D <= d; with float distances it is the same but for exact ties).

VAL(t) is the share of same pairs accepted, FAR(t) the share of different pairs (FaceNet, section 4). A curve
holds the counts at thresholds: exact ones of a list of pairs, or bin edges where pairs are too many to keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.evaluate.aggregate import RESAMPLES, interval_bounds
from pipeline.evaluate.metrics import Floats, Ints

MIN_FALSE_ACCEPTS = 10
"""VAL at a false accept rate is shown only if that rate allows at least so many accepted different pairs."""
FARTHEST = 4.0
BINS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ErrorCurve:
    """Accepted pairs at each threshold.

    Attributes:
        thresholds_T: Ascending; the last is infinite, where every pair is accepted.
        same_below_T: Same pairs with D < t.
        different_below_T: Different pairs with D < t.
        resolution: How far a threshold may lie below the best one; 0 for exact distances.
    """

    thresholds_T: Floats
    same_below_T: Ints
    different_below_T: Ints
    resolution: float

    @property
    def n_same(self) -> int:
        """All pairs that are the same."""
        return int(self.same_below_T[-1])

    @property
    def n_different(self) -> int:
        """All pairs that are different."""
        return int(self.different_below_T[-1])

    def val(self) -> Floats:
        """Share of same pairs accepted at each threshold, [T]."""
        return self.same_below_T / self.n_same

    def far(self) -> Floats:
        """Share of different pairs accepted at each threshold, [T]."""
        return self.different_below_T / self.n_different

    def auc(self) -> float:
        """Chance that a same pair is nearer than a different one; ties count one half."""
        return float(np.trapezoid(np.append(0.0, self.val()), np.append(0.0, self.far())))

    def place_at_eer(self) -> int:
        """Index of the first threshold with as many false accepts as false rejects, in shares, or more."""
        return int(np.argmax(self.far() - (1.0 - self.val()) >= 0))

    def eer(self) -> float:
        """The error rate where false accepts equal false rejects, linear between two thresholds."""
        far_T = self.far()
        gap_T = far_T - (1.0 - self.val())
        at = self.place_at_eer()
        if at == 0 or gap_T[at] == 0:
            return float(far_T[at])
        share = -gap_T[at - 1] / (gap_T[at] - gap_T[at - 1])
        return float(far_T[at - 1] + share * (far_T[at] - far_T[at - 1]))

    def place_at_far(self, far: float) -> int:
        """Index of the largest threshold that accepts at most floor(far * different pairs)."""
        allowed = int(np.floor(far * self.n_different + 1e-9))
        return int(np.searchsorted(self.different_below_T, allowed, side="right")) - 1

    def enough_different(self, far: float) -> bool:
        """Whether ``far`` allows at least ``MIN_FALSE_ACCEPTS`` accepted different pairs."""
        return far * self.n_different >= MIN_FALSE_ACCEPTS - 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class ValAtFar:
    """VAL at a false accept rate.

    Attributes:
        val: Share of same pairs accepted; None where there are too few different pairs to say.
        low: Lower bound of its 95 % interval.
        high: Upper bound.
        threshold: Squared L2 distance below which a pair is accepted.
        n_false_accepts: Different pairs accepted at that threshold.
        reason: Why there is no value; empty otherwise.
    """

    val: float | None
    low: float | None
    high: float | None
    threshold: float | None
    n_false_accepts: int | None
    reason: str = ""


def bounded(val: ValAtFar) -> ValAtFar:
    """The same with no threshold where it is infinite: JSON has no such number."""
    return replace(val, threshold=None) if val.threshold == np.inf else val


def curve_of_pairs(distance_N: NDArray[np.float32], same_N: NDArray[np.bool_]) -> ErrorCurve:
    """The exact curve of a list of pairs.

    Raises:
        UsageError: if there are not both same and different pairs, or a distance is not finite.
    """
    _check(int(same_N.sum()), int((~same_N).sum()))
    if not np.isfinite(distance_N).all():
        bad = int(np.flatnonzero(~np.isfinite(distance_N))[0])
        raise UsageError(f"the distance of pair {bad} is {distance_N[bad]}: an embedding is not finite")
    thresholds_T: Floats = np.append(np.unique(distance_N), np.inf).astype(np.float64)
    return ErrorCurve(
        thresholds_T=thresholds_T,
        same_below_T=np.searchsorted(np.sort(distance_N[same_N]), thresholds_T, side="left"),
        different_below_T=np.searchsorted(np.sort(distance_N[~same_N]), thresholds_T, side="left"),
        resolution=0.0,
    )


class PairCounter:
    """Counts pairs by distance, block by block, in memory that does not grow with them."""

    def __init__(self) -> None:
        self._same_B = np.zeros(BINS, dtype=np.int64)
        self._different_B = np.zeros(BINS, dtype=np.int64)

    def add(self, distance_M: NDArray[np.float32], same_M: NDArray[np.bool_]) -> None:
        """Counts squared distances of unit vectors, in [0, 4] but for rounding."""
        bin_M = np.clip((distance_M * (BINS / FARTHEST)).astype(np.int64), 0, BINS - 1)
        self._same_B += np.bincount(bin_M[same_M], minlength=BINS)
        self._different_B += np.bincount(bin_M[~same_M], minlength=BINS)

    def curve(self) -> ErrorCurve:
        """The curve at the bin edges: no threshold is off by more than ``resolution``.

        Raises:
            UsageError: if there are not both same and different pairs.
        """
        _check(int(self._same_B.sum()), int(self._different_B.sum()))
        edges_T: Floats = np.arange(BINS + 1, dtype=np.float64) * (FARTHEST / BINS)
        edges_T[-1] = np.inf
        return ErrorCurve(
            thresholds_T=edges_T,
            same_below_T=np.concatenate([[0], np.cumsum(self._same_B)]),
            different_below_T=np.concatenate([[0], np.cumsum(self._different_B)]),
            resolution=FARTHEST / BINS,
        )


def val_at_far(
    curve: ErrorCurve,
    fars: Sequence[float],
    *,
    seed: int,
    n_resamples: int = RESAMPLES,
    few_different: bool = False,
) -> dict[float, ValAtFar]:
    """VAL at each false accept rate, with a bootstrap interval over pairs, threshold chosen anew each time.

    Same and different pairs are resampled apart, so both numbers stay. Pairs that share an image are not
    independent: where a list has many of them the interval is too narrow (``verification`` resamples
    identities for all-pairs counts).

    Args:
        curve: Exact, of a list of pairs.
        fars: False accept rates.
        seed: Of the bootstrap.
        n_resamples: Of the bootstrap.
        few_different: Give a value also where fewer than ``MIN_FALSE_ACCEPTS`` false accepts decide it.
    """
    generator = np.random.default_rng(seed)
    wanted = [far for far in fars if few_different or curve.enough_different(far)]
    vals_RF = np.empty((n_resamples, len(wanted)))
    same_T, different_T = np.diff(curve.same_below_T, prepend=0), np.diff(curve.different_below_T, prepend=0)
    for number in range(n_resamples):
        drawn = ErrorCurve(
            thresholds_T=curve.thresholds_T,
            same_below_T=np.cumsum(generator.multinomial(curve.n_same, same_T / curve.n_same)),
            different_below_T=np.cumsum(
                generator.multinomial(curve.n_different, different_T / curve.n_different)
            ),
            resolution=curve.resolution,
        )
        vals_RF[number] = [drawn.val()[drawn.place_at_far(far)] for far in wanted]
    places = [curve.place_at_far(far) for far in wanted]
    bounds_2F = interval_bounds(vals_RF, curve.val()[places], curve.n_same)
    shown = {
        far: val_there(curve, place, low, high)
        for far, place, low, high in zip(wanted, places, *bounds_2F.tolist(), strict=True)
    }
    return {far: shown.get(far) or too_few_different(curve, far) for far in fars}


def val_there(curve: ErrorCurve, place: int, low: float, high: float) -> ValAtFar:
    """VAL at the threshold with index ``place``, with an interval found elsewhere."""
    return ValAtFar(
        val=float(curve.val()[place]),
        low=low,
        high=high,
        threshold=float(curve.thresholds_T[place]),
        n_false_accepts=int(curve.different_below_T[place]),
    )


def too_few_different(curve: ErrorCurve, far: float) -> ValAtFar:
    """The answer where the different pairs are too few for ``far``."""
    return ValAtFar(
        val=None,
        low=None,
        high=None,
        threshold=None,
        n_false_accepts=None,
        reason=f"{curve.n_different:,} different pairs are too few: {how_many_needed(far)}",
    )


def how_many_needed(rate: float) -> str:
    """Of how many different pairs or strangers a rate can be said anything, in words."""
    if rate == 0:
        return f"a rate of 0 never allows the {MIN_FALSE_ACCEPTS} false ones that a figure needs"
    needed = int(np.ceil(MIN_FALSE_ACCEPTS / rate))
    return f"at least {needed:,} are needed to say anything of a rate of {rate:g}"


def _check(n_same: int, n_different: int) -> None:
    if not n_same or not n_different:
        raise UsageError(
            f"verification needs same and different pairs, got {n_same} and {n_different} of them",
            fix="choose a label that several images share, and at least two labels",
        )
