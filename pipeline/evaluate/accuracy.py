"""How many pairs does one threshold judge rightly, if it was chosen on other pairs?

Over folds (LFW's View 2): the threshold of each fold is the best one on all the others. From another list
(LFW's View 1): the threshold is the best one on pairs that were made for choosing. Of several best thresholds
the smallest is taken; a pair is accepted where its distance lies below it.

Legend: N pairs, T thresholds.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.evaluate.aggregate import RESAMPLES, bootstrap_interval
from pipeline.evaluate.metrics import Floats, Ints

Thresholds = Literal["facenet", "exact"]
"""Tried: 0, .01, … 3.99, as published reproductions do, or the midpoints of the sorted distances."""

Distances = NDArray[np.float32] | Floats
Same = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldAccuracy:
    """Share of pairs judged rightly, each fold with the threshold that is best on the others.

    ``std`` divides by the number of folds (as published reproductions do), ``sem`` is the standard error of
    the mean (as the FaceNet paper prints). ``numbers`` are those of the folds, from 1.
    """

    mean: float
    std: float
    sem: float
    folds: tuple[float, ...]
    numbers: tuple[int, ...]
    thresholds: tuple[float, ...]
    mode: Thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutAccuracy:
    """Share of pairs judged rightly with the threshold that is best on another list.

    Attributes:
        mean: The share.
        low: Lower bound of its 95 % interval over pairs, at that threshold.
        high: Upper bound.
        threshold: Squared L2 distance below which a pair is accepted.
        mode: Which thresholds were tried.
        n_choosing: Pairs of the other list that chose it.
        n_choosing_missing: Pairs of the other list left out because an image has no vector.
        choosing_mean: Share of those pairs judged rightly; above ``mean`` where the choice flatters.
        n_shared_images: Images that are in pairs of both lists; 0 where nothing leaks.
    """

    mean: float
    low: float
    high: float
    threshold: float
    mode: Thresholds
    n_choosing: int
    n_choosing_missing: int
    choosing_mean: float
    n_shared_images: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ListedPairs:
    """The pairs of a list that have both vectors.

    Attributes:
        kept: Their places in the list.
        distance_N: Squared L2.
        same_N: Whether a pair shows the same.
        images: Ids of all their images.
        n_missing: Pairs of the list without one of the vectors.
        missing_ids: Some of the ids without a vector.
    """

    kept: Ints
    distance_N: NDArray[np.float32]
    same_N: Same
    images: frozenset[str]
    n_missing: int
    missing_ids: tuple[str, ...]


def fold_accuracy(
    distance_N: Distances, same_N: Same, fold_N: Ints, mode: Thresholds = "facenet"
) -> FoldAccuracy:
    """Accuracy of each fold with the first threshold that is best on the other folds.

    Raises:
        UsageError: if there are fewer than two folds.
    """
    folds = np.unique(fold_N)
    if len(folds) < 2:
        raise UsageError(f"accuracy is measured over folds: expected at least 2, got {len(folds)}")
    scores, chosen = [], []
    for fold in folds:
        train, own = fold_N != fold, fold_N == fold
        threshold = best_threshold(distance_N[train], same_N[train], mode)
        chosen.append(threshold)
        scores.append(float(judged_rightly(distance_N[own], same_N[own], threshold).mean()))
    return FoldAccuracy(
        mean=float(np.mean(scores)),
        std=float(np.std(scores)),
        sem=float(np.std(scores, ddof=1) / np.sqrt(len(scores))),
        folds=tuple(scores),
        numbers=tuple((folds + 1).tolist()),
        thresholds=tuple(chosen),
        mode=mode,
    )


def held_out_accuracy(
    judged: ListedPairs,
    choosing: ListedPairs,
    mode: Thresholds = "facenet",
    *,
    seed: int,
    n_resamples: int = RESAMPLES,
) -> HeldOutAccuracy:
    """Accuracy of the judged pairs with the first threshold that is best on the choosing ones."""
    threshold = best_threshold(choosing.distance_N, choosing.same_N, mode)
    right_N = judged_rightly(judged.distance_N, judged.same_N, threshold)
    bounds_21 = bootstrap_interval(right_N[:, None].astype(np.float64), seed=seed, n_resamples=n_resamples)
    low, high = bounds_21[:, 0].tolist()
    return HeldOutAccuracy(
        mean=float(right_N.mean()),
        low=low,
        high=high,
        threshold=threshold,
        mode=mode,
        n_choosing=len(choosing.kept),
        n_choosing_missing=choosing.n_missing,
        choosing_mean=float(judged_rightly(choosing.distance_N, choosing.same_N, threshold).mean()),
        n_shared_images=len(judged.images & choosing.images),
    )


def best_threshold(distance_N: Distances, same_N: Same, mode: Thresholds = "facenet") -> float:
    """The first threshold that judges most of these pairs rightly."""
    distance_N = np.asarray(distance_N, dtype=np.float64)
    candidates_T = np.arange(0, 4, 0.01) if mode == "facenet" else _midpoints(distance_N)
    return float(candidates_T[int(np.argmax(_right_at(candidates_T, distance_N, same_N)))])


def judged_rightly(distance_N: Distances, same_N: Same, threshold: float) -> NDArray[np.bool_]:
    """Which pairs a threshold judges rightly, [N]."""
    rightly_N: NDArray[np.bool_] = (np.asarray(distance_N, dtype=np.float64) < threshold) == same_N
    return rightly_N


def _midpoints(distance_N: Floats) -> Floats:
    unique_T = np.unique(distance_N)
    return (unique_T[:-1] + unique_T[1:]) / 2 if len(unique_T) > 1 else unique_T


def _right_at(candidates_T: Floats, distance_N: Floats, same_N: Same) -> Ints:
    """Pairs judged rightly at each threshold."""
    same_below_T = np.searchsorted(np.sort(distance_N[same_N]), candidates_T, side="left")
    different_below_T = np.searchsorted(np.sort(distance_N[~same_N]), candidates_T, side="left")
    right_T: Ints = same_below_T + int((~same_N).sum()) - different_below_T
    return right_T
