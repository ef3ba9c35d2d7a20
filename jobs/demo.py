"""``bitsieve demo``: the whole pipeline on a generated shop, from tars to a report, with the built-in model.

1. Write a catalog: about 2,000 photos of 200 products as tars, a few files broken the way real feeds break.
2. First night: index everything, publish snapshot 1.
3. A night passes: 1 % of the photos change, one product is new, some photos are gone. Publish snapshot 2.
4. Search with a photo that is not in the catalog.
5. Evaluate: leave-one-out over the snapshot; the model beside others (``demo_models``); a page with pictures.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.demo_catalog import CatalogNight, DemoCatalog, write_demo_catalog, write_second_night
from jobs.demo_models import Comparisons, compare_models, models_json, models_line, with_models
from jobs.evaluate.page import write_page
from jobs.evaluate.retrieval import report_document, retrieval_report
from jobs.models import BUILTIN
from jobs.output import AsJson, print_result, say
from jobs.progress import TerminalProgress
from jobs.reindex import Night, reindex
from jobs.search import search_images
from jobs.session import open_run, open_snapshot
from pipeline.config import CatalogConfig
from pipeline.errors import UsageError
from pipeline.evaluate.evaluation import EvaluationReport
from pipeline.images.products import product_jpeg

_MARKER = "bitsieve-demo.json"
_VIEWS = 10
_UNSEEN_VIEW = 55  # the catalog has views 0 to 9, its second night views of 100 and more
_QUERY_PRODUCT = 12


def command(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for everything the demo makes.")
    ] = Path("demo-output"),
    products: Annotated[int, typer.Option(min=20, help="How many products the shop has.")] = 200,
    sift: Annotated[
        bool, typer.Option("--sift", help="Also judge SIFT and visual words beside the model; minutes more.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The whole pipeline on a small generated catalog, ending in a report; no network, about a minute.

    Example: bitsieve demo -o /tmp/demo
    """
    started = time.monotonic()
    folder = output.absolute()
    _make_folder(folder)
    say(f"bitsieve demo: a shop of {products} products in {folder}")
    with TerminalProgress() as progress:
        progress.stage("photograph", products * _VIEWS, "photos")
        catalog = write_demo_catalog(
            folder / "catalog", n_products=products, views=_VIEWS, advance=progress.advance
        )
    config = CatalogConfig(
        source=str(folder / "catalog"), store=str(folder / "store"), model=BUILTIN, label="product"
    )
    say("first night: index everything")
    first = _night(config)
    change = write_second_night(folder / "catalog")
    say("second night: only what changed")
    second = _night(config)
    query = folder / "query.jpg"
    query.write_bytes(product_jpeg(_QUERY_PRODUCT, _UNSEEN_VIEW))
    snapshot = open_snapshot(config.store, config.collection, None)
    found = search_images(snapshot, [query], 5, exact=False)["results"][0]
    say("evaluate: every photo is a query, the other photos of its product are what it should find")
    report = retrieval_report(snapshot, None)
    say("the same photos by other models")
    models = compare_models(snapshot, sift=folder / "sift.onnx" if sift else None)
    shown = {**report.to_json(), "models": models_json(models)}
    write_page(
        folder / "report.html", with_models(report_document(snapshot, report), models), shown, snapshot
    )
    result = {
        "seconds": round(time.monotonic() - started, 1),
        "catalog": {"images": catalog.n_images, "broken": len(catalog.broken)},
        "first_night": first.manifest.coverage.model_dump(),
        "second_night": second.manifest.coverage.model_dump(),
        "search": found,
        "evaluation": report.to_json()["metrics"],
        "models": models_json(models),
        "report": str(folder / "report.html"),
    }
    (folder / _MARKER).write_text(json.dumps(result, indent=1))
    lines = [
        *_nights(catalog, first, change, second),
        *_findings(found, report, models, folder),
        f"took {result['seconds']} s",
    ]
    print_result(result, "\n".join(lines), as_json=as_json)


def _night(config: CatalogConfig) -> Night:
    with open_run(config) as run:
        return reindex(run)


def _make_folder(folder: Path) -> None:
    """An empty folder; what an earlier demo made there is removed, anything else is not touched."""
    if (folder / _MARKER).is_file():
        shutil.rmtree(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and not from a demo", fix="name another folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).write_text("{}")


def _nights(catalog: DemoCatalog, first: Night, change: CatalogNight, second: Night) -> list[str]:
    one, two = first.manifest.coverage, second.manifest.coverage
    point = second.manifest.content.operating_point()
    reasons = ", ".join(f"{count} {reason}" for reason, count in first.manifest.content.rejected.items())
    found = point.ann_recall[point.k]
    how = (
        f"{point.bits}-bit Hamming first stage, {point.candidates[point.k]} candidates re-ranked exactly"
        if point.method == "hamming"
        else "exact search, the catalog is small"
    )
    return [
        f"catalog       {catalog.n_images} photos and {len(catalog.broken)} broken files "
        f"in {len(catalog.tars)} tars",
        f"first night   {one.listed} listed = {one.embedded} embedded + {one.rejected} rejected ({reasons})",
        f"second night  {len(change.changed)} changed, {len(change.added)} added, "
        f"{len(change.deleted)} deleted: {two.embedded} embedded, {two.reused} reused, {two.deleted} deleted",
        f"index         {second.manifest.content.live_rows} vectors, {how}",
        f"recall        asked .99, measured {found.mean:.4f} ({found.low:.4f} to {found.high:.4f}) "
        f"of the 10 exact nearest",
        f"published     snapshots {first.manifest.sequence} and {second.manifest.sequence}, "
        f"{sum(gate.passed for gate in second.manifest.gates)} of "
        f"{len(second.manifest.gates)} gates passed",
    ]


def _findings(
    found: dict[str, Any], report: EvaluationReport, models: Comparisons, folder: Path
) -> list[str]:
    labels = [match["label"] for match in found["matches"]]
    right = sum(label == f"p{_QUERY_PRODUCT:04d}" for label in labels)
    success, average = report.metrics["success@1"], report.metrics["map"]
    return [
        f"search        an unseen photo of p{_QUERY_PRODUCT:04d} finds {', '.join(labels)}: "
        f"{right} of {len(labels)} right",
        f"evaluation    success@1 {success.macro:.3f}, mAP {average.macro:.3f}, {report.n_queries} queries",
        f"model         {models_line(models)}",
        f"report        {os.path.relpath(folder / 'report.html')}",
    ]
