"""Which way of training gives the better vectors? Several ways, each tried with several seeds.

1. Each training embeds the same images, of classes that it has not seen; each image is a query for the
   others (``ranking``), and all pairs are judged (``all_pairs``).
2. A figure of a way is the mean over its seeds. Its interval resamples classes, which says how sure it is of
   these images; the spread over seeds says what training again would change.
3. The reference is the way that was best on the classes by which the best step of each training was chosen:
   on others than are judged, so that the choice flatters nobody.
4. Every other way is compared with it on the same queries, classes permuted whole; p values are corrected for
   their number (Holm 1979). A difference is shown only if there are two seeds or more and every one has
   its sign.

Legend: N images, D dimensions, Q queries, S seeds, I classes with pairs, W ways.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.evaluate import metrics
from pipeline.evaluate.aggregate import RESAMPLES, codes_of, mean_interval, share_interval
from pipeline.evaluate.all_pairs import curve_of_all_pairs, same_pairs_by_identity
from pipeline.evaluate.error_curve import ErrorCurve, how_many_needed
from pipeline.evaluate.metrics import Floats, Ints
from pipeline.evaluate.paired import (
    LEVEL,
    MIN_GROUPS,
    PERMUTATIONS,
    PairedDifference,
    holm,
    paired_differences,
)
from pipeline.evaluate.ranking import LabelledVectors, leave_one_out_ranks

FAR = 0.001
METRIC = "map_at_r"
"""What is compared."""
METRICS = ("success@1", METRIC, "map")


class Verdict(StrEnum):
    """What is shown of a way beside the reference."""

    REFERENCE = "reference"
    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "no difference shown"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What the vectors of one training answered.

    Attributes:
        classes_Q: The class of each query.
        values: Per measure the value of each query, [Q].
        n_same_I: Pairs of each class.
        accepted_I: Those accepted at a false accept rate of ``FAR``; None if different pairs are too few, or
            all vectors lie on one spot.
        reason: Why there are none.
    """

    classes_Q: tuple[str, ...]
    values: Mapping[str, Floats]
    n_same_I: Ints
    accepted_I: Ints | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tried:
    """One way of training; ``validation_S`` is the measure that chose the best step, empty if untrained."""

    name: str
    answers_S: Sequence[Answers]
    validation_S: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measure of a way: mean over seeds, each seed's, their standard deviation, interval over classes.

    One seed has no standard deviation.
    """

    mean: float
    low: float
    high: float
    sd: float | None
    seeds: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What is to be said of one way of training.

    Attributes:
        name: Its name.
        metrics: By name.
        val: VAL at ``FAR``; None where a training has none.
        validation: Mean over seeds of the measure on the classes that chose the step; None if untrained.
        difference: Way - reference in ``METRIC``, over queries; None for the reference.
        p_corrected: Of that difference, corrected for the number of ways.
        verdict: What is shown.
    """

    name: str
    metrics: Mapping[str, Figure]
    val: Figure | None
    validation: float | None
    difference: PairedDifference | None
    p_corrected: float | None
    verdict: Verdict

    def to_json(self) -> dict[str, object]:
        """The way as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All ways, in the order in which they were tried; ``val_reason`` says why there is no VAL."""

    n_seeds: int

    reference: str
    ways: tuple[Way, ...]
    n_queries: int
    n_classes: int
    val_reason: str

    @property
    def concludes(self) -> bool:
        """Whether there are classes and seeds enough to conclude anything."""
        return self.n_classes >= MIN_GROUPS and self.n_seeds > 1


def answers_of(x_ND: NDArray[np.float32], ids: Sequence[str], classes: Sequence[str]) -> Answers:
    """Judges unit vectors by the classes of their images.

    Raises:
        UsageError: no class has two images, or there is one class only.
    """
    ranking = leave_one_out_ranks(LabelledVectors(x_ND=x_ND, ids=ids, labels=classes))
    if ranking.found.n_queries == 0:
        raise UsageError(
            f"none of {len(ids)} images that were set apart to judge by has a partner",
            fix="give images of more classes, or several of each",
        )
    curve, code_N = curve_of_all_pairs(x_ND, codes_of(classes)), codes_of(classes)
    place = curve.place_at_far(FAR)
    threshold = curve.thresholds_T[[place]]
    reason = _no_val(curve, place)
    n_same_I, accepted_I1 = same_pairs_by_identity(x_ND, code_N, threshold)
    return Answers(
        classes_Q=tuple(classes[row] for row in ranking.query_rows_Q.tolist()),
        values={
            "success@1": metrics.success_at(ranking.found, 1),
            "map_at_r": metrics.map_at_r(ranking.found),
            "map": metrics.average_precision(ranking.found),
        },
        n_same_I=n_same_I,
        accepted_I=None if reason else accepted_I1[:, 0],
        reason=reason,
    )


