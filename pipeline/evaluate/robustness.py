"""What do vectors of damaged images still find?

One-sided: damaged images ask clean ones, as a user's photograph asks a catalog. Two-sided: damaged images ask
damaged ones, as where a whole catalog carries one watermark; there the rate of false accepts at the clean
threshold says whether different images have moved together.

1. The threshold of clean images at a false accept rate. VAL at the same rate with the threshold chosen anew
   (as the published tables do), and VAL and FAR at the clean threshold (what an operator would see).
2. Success at 1, leave-one-out by label, and its loss to clean images, paired.
3. The cosine of each damaged image to its clean self, and its clean self's place among all images.
Legend: N images, Q queries of them, D dimensions, M pairs, I labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.evaluate.aggregate import RESAMPLES, codes_of, share_interval
from pipeline.evaluate.distances import DistanceTable
from pipeline.evaluate.error_curve import MIN_FALSE_ACCEPTS, how_many_needed
from pipeline.evaluate.metrics import Floats, Ints
from pipeline.evaluate.paired import paired_differences

FAR = 0.001
_BASE_AT_ONCE = 1 << 14
_SAME = 1e-6  # float32 products of one pair of vectors differ by less
_FEW = 199  # sign flips: the difference's interval is shown, its p value is not

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How well some vectors are told apart, over images whose label another image shares.

    Attributes:
        val: Share of same pairs accepted at the rate, the threshold chosen on these very distances.
        val_low: Lower bound of its 95 % interval, by resampled labels at that threshold.
        val_high: Upper bound.
        threshold: Squared L2 distance below which a pair is accepted.
        val_fixed: Share of same pairs accepted at the clean threshold.
        far_fixed: Share of different pairs accepted at the clean threshold.
        success_at_1: Share of images whose nearest other image has their label.
        success_low: Lower bound of its 95 % interval.
        success_high: Upper bound.
        success_change: To the same images clean, among the same others, paired; below 0 is a loss.
        success_change_low: Lower bound of its 95 % interval.
        success_change_high: Upper bound.
    """

    val: float
    val_low: float
    val_high: float
    threshold: float
    val_fixed: float
    far_fixed: float
    success_at_1: float
    success_low: float
    success_high: float
    success_change: float
    success_change_low: float
    success_change_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DamageQuality:
    """What one level of damage does.

    ``cosine_mean`` and ``cosine_low`` (5 % of the images lie below) are to the clean image.
    """

    n_images: int
    cosine_mean: float
    cosine_low: float
    one_sided: Quality
    two_sided: Quality


class CleanImages:
    """The undamaged vectors of the images, which all levels are compared with."""

    def __init__(
        self,
        x_ND: Vectors,
        labels: Sequence[str],
        *,
        far: float = FAR,
        seed: int = 0,
        n_resamples: int = RESAMPLES,
    ) -> None:
        """Takes unit vectors and their labels.

        Raises:
            UsageError: no two images share a label, or different pairs are too few for ``far``.
        """
        self._x_ND, self._labels, self._far = x_ND, list(labels), far
        self._seed, self._n_resamples = seed, n_resamples
        everything = np.arange(len(x_ND))
        if not self.enough(everything):
            n_different = _n_different(codes_of(self._labels))
            raise UsageError(
                f"{len(labels)} images with {len(set(labels))} labels make {n_different:,} different pairs: "
                f"{how_many_needed(far)}, and same pairs besides",
                fix="take a larger --sample or a larger --far",
            )
        judged = _Judged.of(x_ND, x_ND, codes_of(self._labels))
        self._threshold = judged.threshold_at(far)
        self._success_N = judged.success_N

    def enough(self, rows_Q: Ints) -> bool:
        """Whether these images have same pairs, and different ones enough for the false accept rate."""
        code_Q = codes_of([self._labels[row] for row in rows_Q.tolist()])
        allowed = self._far * _n_different(code_Q)
        return bool(np.bincount(code_Q).max(initial=0) > 1 and allowed >= MIN_FALSE_ACCEPTS - 1e-9)

    @property
    def threshold(self) -> float:
        """At the false accept rate, on clean images."""
        return self._threshold

    def quality(self) -> Quality:
        """Of the clean images themselves."""
        return self._quality(self._x_ND, self._x_ND, np.arange(len(self._x_ND)))

    def damaged(self, x_QD: Vectors, rows_Q: Ints) -> DamageQuality:
        """What is left when rows ``rows_Q`` are the vectors ``x_QD`` of damaged images.

        Raises:
            ValueError: too few of them are left (see ``enough``).
        """
        if not self.enough(rows_Q):
            raise ValueError(f"{len(rows_Q)} images are too few for a false accept rate of {self._far:g}")
        clean_QD = self._x_ND[rows_Q]
        cosine_Q = np.einsum("qd,qd->q", x_QD.astype(np.float64), clean_QD)
        return DamageQuality(
            n_images=len(rows_Q),
            cosine_mean=float(cosine_Q.mean()),
            cosine_low=float(np.quantile(cosine_Q, 0.05)),
            one_sided=self._quality(x_QD, clean_QD, rows_Q),
            two_sided=self._quality(x_QD, x_QD, rows_Q),
        )

    def coded(self, x_NE: Vectors) -> Quality:
        """Of other unit vectors of all the images; the clean threshold means nothing to them."""
        return self._quality(x_NE, x_NE, np.arange(len(x_NE)))

    def _quality(self, queries_QD: Vectors, base_QD: Vectors, rows_Q: Ints) -> Quality:
        labels = [self._labels[row] for row in rows_Q.tolist()]
        code_Q = codes_of(labels)
        judged = _Judged.of(queries_QD, base_QD, code_Q)
        threshold = judged.threshold_at(self._far)
        pairs_I = np.bincount(code_Q, weights=judged.n_same_Q)
        several_I = pairs_I > 0
        accepted_I = np.bincount(code_Q, weights=judged.same_below(threshold))
        bounds_21 = share_interval(
            accepted_I[several_I, None], pairs_I[several_I], seed=self._seed, n_resamples=self._n_resamples
        )
        asked = np.flatnonzero(judged.n_same_Q > 0)
        hits_I = np.bincount(code_Q[asked], weights=judged.success_N[asked], minlength=len(pairs_I))
        count_I = np.bincount(code_Q[asked], minlength=len(pairs_I))
        success_21 = share_interval(
            hits_I[several_I, None], count_I[several_I], seed=self._seed, n_resamples=self._n_resamples
        )
        change = paired_differences(
            {"": self._clean_success(code_Q, rows_Q)[asked]},
            {"": judged.success_N[asked]},
            [labels[row] for row in asked.tolist()],
            seed=self._seed,
            n_resamples=self._n_resamples,
            n_permutations=_FEW,
        )[""]
        return Quality(
            val=float(accepted_I.sum() / pairs_I.sum()),
            val_low=float(bounds_21[0, 0]),
            val_high=float(bounds_21[1, 0]),
            threshold=threshold,
            val_fixed=float(judged.same_below(self._threshold).sum() / pairs_I.sum()),
            far_fixed=float((judged.different_M < self._threshold).mean()),
            success_at_1=float(judged.success_N[asked].mean()),
            success_low=float(success_21[0, 0]),
            success_high=float(success_21[1, 0]),
            success_change=change.difference,
            success_change_low=change.low,
            success_change_high=change.high,
        )

    def _clean_success(self, code_Q: Ints, rows_Q: Ints) -> Floats:
        """Success at 1 of the clean images among these alone: with others gone, even they find less."""
        if len(rows_Q) == len(self._x_ND):
            return self._success_N
        clean_QD = self._x_ND[rows_Q]
        return _Judged.of(clean_QD, clean_QD, code_Q).success_N


