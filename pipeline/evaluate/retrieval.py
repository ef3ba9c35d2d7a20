"""How well do these vectors retrieve? Vectors and labels in, an ``EvaluationReport`` out.

1. Exact ranks of all relevant images (``ranking``), leave-one-out or with a query set of its own; relevant by
   label or by judgements of pairs; images, or products at the place of their nearest image.
2. Measures per query (``metrics``), their means with intervals (``aggregate``), over all and over slices.
3. The classes and the queries worth looking at (``gallery``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import UsageError
from pipeline.evaluate import metrics
from pipeline.evaluate.aggregate import RESAMPLES, class_means, mean_interval, summarise
from pipeline.evaluate.evaluation import ClassScore, Estimate, EvaluationReport, Mode, Slice
from pipeline.evaluate.gallery import Judged, choose_gallery
from pipeline.evaluate.groups import Groups
from pipeline.evaluate.metrics import Floats, GradedRanks
from pipeline.evaluate.ranking import Contest, LabelledVectors, Ranking
from pipeline.evaluate.relevance import ByJudgements, ByLabel, IdOrder, Judgements, OtherGroups, Relevance
from pipeline.evaluate.slices import slices_by

_DEPTH = 10
_SLICED = ("map", "success@1", "recall@10")
_CLASSES_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is evaluated, for the record: nothing here changes a figure."""

    label: str
    model_id: str
    snapshot: int | None = None
    digest: str = ""
    asked_by: str = ""
    """The snapshot of a query set, as COLLECTION@SEQUENCE."""
    software: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How it is evaluated. ``gallery_neighbours`` is at least 1; ``ks`` are depths beside the usual ones."""

    seed: int = 0
    n_resamples: int = RESAMPLES
    gallery_per_kind: int = 6
    gallery_neighbours: int = 8
    ks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """What is asked of the vectors, and by whom.

    Attributes:
        queries: Images that ask, whose ids may be in the base too; every image of the base if absent.
        judgements: What is relevant; what carries the same label if absent.
        junk: Images of the base that are neither right nor wrong, and do not ask.
        collapse: Attribute of which ``LabelledVectors.groups`` are the values, where a group is ranked once,
            at its nearest image's place. The query's own group is then taken out, unless it is the label.
        resampled_by: Attribute of which they are the values, where intervals resample them whole.
        sliced_by: Attributes with the value of each query, in the order of ``queries``.
        sample: How many queries are drawn by the seed; all if absent.
        namesakes: Ids of queries that the base has too, of other pictures: they are not taken out.
    """

    queries: LabelledVectors | None = None
    judgements: Judgements | None = None
    junk: frozenset[str] = frozenset()
    collapse: str | None = None
    resampled_by: str | None = None
    sliced_by: Mapping[str, Sequence[object]] = field(default_factory=dict)
    sample: int | None = None
    namesakes: frozenset[str] = frozenset()


def rank_here(contest: Contest) -> Ranking:
    """Ranks all queries, one block after the other."""
    return contest.ranking(contest.rank(block) for block in contest.blocks())


def evaluate_retrieval(
    base: LabelledVectors,
    subject: Subject,
    *,
    asked: Asked | None = None,
    ann_recall: Estimate | None = None,
    options: Options | None = None,
    rank: Callable[[Contest], Ranking] = rank_here,
) -> EvaluationReport:
    """Judge vectors by exact search; deterministic for a seed, and whatever the order of the base.

    Args:
        base: The images searched; they also ask, unless ``asked`` has queries.
        subject: What is evaluated.
        asked: What is asked of them; leave-one-out by label if absent.
        ann_recall: The index's own ann_recall@10, carried into the report.
        options: Seed and sizes.
        rank: Who ranks the queries.

    Raises:
        UsageError: if no query has anything to find, or nothing could be wrong.
    """
    asked, options = asked or Asked(), options or Options()
    _check(base, asked, options)
    asking = asked.queries or base
    contest = contest_of(base, subject.label, asked, options)
    ranking = rank(contest)
    _check_something_to_find(ranking, subject.label, asked)
    rows = ranking.query_rows_Q.tolist()
    labels = [asking.labels[row] or "" for row in rows]
    groups = _groups_of(asking, rows) if asked.resampled_by else None
    values = measures_of(ranking.graded, options.ks)
    worst, best = _classes(values["map"], labels)
    judged = Judged(
        queries=asking,
        base=base,
        ranking=ranking,
        average_precision_Q=values["map"],
        n_neighbours=options.gallery_neighbours,
    )
    unknown = _unknown(asking, base, asked)
    return EvaluationReport(
        n_queries=ranking.found.n_queries,
        metrics=summarise(
            values,
            ranking.found.n_relevant_Q,
            labels,
            seed=options.seed,
            n_resamples=options.n_resamples,
            groups_Q=groups,
        ),
        ann_recall_at_10=ann_recall,
        mode=Mode.LEAVE_ONE_OUT if asked.queries is None else Mode.QUERY_SET,
        n_images=len(base.ids),
        n_without_label=ranking.n_queries_without_label,
        n_queries_without_relevants=ranking.n_queries_without_relevants,
        n_classes=len(set(labels)),
        label=subject.label,
        snapshot=subject.snapshot,
        digest=subject.digest,
        model_id=subject.model_id,
        seed=options.seed,
        n_resamples=options.n_resamples,
        software=dict(subject.software),
        worst_classes=worst,
        best_classes=best,
        gallery=choose_gallery(judged, per_kind=options.gallery_per_kind),
        judged=asked.judgements is not None,
        unjudged_at_10=_unjudged(ranking, asking, base, asked, options),
        n_unknown_queries=len(unknown[0]),
        n_unknown_images=len(unknown[1]),
        n_junk=len(asked.junk & set(base.ids)),
        collapse=asked.collapse,
        resampled_by=asked.resampled_by,
        n_resampled=0 if groups is None else len(set(groups)),
        n_not_drawn=contest.n_not_drawn,
        n_namesakes=len(asked.namesakes),
        asked_by=subject.asked_by,
        slices=_slices(asked, rows, values, groups, options),
    )


def contest_of(base: LabelledVectors, label: str, asked: Asked, options: Options) -> Contest:
    """Who is to be ranked against whom; every worker of an evaluation makes the same."""
    asking, order = asked.queries or base, IdOrder.of(base.ids)
    relevance = _relevance(asking, base, asked, order)
    groups = None
    if asked.collapse is not None:
        base_groups = base.groups or [None] * len(base.ids)
        groups = Groups.of([base_groups[row] for row in order.rows_N.tolist()])
        if asked.collapse != label or asked.judgements is not None:
            asking_groups = asking.groups or [None] * len(asking.ids)
            relevance = OtherGroups(relevance, asking_groups, base_groups, order)
    depth = max(_DEPTH, options.gallery_neighbours)
    contest = Contest(asking, base, relevance, order, depth=depth, groups=groups)
    if asked.sample is not None:
        contest.draw(asked.sample, options.seed)
    return contest


def _relevance(asking: LabelledVectors, base: LabelledVectors, asked: Asked, order: IdOrder) -> Relevance:
    if asked.judgements is not None:
        return ByJudgements(asking.ids, asked.judgements, order, asked.namesakes)
    return ByLabel(asking.ids, asking.labels, base.labels, order, asked.junk, asked.namesakes)


def _check(base: LabelledVectors, asked: Asked, options: Options) -> None:
    deepest = max(options.ks, default=1)
    if min(options.ks, default=1) < 1 or deepest >= max(len(base.ids), 2):
        raise UsageError(
            f"measures at {', '.join(map(str, options.ks))} were asked for; a query among {len(base.ids)} "
            f"images has 1 to {len(base.ids) - 1} others to find",
            fix="pass a smaller k",
        )
    if (
        asked.judgements is None
        and len(base.ids) > 1
        and len(set(base.labels)) == 1
        and base.labels[0] is not None
    ):
        raise UsageError(
            f"all {len(base.ids)} images carry the same label {base.labels[0]!r}: nothing could be wrong",
            fix="choose a label with several values",
        )
    if asked.judgements is not None and asked.junk:
        raise UsageError(
            "junk images are listed beside judgements", fix="grade them below 0 in the judgements instead"
        )


def _unknown(asking: LabelledVectors, base: LabelledVectors, asked: Asked) -> tuple[list[str], list[str]]:
    """Judged query ids and image ids that are not there."""
    if asked.judgements is None:
        return [], []
    return ByJudgements(asking.ids, asked.judgements, IdOrder.of(base.ids)).missing()


def _groups_of(asking: LabelledVectors, rows: Sequence[int]) -> list[str | int]:
    """The group of each judged query; one without a group is a group of its own."""
    names = asking.groups or [None] * len(asking.ids)
    return [row if (name := names[row]) is None else name for row in rows]


def _unjudged(
    ranking: Ranking, asking: LabelledVectors, base: LabelledVectors, asked: Asked, options: Options
) -> Estimate | None:
    """Mean share of the first 10 results that nobody judged."""
    if asked.judgements is None or not ranking.found.n_queries:
        return None
    share_Q = np.zeros(ranking.found.n_queries)
    for q, row in enumerate(ranking.query_rows_Q.tolist()):
        judged = asked.judgements.grades[asking.ids[row]]
        shown = [found for found in ranking.neighbours_QK[q, :_DEPTH].tolist() if found >= 0]
        share_Q[q] = np.mean([base.ids[found] not in judged for found in shown]) if shown else 0.0
    low, high = mean_interval(share_Q[:, None], None, seed=options.seed, n_resamples=options.n_resamples)[
        :, 0
    ]
    return Estimate(mean=float(share_Q.mean()), low=float(low), high=float(high))


def _slices(
    asked: Asked,
    rows: Sequence[int],
    values: Mapping[str, Floats],
    groups: Sequence[str | int] | None,
    options: Options,
) -> tuple[Slice, ...]:
    measures = {name: values[name] for name in _SLICED}
    return tuple(
        one
        for column, attribute in asked.sliced_by.items()
        for one in slices_by(
            column,
            [attribute[row] for row in rows],
            measures,
            groups,
            seed=options.seed,
            n_resamples=options.n_resamples,
        )
    )


def measures_of(graded: GradedRanks, ks: Sequence[int] = ()) -> dict[str, Floats]:
    """Every measure of every query, at the usual depths and at ``ks``."""
    found = graded.found
    values = {
        "map": metrics.average_precision(found),
        "map@10": metrics.average_precision_at(found, 10),
        "r_precision": metrics.r_precision(found),
        "map_at_r": metrics.map_at_r(found),
        "mrr": metrics.reciprocal_rank(found),
        "success@1": metrics.success_at(found, 1),
        "success@5": metrics.success_at(found, 5),
        "success@10": metrics.success_at(found, 10),
        "recall@10": metrics.recall_at(found, 10),
        "precision@10": metrics.precision_at(found, 10),
        "ndcg@10": metrics.ndcg_graded(graded, 10),
    }
    for k in ks:
        values |= {
            f"success@{k}": metrics.success_at(found, k),
            f"recall@{k}": metrics.recall_at(found, k),
            f"precision@{k}": metrics.precision_at(found, k),
            f"map@{k}": metrics.average_precision_at(found, k),
            f"ndcg@{k}": metrics.ndcg_graded(graded, k),
        }
    return values


def _check_something_to_find(ranking: Ranking, label: str, asked: Asked) -> None:
    if ranking.found.n_queries:
        return
    if asked.judgements is not None:
        queries = len(asked.judgements.grades)
        example = next(iter(asked.judgements.grades))
        one_of = f"the {queries} judged queries, such as {example!r}"
        raise UsageError(
            f"nothing to measure: none of {one_of}, is an image here for which an image here is relevant",
            fix="judgements name images by their ids, as `bitsieve search` prints them",
        )
    raise UsageError(
        f"nothing to measure with label {label!r}: {ranking.n_queries_without_label} images have none, "
        f"and {ranking.n_queries_without_relevants} carry one that no other image carries",
        "choose a label that several images share",
    )


def _classes(ap_Q: Floats, labels: list[str]) -> tuple[tuple[ClassScore, ...], tuple[ClassScore, ...]]:
    scores = [
        ClassScore(label=str(name), n_queries=n_queries, map=mean)
        for name, (mean, n_queries) in class_means(ap_Q, labels).items()
    ]
    n_worst, n_best = min(_CLASSES_SHOWN, -(-len(scores) // 2)), min(_CLASSES_SHOWN, len(scores) // 2)
    worst = sorted(scores, key=lambda score: (score.map, -score.n_queries, score.label))[:n_worst]
    rest = [score for score in scores if score not in set(worst)]
    best = sorted(rest, key=lambda score: (-score.map, -score.n_queries, score.label))[:n_best]
    return tuple(worst), tuple(best)
