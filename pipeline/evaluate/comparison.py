"""May the new vectors replace the old ones? The same queries asked of both, and one verdict.

1. The same images, labels and judged queries on both sides: exact ranks of each (``ranking``), leave-one-out
   or of a query set that both sides have embedded.
2. Paired differences of the measures, the verdict on the one that was named before (``paired``), and on
   parts of the queries, of which one can outweigh the mean (``slice_tests``).
3. What happens to thresholds on the distance (``threshold_shift``).
4. How many of the nearest images are others, and the queries that changed most, for people to look at.

Legend: N images, Q queries, K neighbours, D and E dimensions of old and new.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.evaluate import metrics
from pipeline.evaluate.aggregate import RESAMPLES
from pipeline.evaluate.evaluation import Mode
from pipeline.evaluate.metrics import Floats, RelevantRanks
from pipeline.evaluate.paired import (
    PERMUTATIONS,
    PairedDifference,
    Verdict,
    paired_differences,
    verdict_of,
)
from pipeline.evaluate.ranking import LabelledVectors, Ranking, leave_one_out_ranks, query_set_ranks
from pipeline.evaluate.slice_tests import SliceTests, slice_differences
from pipeline.evaluate.threshold_shift import ThresholdShift, shifts_of_all_pairs, shifts_of_query_pairs

K = 10
METRICS = ("map", "success@1", "success@10", "r_precision", "recall@10", "ndcg@10")

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuerySet:
    """Images of their own that ask, embedded by both sides.

    Attributes:
        ids: Distinct; an image may have the same id.
        labels: What makes an image relevant; None is unknown.
        old_QD: Old vectors, unit length.
        new_QE: New vectors of the same queries.
        namesakes: Ids of queries that an image has too, of another picture: they are not taken out.
    """

    ids: Sequence[str]
    labels: Sequence[str | None]
    old_QD: Vectors
    new_QE: Vectors
    namesakes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Benchmark:
    """Images that old and new both have, each a query for the others, or asked by a query set.

    Attributes:
        ids: Distinct.
        labels: What makes two images relevant; None is unknown.
        groups: What stands or falls together, such as products; one for each image that asks.
        slices: Attributes by name, a value or None for each image that asks.
        old_ND: Old vectors, unit length.
        new_NE: New vectors of the same images, perhaps of another dimension.
        queries: Who asks; the images themselves if absent.
    """

    ids: Sequence[str]
    labels: Sequence[str | None]
    groups: Sequence[str]
    slices: Mapping[str, Sequence[str | None]]
    old_ND: Vectors
    new_NE: Vectors
    queries: QuerySet | None = None

    @property
    def asking(self) -> tuple[Sequence[str], Sequence[str | None]]:
        """Ids and labels of the images that ask."""
        return (self.ids, self.labels) if self.queries is None else (self.queries.ids, self.queries.labels)

    def identical(self) -> bool:
        """Whether old and new vectors are the same numbers."""
        same = np.array_equal(self.old_ND, self.new_NE)
        return same and (self.queries is None or np.array_equal(self.queries.old_QD, self.queries.new_QE))


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
        mode: Whether the images ask each other, or a query set asks them.
        n_namesakes: Queries of the set whose id an image has for another picture, judged like any other.
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
    mode: Mode
    n_namesakes: int
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
    old, new = _rankings(benchmark)
    if old.found.n_queries == 0:
        alone = "are alone with theirs" if benchmark.queries is None else "carry one that no image carries"
        who = "images" if benchmark.queries is None else "queries"
        raise UsageError(
            f"nothing to compare: of {len(benchmark.asking[0])} {who} that both have, "
            f"{old.n_queries_without_label} have no label and the others {alone}",
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
    identical = benchmark.identical()
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
        mode=Mode.LEAVE_ONE_OUT if benchmark.queries is None else Mode.QUERY_SET,
        n_namesakes=0 if benchmark.queries is None else len(benchmark.queries.namesakes),
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


def _rankings(benchmark: Benchmark) -> tuple[Ranking, Ranking]:
    """The ranks of the old vectors and of the new ones."""
    queries = benchmark.queries
    old, new = (
        LabelledVectors(x_ND=x_ND, ids=benchmark.ids, labels=benchmark.labels)
        for x_ND in (benchmark.old_ND, benchmark.new_NE)
    )
    if queries is None:
        return leave_one_out_ranks(old, depth=K), leave_one_out_ranks(new, depth=K)
    asking_old, asking_new = (
        LabelledVectors(x_ND=xq_QD, ids=queries.ids, labels=queries.labels)
        for xq_QD in (queries.old_QD, queries.new_QE)
    )
    return (
        query_set_ranks(asking_old, old, depth=K, namesakes=queries.namesakes),
        query_set_ranks(asking_new, new, depth=K, namesakes=queries.namesakes),
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
    queries = benchmark.queries
    if queries is None:
        return shifts_of_all_pairs(benchmark.labels, (benchmark.old_ND, benchmark.new_NE))
    row_of = {image_id: row for row, image_id in enumerate(benchmark.ids)}
    own = [-1 if one in queries.namesakes else row_of.get(one, -1) for one in queries.ids]
    return shifts_of_query_pairs(
        queries.labels,
        benchmark.labels,
        np.array(own, dtype=np.int64),
        ((queries.old_QD, benchmark.old_ND), (queries.new_QE, benchmark.new_NE)),
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
    ids, (asking_ids, asking_labels) = benchmark.ids, benchmark.asking
    seen_Q = (old.neighbours_QK != new.neighbours_QK).any(axis=1)

    def largest(sign: int) -> list[int]:
        change_Q = sign * (new_Q - old_Q)
        rows = np.flatnonzero(seen_Q & (change_Q > 0))
        return sorted(rows.tolist(), key=lambda q: (-change_Q[q], asking_ids[int(old.query_rows_Q[q])]))

    gains, losses = largest(1), largest(-1)
    n_gains = min(len(gains), max(n // 2, n - len(losses)))
    return tuple(
        ChangedQuery(
            image_id=asking_ids[int(old.query_rows_Q[q])],
            label=asking_labels[int(old.query_rows_Q[q])] or "",
            old_value=float(old_Q[q]),
            new_value=float(new_Q[q]),
            old_ids=tuple(ids[row] for row in old.neighbours_QK[q].tolist() if row >= 0),
            new_ids=tuple(ids[row] for row in new.neighbours_QK[q].tolist() if row >= 0),
        )
        for q in gains[:n_gains] + losses[: n - n_gains]
    )
