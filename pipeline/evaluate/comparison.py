"""May the new vectors replace the old ones? The same queries asked of both, and one verdict.

1. The same images, labels and judged queries on both sides: exact ranks of each, leave-one-out (``ranking``).
2. Paired differences of the measures, the verdict on the one that was named before (``paired``), and on
   parts of the queries, of which one can outweigh the mean (``slice_tests``).
3. What happens to thresholds on the distance: the old one at a false accept rate, the new one, and what the
   old one would do to the new distances.
4. How many of the nearest images are others, and the queries that changed most, for people to look at.

Legend: N images, Q queries, K neighbours, D and E dimensions of old and new.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.evaluate import metrics
from pipeline.evaluate.aggregate import RESAMPLES, codes_of
from pipeline.evaluate.all_pairs import curve_of_all_pairs
from pipeline.evaluate.error_curve import ErrorCurve
from pipeline.evaluate.metrics import Floats, RelevantRanks
from pipeline.evaluate.paired import (
    PERMUTATIONS,
    PairedDifference,
    Verdict,
    paired_differences,
    verdict_of,
)
from pipeline.evaluate.ranking import LabelledVectors, Ranking, leave_one_out_ranks
from pipeline.evaluate.slice_tests import SliceTests, slice_differences

K = 10
FARS = (0.1, 0.01, 0.001, 0.0001)
METRICS = ("map", "success@1", "success@10", "r_precision", "recall@10", "ndcg@10")

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Benchmark:
    """Images that old and new both have, each a query for the others.

    Attributes:
        ids: Distinct.
        labels: What makes two images relevant; None is unknown.
        groups: What stands or falls together, such as products; one for each image.
        slices: Attributes by name, a value or None for each image.
        old_ND: Old vectors, unit length.
        new_NE: New vectors of the same images, perhaps of another dimension.
    """

    ids: Sequence[str]
    labels: Sequence[str | None]
    groups: Sequence[str]
    slices: Mapping[str, Sequence[str | None]]
    old_ND: Vectors
    new_NE: Vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was declared before, and the seed. ``n_changed`` bounds the changed queries that are kept."""

    metric: str = "map"
    margin: float = 0.01
    allow_worse_slices: bool = False
    """The mean alone decides."""
    seed: int = 0
    n_resamples: int = RESAMPLES
    n_permutations: int = PERMUTATIONS
    n_changed: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdShift:
    """A threshold on the squared L2 distance, from old to new at one false accept rate.

    Attributes:
        far: The rate.
        old_threshold: That gives the old vectors this rate; None if different pairs are too few.
        new_threshold: That gives the new vectors this rate.
        old_val: Share of same pairs that the old vectors accept at it.
        new_val: Share that the new vectors accept at theirs.
        kept_far: The rate if the old threshold were kept for the new vectors.
        kept_val: The share accepted then.
        reason: Why there is nothing to show.
    """

    far: float
    old_threshold: float | None = None
    new_threshold: float | None = None
    old_val: float | None = None
    new_val: float | None = None
    kept_far: float | None = None
    kept_val: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourChange:
    """Mean over queries of the share of the ``k`` nearest that were not among them before."""

    k: int
    share: float
    nearest_changed: float
    """Share of queries whose nearest image is another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedQuery:
    """A query whose value changed, with the nearest images of both, best first."""

    image_id: str
    label: str
    old_value: float
    new_value: float
    old_ids: tuple[str, ...]
    new_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a comparison found.

    Attributes:
        verdict: On ``metric``, against ``margin``, of the mean and of the slices.
        verdict_of_mean: The same of the mean alone.
        allow_worse_slices: The mean alone decided.
        metric: The measure that was named before.
        margin: The loss that would be accepted.
        n_images: Images that both sides have.
        n_queries: Of them judged queries.
        n_groups: Groups of the queries.
        identical: The vectors are the same numbers: nothing is left to chance.
        metrics: By name.
        slices: Of the metric.
        thresholds: By false accept rate.
        neighbours: How many are others.
        changed: Queries that changed most on the metric, as many gains as losses if there are so many.
        seed: Of resamples and sign flips.
        n_resamples: Of the bootstrap.
        n_permutations: Sign flips.
    """

    verdict: Verdict
    verdict_of_mean: Verdict
    allow_worse_slices: bool
    metric: str
    margin: float
    n_images: int
    n_queries: int
    n_groups: int
    identical: bool
    metrics: Mapping[str, PairedDifference]
    slices: SliceTests
    thresholds: tuple[ThresholdShift, ...]
    neighbours: NeighbourChange
    changed: tuple[ChangedQuery, ...] = field(repr=False)
    seed: int
    n_resamples: int
    n_permutations: int

    def to_json(self) -> dict[str, object]:
        """The comparison as JSON values; the changed queries go to the labelling sheet instead."""
        document = asdict(self)
        del document["changed"]
        document["slices"] = {
            "tested": len(self.slices.tested),
            "untested": self.slices.n_untested,
            "worse": [asdict(one) | {"loses": one.loses(self.margin)} for one in self.slices.worse],
            "lowest": [asdict(one) for one in self.slices.tested[:20]],
        }
        return document


