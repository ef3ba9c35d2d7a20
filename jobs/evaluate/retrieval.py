"""``bitsieve evaluate retrieval``: what a query finds among all images, with exact search."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.evaluate.page import write_page
from jobs.evaluate.subject import label_column, labelled_vectors
from jobs.output import print_result
from jobs.place import Collection, Config, Store, find_place
from jobs.run import software_versions
from pipeline.evaluate.evaluation import Estimate, EvaluationReport
from pipeline.evaluate.report.facts import CurvePoint, IndexFacts, RunFacts
from pipeline.evaluate.report.retrieval_page import retrieval_document
from pipeline.evaluate.retrieval import Subject, evaluate_retrieval
from pipeline.snapshot.open import OpenSnapshot

_SHOWN = ("success@1", "success@10", "map", "r_precision", "precision@10", "recall@10", "ndcg@10")


def command(
    store: Store,
    label: Annotated[str | None, typer.Option(help="Attribute that makes two images relevant.")] = None,
    collection: Collection = None,
    config: Config = None,
    sequence: Annotated[int | None, typer.Option("--snapshot", help="An earlier snapshot.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="HTML page; JSON beside it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Retrieval metrics, leave-one-out over the whole snapshot with exact search, and a page with pictures.

    Example: bitsieve evaluate retrieval --store index/ --label identity -o report.html
    """
    snapshot = find_place(store, collection, config).snapshot(sequence)
    report = retrieval_report(snapshot, label)
    if output is not None:
        write_report(snapshot, report, output)
    shown = [_line(name, report) for name in _SHOWN]
    where = [f"report: {output}"] if output is not None else []
    head = f"{report.n_queries} queries over {report.n_images} images, label {report.label}"
    print_result(report.to_json(), "\n".join([head, *shown, *where]), as_json=as_json)


def retrieval_report(snapshot: OpenSnapshot, label: str | None) -> EvaluationReport:
    """Evaluates the snapshot by ``label``, or by the label it was indexed with.

    Raises:
        UsageError: no label, or nothing that could be found.
    """
    column, content = label_column(snapshot, label), snapshot.content
    point = content.operating_point()
    found = point.ann_recall.get(10)
    return evaluate_retrieval(
        labelled_vectors(snapshot, column),
        Subject(
            label=column,
            model_id=content.model.id,
            snapshot=snapshot.manifest.sequence,
            digest=snapshot.manifest.digest,
            software=software_versions(),
        ),
        ann_recall=None if found is None else Estimate(mean=found.mean, low=found.low, high=found.high),
    )


def write_report(snapshot: OpenSnapshot, report: EvaluationReport, output: Path) -> None:
    """Writes the page to ``output`` and the JSON beside it."""
    document = retrieval_document(report, index=_index_facts(snapshot), run=_run_facts(snapshot))
    write_page(output, document, report.to_json(), snapshot)


def _line(name: str, report: EvaluationReport) -> str:
    metric = report.metrics[name]
    return f"  {name:<13} {metric.macro:.4f}  (95 % interval {metric.low:.4f} to {metric.high:.4f})"


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
        finished_at=manifest.created,
        rejects=manifest.content.rejected,
        **manifest.coverage.model_dump(),
    )