def _no_val(curve: ErrorCurve, place: int) -> str:
    """Why there is no VAL; empty if there is one."""
    if not curve.enough_different(FAR):
        return f"{curve.n_different:,} different pairs are too few: {how_many_needed(FAR)}"
    return "" if place else f"distances below {curve.resolution:.0e} are not told apart"


def compare_ways(
    tried: Sequence[Tried],
    *,
    seed: int,
    n_resamples: int = RESAMPLES,
    n_permutations: int = PERMUTATIONS,
) -> Outcome:
    """Compares all ways with the one that was best on the validation classes.

    Args:
        tried: At least one of them trained; all with the same seeds, in the same order.
        seed: Of resamples and permutations.
        n_resamples: Of the bootstrap.
        n_permutations: Sign flips.
    """
    trained = [one for one in tried if one.validation_S]
    reference = max(trained, key=lambda one: float(np.mean(one.validation_S)))
    classes_Q = reference.answers_S[0].classes_Q
    others = [one for one in tried if one is not reference]
    means = _mean_values(reference)
    differences = {
        one.name: paired_differences(
            {METRIC: means},
            {METRIC: _mean_values(one)},
            classes_Q,
            seed=seed,
            n_resamples=n_resamples,
            n_permutations=n_permutations,
        )[METRIC]
        for one in others
    }
    corrected = holm(np.array([differences[one.name].p_value for one in others])) if others else ()
    p_of = dict(zip(differences, map(float, corrected), strict=True))
    n_classes = len(set(classes_Q))
    return Outcome(
        reference=reference.name,
        ways=tuple(
            Way(
                name=one.name,
                metrics={name: _figure(one, name, seed, n_resamples) for name in METRICS},
                val=_val(one, seed, n_resamples),
                validation=float(np.mean(one.validation_S)) if one.validation_S else None,
                difference=differences.get(one.name),
                p_corrected=p_of.get(one.name),
                verdict=Verdict.REFERENCE
                if one is reference
                else _verdict(one, reference, differences[one.name], p_of[one.name], n_classes),
            )
            for one in tried
        ),
        n_seeds=len(reference.answers_S),
        n_queries=len(classes_Q),
        n_classes=n_classes,
        val_reason=reference.answers_S[0].reason,
    )


def _verdict(
    one: Tried, reference: Tried, found: PairedDifference, p_corrected: float, n_classes: int
) -> Verdict:
    gains_S = [
        float(np.mean(own.values[METRIC]) - np.mean(its.values[METRIC]))
        for own, its in zip(one.answers_S, reference.answers_S, strict=True)
    ]
    if n_classes < MIN_GROUPS or len(gains_S) < 2 or p_corrected >= LEVEL:
        return Verdict.NOT_SHOWN
    if found.high < 0 and max(gains_S) < 0:
        return Verdict.WORSE
    return Verdict.BETTER if found.low > 0 and min(gains_S) > 0 else Verdict.NOT_SHOWN


def _mean_values(one: Tried) -> Floats:
    """The value of each query in ``METRIC``, mean over seeds, [Q]."""
    mean_Q: Floats = np.mean([answers.values[METRIC] for answers in one.answers_S], axis=0)
    return mean_Q


def _figure(one: Tried, name: str, seed: int, n_resamples: int) -> Figure:
    value_SQ = np.stack([answers.values[name] for answers in one.answers_S])
    bounds_21 = mean_interval(
        value_SQ.mean(axis=0)[:, None], one.answers_S[0].classes_Q, seed=seed, n_resamples=n_resamples
    )
    return _over_seeds(value_SQ.mean(axis=1), bounds_21)


def _val(one: Tried, seed: int, n_resamples: int) -> Figure | None:
    """The interval holds the thresholds, which are chosen anew by each training."""
    accepted = [answers.accepted_I for answers in one.answers_S]
    if any(of_seed is None for of_seed in accepted):
        return None
    accepted_SI = np.stack([of_seed for of_seed in accepted if of_seed is not None])
    n_same_I = one.answers_S[0].n_same_I
    bounds_21 = share_interval(
        accepted_SI.mean(axis=0)[:, None], n_same_I, seed=seed, n_resamples=n_resamples
    )
    return _over_seeds(accepted_SI.sum(axis=1) / n_same_I.sum(), bounds_21)


def _over_seeds(value_S: Floats, bounds_21: Floats) -> Figure:
    return Figure(
        mean=float(value_S.mean()),
        low=float(bounds_21[0, 0]),
        high=float(bounds_21[1, 0]),
        sd=float(value_S.std(ddof=1)) if len(value_S) > 1 else None,
        seeds=tuple(value_S.tolist()),
    )
