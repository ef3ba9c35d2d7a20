"""How well do these vectors retrieve? Vectors and labels in, an ``EvaluationReport`` out.

1. Exact ranks of all relevant images (``ranking``), leave-one-out or with a query set of its own.
2. Measures per query (``metrics``), their means with intervals (``aggregate``).
3. The classes and the queries worth looking at (``gallery``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.errors import UsageError
from pipeline.evaluate import metrics
from pipeline.evaluate.aggregate import RESAMPLES, class_means, summarise
from pipeline.evaluate.evaluation import ClassScore, Estimate, EvaluationReport, Mode
from pipeline.evaluate.gallery import Judged, choose_gallery
from pipeline.evaluate.metrics import Floats, RelevantRanks
from pipeline.evaluate.ranking import LabelledVectors, Ranking, query_set_ranks

_CLASSES_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is evaluated, for the record: nothing here changes a figure."""

    label: str
    model_id: str
    snapshot: int | None = None
    digest: str = ""
    software: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How it is evaluated. ``gallery_neighbours`` is at least 1."""

    seed: int = 0
    n_resamples: int = RESAMPLES
    gallery_per_kind: int = 6
    gallery_neighbours: int = 8


def evaluate_retrieval(
    base: LabelledVectors,
    subject: Subject,
    *,
    queries: LabelledVectors | None = None,
    ann_recall: Estimate | None = None,
    options: Options | None = None,
) -> EvaluationReport:
    """Judge vectors by exact search; deterministic for a seed, and whatever the order of the base.

    Args:
        base: The images searched; without ``queries`` each of them also asks.
        subject: What is evaluated.
        queries: Images that ask; one whose id is also in the base does not find itself.
        ann_recall: The index's own ann_recall@10, carried into the report.
        options: Seed and sizes.

    Raises:
        UsageError: if no query has anything to find.
    """
    options = options or Options()
    asking = base if queries is None else queries
    ranking = query_set_ranks(asking, base, depth=options.gallery_neighbours)
    _check_something_to_find(ranking, subject.label)
    labels = [asking.labels[row] or "" for row in ranking.query_rows_Q.tolist()]
    values = _measures(ranking.found)
    worst, best = _classes(values["map"], labels)
    judged = Judged(queries=asking, base=base, ranking=ranking, average_precision_Q=values["map"])
    return EvaluationReport(
        n_queries=ranking.found.n_queries,
        metrics=summarise(
            values, ranking.found.n_relevant_Q, labels, seed=options.seed, n_resamples=options.n_resamples
        ),
        ann_recall_at_10=ann_recall,
        mode=Mode.LEAVE_ONE_OUT if queries is None else Mode.QUERY_SET,
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
    )


def _measures(found: RelevantRanks) -> dict[str, Floats]:
    return {
        "map": metrics.average_precision(found),
        "r_precision": metrics.r_precision(found),
        "map_at_r": metrics.map_at_r(found),
        "mrr": metrics.reciprocal_rank(found),
        "success@1": metrics.success_at(found, 1),
        "success@5": metrics.success_at(found, 5),
        "success@10": metrics.success_at(found, 10),
        "recall@10": metrics.recall_at(found, 10),
        "precision@10": metrics.precision_at(found, 10),
        "ndcg@10": metrics.ndcg_at(found, 10),
    }


def _check_something_to_find(ranking: Ranking, label: str) -> None:
    if ranking.found.n_queries == 0:
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
