"""``bitsieve evaluate retrieval``: what a query finds among all images, with exact search."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.evaluate.page import Page, write_page
from jobs.evaluate.pictures import query_thumbnails
from jobs.evaluate.ranking_ray import rank_on_ray
from jobs.evaluate.ranking_shown import rank_shown
from jobs.evaluate.retrieval_question import RetrievalQuestion, SnapshotRef
from jobs.evaluate.subject import check_one_model, label_column, named_snapshot, numbers, read_text
from jobs.on_ray import RayAddress, RayWorkers, ray_options
from jobs.output import AsJson, print_result
from jobs.place import Collection, Config, SnapshotNumber, Store, find_place
from jobs.run import software_versions
from pipeline.cluster.pool import ClusterOptions
from pipeline.evaluate.evaluation import Estimate, EvaluationReport
from pipeline.evaluate.judgements_file import read_ids, read_judgements
from pipeline.evaluate.report import Document
from pipeline.evaluate.report.facts import CurvePoint, IndexFacts, RunFacts
from pipeline.evaluate.report.retrieval_page import retrieval_document
from pipeline.evaluate.retrieval import Options, Subject, evaluate_retrieval
from pipeline.snapshot.open import OpenSnapshot

_SHOWN = ("success@1", "success@10", "map", "r_precision", "precision@10", "recall@10", "ndcg@10")


def command(
    store: Store,
    label: Annotated[str | None, typer.Option(help="Attribute that makes two images relevant.")] = None,
    queries: Annotated[
        str | None, typer.Option(help="Who asks: another COLLECTION or COLLECTION@SNAPSHOT of the store.")
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option(help="Judgements: query, image, grade; in place of the label.")
    ] = None,
    junk: Annotated[
        Path | None, typer.Option(help="Image ids, one a line, that are neither right nor wrong.")
    ] = None,
    collapse: Annotated[
        str | None, typer.Option(help="Rank values of this attribute, such as products, not images.")
    ] = None,
    slices: Annotated[
        list[str] | None, typer.Option("--slice", help="Attribute to look into; may be repeated.")
    ] = None,
    ks: Annotated[str, typer.Option("-k", help="More depths to measure at, with commas.")] = "",
    sample: Annotated[
        int | None, typer.Option(min=1, help="How many queries are drawn; all if absent.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample and the intervals.")] = 0,
    ray: Annotated[bool, typer.Option("--ray", help="Rank the queries on Ray actors.")] = False,
    ray_address: RayAddress = None,
    workers: RayWorkers = None,
    collection: Collection = None,
    config: Config = None,
    sequence: SnapshotNumber = None,
    output: Page = None,
    as_json: AsJson = False,
) -> None:
    """Retrieval metrics with exact search, leave-one-out or by a query set, and a page with pictures.

    Example: bitsieve evaluate retrieval --store index/ --label identity -o report.html
    """
    cluster = ray_options(ray, ray_address, workers)
    place = find_place(store, collection, config)
    snapshot = place.snapshot(sequence)
    asking = None if queries is None else named_snapshot(place, queries)
    question = RetrievalQuestion(
        base=SnapshotRef.of(snapshot),
        label=None if qrels is not None and label is None else label_column(snapshot, label),
        queries=None if asking is None else SnapshotRef.of(asking),
        judgements=None if qrels is None else read_judgements(read_text(qrels), str(qrels)),
        junk=frozenset() if junk is None else read_ids(read_text(junk), str(junk)),
        collapse=collapse,
        sliced_by=tuple(slices or ()),
        sample=sample,
        options=Options(seed=seed, ks=numbers(ks) if ks else ()),
    )
    report = answered(snapshot, question, cluster)
    if output is not None:
        write_report(snapshot, report, output, asking)
    shown = [_line(name, report) for name in _SHOWN]
    where = [f"report: {output}"] if output is not None else []
    right = "judged pairs" if report.judged else f"label {report.label}"
    head = f"{report.n_queries} queries over {report.n_images} images, {right}"
    print_result(report.to_json(), "\n".join([head, *shown, *_left_out(report), *where]), as_json=as_json)


def retrieval_report(snapshot: OpenSnapshot, label: str | None) -> EvaluationReport:
    """Evaluates the snapshot by ``label``, or by the label it was indexed with, leave-one-out.

    Raises:
        UsageError: no label, or nothing that could be found.
    """
    base = SnapshotRef.of(snapshot)
    return answered(snapshot, RetrievalQuestion(base=base, label=label_column(snapshot, label)), None)


def answered(
    snapshot: OpenSnapshot, question: RetrievalQuestion, cluster: ClusterOptions | None
) -> EvaluationReport:
    """Answers a question about a snapshot, here or on Ray.

    Raises:
        UsageError: nothing could be found, or nothing could be wrong; another model made the query set.
    """
    content = snapshot.content
    if question.queries is not None:
        check_one_model(question.queries.manifest, snapshot.manifest)
    posed, found = question.posed(), content.operating_point().ann_recall.get(10)
    return evaluate_retrieval(
        posed.base,
        Subject(
            label=posed.label,
            model_id=content.model.id,
            snapshot=snapshot.manifest.sequence,
            digest=snapshot.manifest.digest,
            asked_by=_named(question.queries),
            software=software_versions(),
        ),
        asked=posed.asked,
        ann_recall=None if found is None else Estimate(mean=found.mean, low=found.low, high=found.high),
        options=posed.options,
        rank=rank_shown if cluster is None else rank_on_ray(question, cluster),
    )


def write_report(
    snapshot: OpenSnapshot, report: EvaluationReport, output: Path, asking: OpenSnapshot | None = None
) -> None:
    """Writes the page to ``output`` and the JSON beside it; ``asking`` has the pictures of the queries."""
    document = report_document(snapshot, report)
    shown = {} if asking is None else query_thumbnails(asking, [one.image_id for one in report.gallery])
    write_page(output, document, report.to_json(), snapshot, others=shown)


def report_document(snapshot: OpenSnapshot, report: EvaluationReport) -> Document:
    """What the page says: the evaluation, the index, and what the run covered."""
    return retrieval_document(report, index=_index_facts(snapshot), run=_run_facts(snapshot))


def _left_out(report: EvaluationReport) -> list[str]:
    """What was not judged, and why."""
    counts = [
        (
            report.n_without_label,
            "queries without a judgement" if report.judged else "images without the label",
        ),
        (report.n_queries_without_relevants, "queries with nothing to find"),
        (report.n_not_drawn, "queries not drawn"),
        (report.n_unknown_queries, "judged queries that are no images here"),
        (report.n_unknown_images, "judged images that are not here"),
        (report.n_junk, "junk images"),
    ]
    said = [f"{n} {what}" for n, what in counts if n]
    lines = [f"  left out: {', '.join(said)}"] if said else []
    if report.n_namesakes:
        lines.append(
            f"  {report.n_namesakes} queries have the id of another picture, which is judged like any"
        )
    if report.unjudged_at_10 is not None:
        lines.append(
            f"  unjudged@10   {report.unjudged_at_10.mean:.4f} of the first ten were judged by nobody"
        )
    return lines


def _line(name: str, report: EvaluationReport) -> str:
    metric = report.metrics[name]
    return f"  {name:<13} {metric.macro:.4f}  (95 % interval {metric.low:.4f} to {metric.high:.4f})"


def _named(asking: SnapshotRef | None) -> str:
    return "" if asking is None else f"{asking.manifest.collection}@{asking.manifest.sequence}"


def _index_facts(snapshot: OpenSnapshot) -> IndexFacts:
    point = snapshot.content.operating_point()
    found = point.ann_recall[point.k]
    return IndexFacts(
        method=point.method,
        n_vectors=snapshot.content.live_rows,
        bits=point.bits or 0,
        candidates=point.candidates.get(point.k, 0),
        recall_asked=point.target,
        recall=Estimate(mean=found.mean, low=found.low, high=found.high),
        n_calibration_queries=point.n_verification,
        k=point.k,
        curve=tuple(
            CurvePoint(candidates=p.candidates, recall=p.recall[point.k]) for p in point.curve_in_use()
        ),
    )


def _run_facts(snapshot: OpenSnapshot) -> RunFacts:
    manifest = snapshot.manifest
    return RunFacts(
        collection=manifest.collection,
        source=manifest.source.uri,
        finished_at=f"{manifest.created[:16].replace('T', ' ')} UTC",
        rejects=manifest.content.rejected,
        **manifest.coverage.model_dump(),
    )
