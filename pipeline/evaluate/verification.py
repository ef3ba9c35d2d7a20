"""Are these two images the same? Judges vectors by pairs, from a list or by all pairs of labelled images.

1. Distances of the pairs, squared L2.
2. Accuracy with thresholds that other pairs chose: the other folds, or a list of their own (``accuracy``).
3. The error curve of all pairs: AUC, EER, VAL at false accept rates, with intervals.
4. The wrongly classified pairs that are worth looking at.

Legend: N pairs, M pairs of one block, T thresholds, I identities, D dimensions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.evaluate.accuracy import ListedPairs, Thresholds, fold_accuracy, held_out_accuracy
from pipeline.evaluate.aggregate import RESAMPLES, codes_of, share_interval
from pipeline.evaluate.all_pairs import OddPairs, Vectors, curve_and_odd_pairs, same_pairs_by_identity
from pipeline.evaluate.error_curve import (
    ErrorCurve,
    ValAtFar,
    curve_of_pairs,
    too_few_different,
    val_at_far,
    val_there,
)
from pipeline.evaluate.metrics import Floats, Ints
from pipeline.evaluate.pairs_file import PairList
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.evaluate.verification_report import VerificationReport, WrongPair

FARS = (0.1, 0.01, 0.001, 0.0001)
_SHOWN = 12
_CURVE_POINTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How pairs are judged."""

    fars: Sequence[float] = FARS
    thresholds: Thresholds = "facenet"
    few_different: bool = False
    mean_of_frames: bool = False
    """The vectors are means of unit vectors: videos."""
    seed: int = 0
    n_resamples: int = RESAMPLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is judged, for the record: nothing here changes a figure."""

    model_id: str
    snapshot: int | None = None
    digest: str = ""
    software: Mapping[str, str] = field(default_factory=dict)


def verify_pairs(
    pairs: PairList,
    ids: Sequence[str],
    x_ND: Vectors,
    subject: Subject,
    options: Options | None = None,
    *,
    chosen_on: PairList | None = None,
) -> VerificationReport:
    """Judges a list of pairs by the LFW protocol.

    Args:
        pairs: The list; pairs of which an image has no vector are left out and counted.
        ids: Image ids.
        x_ND: Their unit vectors.
        subject: What is judged.
        options: Rates, thresholds, seed.
        chosen_on: Pairs that choose the threshold (View 1); the other folds do if absent (View 2).

    Raises:
        UsageError: if no pair of a list has both vectors, those that have are of one fold, or a vector is not
            finite.
    """
    options = options or Options()
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    judged = _distances(pairs, row_of, x_ND, options)
    distance_N, same_N, kept = judged.distance_N, judged.same_N, judged.kept
    curve = curve_of_pairs(distance_N, same_N)
    accuracy, held_out = None, None
    if chosen_on is None:
        fold_N = pairs.fold_N[kept]
        accuracy = fold_accuracy(distance_N, same_N, fold_N, options.thresholds)
        threshold_N = np.array(accuracy.thresholds)[np.unique(fold_N, return_inverse=True)[1]]
    else:
        choosing = _distances(chosen_on, row_of, x_ND, options)
        curve_of_pairs(choosing.distance_N, choosing.same_N)  # of both kinds, and finite
        held_out = held_out_accuracy(
            judged, choosing, options.thresholds, seed=options.seed, n_resamples=options.n_resamples
        )
        threshold_N = np.full(len(kept), held_out.threshold)
    return VerificationReport(
        n_pairs=len(kept),
        n_same=curve.n_same,
        n_different=curve.n_different,
        n_missing=judged.n_missing,
        missing_ids=judged.missing_ids,
        missing_folds=tuple((np.setdiff1d(pairs.fold_N, pairs.fold_N[kept]) + 1).tolist()),
        accuracy=accuracy,
        held_out=held_out,
        auc=curve.auc(),
        eer=curve.eer(),
        val_at_far={
            f"{far:g}": val
            for far, val in val_at_far(
                curve,
                options.fars,
                seed=options.seed,
                n_resamples=options.n_resamples,
                few_different=options.few_different,
            ).items()
        },
        curve=_drawn(curve),
        wrong=_wrong(pairs, kept, distance_N, threshold_N),
        mode="pairs",
        of_videos=options.mean_of_frames,
        resolution=0.0,
        seed=options.seed,
        n_resamples=options.n_resamples,
        model_id=subject.model_id,
        snapshot=subject.snapshot,
        digest=subject.digest,
        software=dict(subject.software),
    )


def verify_all_pairs(
    base: LabelledVectors, subject: Subject, options: Options | None = None
) -> VerificationReport:
    """Judges every pair of labelled images, streamed in blocks: memory does not grow with the pairs.

    Thresholds are bin edges, ``resolution`` apart. The interval of a VAL resamples identities at its
    threshold, because pairs of one identity stand or fall together.

    Raises:
        UsageError: if there are not both same and different pairs.
    """
    options = options or Options()
    labelled = np.array([row for row, label in enumerate(base.labels) if label is not None], dtype=np.int64)
    x_ND, code_N = base.x_ND[labelled], codes_of([base.labels[row] for row in labelled.tolist()])
    curve, odd = curve_and_odd_pairs(x_ND, code_N)
    ids = [base.ids[row] for row in labelled.tolist()]
    return VerificationReport(
        n_pairs=curve.n_same + curve.n_different,
        n_same=curve.n_same,
        n_different=curve.n_different,
        n_missing=0,
        n_without_label=len(base.ids) - len(labelled),
        missing_ids=(),
        accuracy=None,
        auc=curve.auc(),
        eer=curve.eer(),
        val_at_far=_vals_by_identity(curve, x_ND, code_N, options),
        curve=_drawn(curve),
        wrong=_odd_ones(odd, ids, code_N, curve),
        mode="all_pairs",
        of_videos=options.mean_of_frames,
        resolution=curve.resolution,
        seed=options.seed,
        n_resamples=options.n_resamples,
        model_id=subject.model_id,
        snapshot=subject.snapshot,
        digest=subject.digest,
        software=dict(subject.software),
    )


def pair_distances(x_ND: Vectors, y_ND: Vectors) -> NDArray[np.float32]:
    """Squared L2 distance of each pair of rows, computed in float64; float32 [N]."""
    difference_ND = x_ND.astype(np.float64) - y_ND
    distance_N: NDArray[np.float32] = np.einsum("nd,nd->n", difference_ND, difference_ND).astype(np.float32)
    return distance_N


def mean_distances(x_ND: Vectors, y_ND: Vectors) -> NDArray[np.float32]:
    """Mean squared L2 distance of the unit vectors whose means are given, pair by pair; float32 [N]."""
    inner_N = np.einsum("nd,nd->n", x_ND.astype(np.float64), y_ND.astype(np.float64))
    distance_N: NDArray[np.float32] = (2 - 2 * inner_N).astype(np.float32)
    return distance_N


def _distances(pairs: PairList, row_of: Mapping[str, int], x_ND: Vectors, options: Options) -> ListedPairs:
    left_N = np.array([row_of.get(image_id, -1) for image_id in pairs.left])
    right_N = np.array([row_of.get(image_id, -1) for image_id in pairs.right])
    kept = np.flatnonzero((left_N >= 0) & (right_N >= 0))
    missing = sorted((set(pairs.left) | set(pairs.right)) - row_of.keys())
    if not len(kept):
        raise UsageError(
            f"none of the {len(pairs.left)} pairs has both its images in the snapshot: the list asks for "
            f"{missing[0]!r}, the snapshot holds ids such as {next(iter(row_of), 'none')!r}",
            fix="pass --id-template to say how a name and a number make an id",
        )
    distance_of = mean_distances if options.mean_of_frames else pair_distances
    return ListedPairs(
        kept=kept,
        distance_N=distance_of(x_ND[left_N[kept]], x_ND[right_N[kept]]),
        same_N=pairs.same_N[kept],
        images=frozenset(name for n in kept.tolist() for name in (pairs.left[n], pairs.right[n])),
        n_missing=len(pairs.left) - len(kept),
        missing_ids=tuple(missing[:10]),
    )


def _vals_by_identity(
    curve: ErrorCurve, x_ND: Vectors, code_N: Ints, options: Options
) -> dict[str, ValAtFar]:
    """VAL at each rate, its interval from resampled identities at the threshold of all pairs."""
    wanted = [far for far in options.fars if options.few_different or curve.enough_different(far)]
    place_F = [curve.place_at_far(far) for far in wanted]
    pairs_I, accepted_IF = same_pairs_by_identity(x_ND, code_N, curve.thresholds_T[place_F])
    bounds_2F = share_interval(accepted_IF, pairs_I, seed=options.seed, n_resamples=options.n_resamples)
    shown = {
        far: val_there(curve, place, low, high)
        for far, place, low, high in zip(wanted, place_F, *bounds_2F.tolist(), strict=True)
    }
    return {f"{far:g}": shown.get(far) or too_few_different(curve, far) for far in options.fars}


def _drawn(curve: ErrorCurve) -> tuple[tuple[float, float], ...]:
    """Points of the curve, spread evenly over the decades of FAR that the pairs can show."""
    lowest = 1 / curve.n_different
    fars = np.unique(np.concatenate([[lowest], np.geomspace(lowest, 1, _CURVE_POINTS)]))
    far_T, val_T = curve.far(), curve.val()
    points = [(float(far_T[at]), float(val_T[at])) for at in map(curve.place_at_far, fars.tolist())]
    return tuple(dict.fromkeys(points))


def _odd_ones(odd: OddPairs, ids: Sequence[str], code_N: Ints, curve: ErrorCurve) -> tuple[WrongPair, ...]:
    """The worst pairs that the threshold at the EER misjudges, one for each pair of identities."""
    threshold = float(curve.thresholds_T[curve.place_at_eer()])
    kinds = (
        (True, odd.same_P2, odd.same_distance_P, odd.same_distance_P >= threshold),
        (False, odd.different_P2, odd.different_distance_P, odd.different_distance_P < threshold),
    )
    wrong = []
    for kind, pairs_P2, distance_P, misjudged_P in kinds:
        chosen: dict[tuple[int, ...], WrongPair] = {}
        for at in np.flatnonzero(misjudged_P).tolist():
            left, right = pairs_P2[at].tolist()
            who = tuple(sorted((int(code_N[left]), int(code_N[right]))))
            found = WrongPair(
                left=ids[left],
                right=ids[right],
                same=kind,
                distance=float(distance_P[at]),
                threshold=threshold,
            )
            chosen.setdefault(who, found)
        wrong += list(chosen.values())[:_SHOWN]
    return tuple(wrong)


def _wrong(
    pairs: PairList, kept: Ints, distance_N: NDArray[np.float32], threshold_N: Floats
) -> tuple[WrongPair, ...]:
    """The misjudged pairs farthest on the wrong side: same ones first, then different ones."""
    same_N = pairs.same_N[kept]
    excess_N = np.where(same_N, distance_N - threshold_N, threshold_N - distance_N)
    wrong = []
    for kind in (True, False):
        at_fault = np.flatnonzero((same_N == kind) & ((distance_N < threshold_N) != same_N))
        worst = at_fault[np.argsort(-excess_N[at_fault], kind="stable")][:_SHOWN]
        wrong += [
            WrongPair(
                left=pairs.left[kept[n]],
                right=pairs.right[kept[n]],
                same=kind,
                distance=float(distance_N[n]),
                threshold=float(threshold_N[n]),
            )
            for n in worst
        ]
    return tuple(wrong)