def compare(benchmark: Benchmark, options: Options | None = None) -> Comparison:
    """Judges new against old; deterministic for a seed, and whatever the order of the images.

    Raises:
        UsageError: nothing can be found by its label, or there is no such measure.
    """
    options = options or Options()
    if options.metric not in METRICS or options.margin < 0:
        raise UsageError(
            f"expected one of {', '.join(METRICS)} and a margin from 0, "
            f"got {options.metric!r} and {options.margin}"
        )
    old, new = (
        leave_one_out_ranks(LabelledVectors(x_ND=x_ND, ids=benchmark.ids, labels=benchmark.labels), depth=K)
        for x_ND in (benchmark.old_ND, benchmark.new_NE)
    )
    if old.found.n_queries == 0:
        raise UsageError(
            f"nothing to compare: of {len(benchmark.ids)} images that both have, "
            f"{old.n_queries_without_label} have no label and the others are alone with theirs",
            fix="choose a label that several images share, or a larger --sample",
        )
    row_Q = old.query_rows_Q.tolist()
    group_Q = [benchmark.groups[row] for row in row_Q]
    old_values, new_values = _measures(old.found), _measures(new.found)
    found = paired_differences(
        old_values,
        new_values,
        group_Q,
        seed=options.seed,
        n_resamples=options.n_resamples,
        n_permutations=options.n_permutations,
    )
    identical = np.array_equal(benchmark.old_ND, benchmark.new_NE)
    if identical:  # not an estimate
        found = {name: replace(one, low=0.0, high=0.0, minimum_detectable=0.0) for name, one in found.items()}
    n_groups = len(set(group_Q))
    slices = slice_differences(
        old_values[options.metric],
        new_values[options.metric],
        group_Q,
        {name: [value_N[row] for row in row_Q] for name, value_N in benchmark.slices.items()},
        seed=options.seed,
        n_resamples=options.n_resamples,
        n_permutations=options.n_permutations,
    )
    of_mean = verdict_of(found[options.metric], options.margin, n_groups)
    if identical:
        of_mean = Verdict.NOT_WORSE
    return Comparison(
        verdict=of_mean if options.allow_worse_slices else slices.verdict(of_mean, options.margin),
        verdict_of_mean=of_mean,
        allow_worse_slices=options.allow_worse_slices,
        metric=options.metric,
        margin=options.margin,
        n_images=len(benchmark.ids),
        n_queries=len(row_Q),
        n_groups=n_groups,
        identical=identical,
        metrics=found,
        slices=slices,
        thresholds=_threshold_shifts(benchmark),
        neighbours=_neighbour_change(old, new),
        changed=_changed(
            benchmark, old, new, old_values[options.metric], new_values[options.metric], options.n_changed
        ),
        seed=options.seed,
        n_resamples=options.n_resamples,
        n_permutations=options.n_permutations,
    )


def _measures(found: RelevantRanks) -> dict[str, Floats]:
    return {
        "map": metrics.average_precision(found),
        "success@1": metrics.success_at(found, 1),
        "success@10": metrics.success_at(found, 10),
        "r_precision": metrics.r_precision(found),
        "recall@10": metrics.recall_at(found, 10),
        "ndcg@10": metrics.ndcg_at(found, 10),
    }


def _threshold_shifts(benchmark: Benchmark) -> tuple[ThresholdShift, ...]:
    rows = [row for row, label in enumerate(benchmark.labels) if label is not None]
    code_N = codes_of([benchmark.labels[row] for row in rows])
    if len(set(code_N.tolist())) < 2:
        return tuple(ThresholdShift(far=far, reason="there is a single label") for far in FARS)
    old, new = (curve_of_all_pairs(x_ND[rows], code_N) for x_ND in (benchmark.old_ND, benchmark.new_NE))
    return tuple(_threshold_shift(old, new, far) for far in FARS)


def _threshold_shift(old: ErrorCurve, new: ErrorCurve, far: float) -> ThresholdShift:
    if not old.enough_different(far):
        return ThresholdShift(far=far, reason=f"{old.n_different:,} different pairs are too few")
    old_place, new_place = old.place_at_far(far), new.place_at_far(far)
    return ThresholdShift(
        far=far,
        old_threshold=float(old.thresholds_T[old_place]),
        new_threshold=float(new.thresholds_T[new_place]),
        old_val=float(old.val()[old_place]),
        new_val=float(new.val()[new_place]),
        kept_far=float(new.far()[old_place]),  # both have the same bin edges
        kept_val=float(new.val()[old_place]),
    )


def _neighbour_change(old: Ranking, new: Ranking) -> NeighbourChange:
    shares = [
        len(set(now) - set(then)) / max(1, sum(row >= 0 for row in now))
        for then, now in zip(old.neighbours_QK.tolist(), new.neighbours_QK.tolist(), strict=True)
    ]
    nearest_changed = np.mean(old.neighbours_QK[:, 0] != new.neighbours_QK[:, 0])
    return NeighbourChange(k=K, share=float(np.mean(shares)), nearest_changed=float(nearest_changed))


def _changed(
    benchmark: Benchmark, old: Ranking, new: Ranking, old_Q: Floats, new_Q: Floats, n: int
) -> tuple[ChangedQuery, ...]:
    """The largest gains and losses among queries that show other images now, gains first."""
    ids = benchmark.ids
    seen_Q = (old.neighbours_QK != new.neighbours_QK).any(axis=1)

    def largest(sign: int) -> list[int]:
        change_Q = sign * (new_Q - old_Q)
        rows = np.flatnonzero(seen_Q & (change_Q > 0))
        return sorted(rows.tolist(), key=lambda q: (-change_Q[q], ids[int(old.query_rows_Q[q])]))

    gains, losses = largest(1), largest(-1)
    n_gains = min(len(gains), max(n // 2, n - len(losses)))
    return tuple(
        ChangedQuery(
            image_id=ids[int(old.query_rows_Q[q])],
            label=benchmark.labels[int(old.query_rows_Q[q])] or "",
            old_value=float(old_Q[q]),
            new_value=float(new_Q[q]),
            old_ids=tuple(ids[row] for row in old.neighbours_QK[q].tolist() if row >= 0),
            new_ids=tuple(ids[row] for row in new.neighbours_QK[q].tolist() if row >= 0),
        )
        for q in gains[:n_gains] + losses[: n - n_gains]
    )