def own_places(x_QD: Vectors, base_ND: Vectors, own_Q: Ints) -> Ints:
    """Where row ``own_Q`` of the base stands for each query by distance, from 1; a copy is not before it.

    Args:
        x_QD: Unit vectors of damaged images.
        base_ND: Unit vectors of all clean images.
        own_Q: The row that each was made from.
    """
    nearest_Q = np.einsum("qd,qd->q", x_QD, base_ND[own_Q])[:, None] + np.float32(_SAME)
    places_Q = np.ones(len(x_QD), dtype=np.int64)
    for start in range(0, len(base_ND), _BASE_AT_ONCE):
        places_Q += (x_QD @ base_ND[start : start + _BASE_AT_ONCE].T > nearest_Q).sum(axis=1)
    return places_Q


def _n_different(code_N: Ints) -> int:
    """Pairs of images with different labels."""
    return (len(code_N) ** 2 - int((np.bincount(code_N) ** 2).sum())) // 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Judged:
    """Distances of queries to all other images of a base; a query's own image is left out."""

    n_same_Q: Ints
    same_M: NDArray[np.float32]
    same_query_M: Ints
    different_M: NDArray[np.float32]
    success_N: Floats
    """1 where the nearest other image has the query's label, ties to the smallest row."""

    @classmethod
    def of(cls, queries_QD: Vectors, base_QD: Vectors, code_Q: Ints) -> "_Judged":
        d2_QQ = DistanceTable.of(base_QD).squared_l2(queries_QD)
        same_QQ = code_Q[:, None] == code_Q
        np.fill_diagonal(same_QQ, val=False)
        different_QQ = code_Q[:, None] != code_Q
        nearest_QQ = d2_QQ.copy()
        np.fill_diagonal(nearest_QQ, np.inf)
        nearest_Q = nearest_QQ.argmin(axis=1)
        success_Q = (code_Q[nearest_Q] == code_Q).astype(np.float64)
        return cls(
            n_same_Q=same_QQ.sum(axis=1, dtype=np.int64),
            same_M=d2_QQ[same_QQ],
            same_query_M=np.nonzero(same_QQ)[0],
            different_M=d2_QQ[different_QQ],
            success_N=success_Q,
        )

    def threshold_at(self, far: float) -> float:
        """The largest threshold that accepts at most the share ``far`` of different pairs."""
        allowed = int(np.floor(far * len(self.different_M) + 1e-9))
        if allowed >= len(self.different_M):
            return float("inf")
        return float(np.partition(self.different_M, allowed)[allowed])

    def same_below(self, threshold: float) -> Floats:
        """Accepted same pairs of each query."""
        accepted_M = (self.same_M < threshold).astype(np.float64)
        below_Q: Floats = np.bincount(
            self.same_query_M, weights=accepted_M, minlength=len(self.n_same_Q)
        ).astype(np.float64)
        return below_Q
