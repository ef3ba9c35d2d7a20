"""``bitsieve experiment``: losses, miners, dimensions, amounts of data, poolings or networks, side by side.

1. A source with labels, or the generated catalog.
2. Each way of training with each seed (``trials``), judged on the same images of classes set apart.
3. One report: figures with intervals, what is shown to differ, and FaceNet's table where it has one.
"""

import os
from typing import Annotated, Any

import typer

from jobs.demo_catalog import N_TARS, write_demo_catalog
from jobs.evaluate.page import Page, write_page
from jobs.experiment.ways import Experiment
from jobs.output import print_result, say
from jobs.reindex_command import Config, Json, Setting
from jobs.run import default_cache
from jobs.session import open_run
from jobs.train import require_torch
from pipeline.config import load_catalog
from pipeline.errors import UsageError
from pipeline.evaluate.report.experiment_page import experiment_document, experiment_verdict, spread_in_words

EXAMPLE = "Example: bitsieve experiment losses photos/ --store models/ --label product -o losses.html"
_QUICK = ("train.steps=40", "train.validate_every=20", "train.patience=2", "train.warmup_steps=5")


def command(
    experiment: Annotated[Experiment, typer.Argument(help="What is compared.")],
    source: Annotated[
        str | None,
        typer.Argument(help="Folder or s3:// prefix; with -c the name of a catalog; generated if absent."),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Where trainings are kept: folder or s3:// prefix.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Attribute that says what an image shows.")] = None,
    model: Annotated[str | None, typer.Option(help="tiny, nn4, onnx:FILE … (train.network).")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each way.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Batches of each training (train.steps).")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few minutes: to see how it goes.")] = False,
    full: Annotated[bool, typer.Option("--full", help="flops: the networks as published.")] = False,
    format_: Annotated[
        str | None, typer.Option("--format", help="prefix, webdataset, parquet, listing or inventory.")
    ] = None,
    include: Annotated[list[str] | None, typer.Option(help="Only keys that match; may be repeated.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No keys that match; may be repeated.")] = None,
    output: Page = None,
    config: Config = None,
    settings: Setting = None,
    as_json: Json = False,
) -> None:
    """Ways of training beside each other, judged on classes that none of them has seen.

    Example: bitsieve experiment losses photos/ --store models/ --label product -o losses.html
    """
    require_torch()
    if full and experiment is not Experiment.FLOPS:
        raise UsageError("--full is for flops", fix="leave it away")
    generated = source is None and config is None
    flags: dict[str, Any] = {
        "source": _generated(quick=quick) if generated else None if config else source,
        "store": store,
        "label": "product" if generated else label,
        "train.network": model,
        "train.steps": steps,
        "read.format": format_,
        "read.include": include or None,
        "read.exclude": exclude or None,
    }
    told = [*(_QUICK if quick else ()), *(settings or [])]
    resolved = load_catalog(config, source, environ=os.environ, settings=told, flags=flags)
    if resolved.label is None:
        raise UsageError("which attribute says what an image shows?", fix="pass --label NAME")
    from jobs.experiment.trials import run_experiment  # it takes torch

    with open_run(resolved) as run:
        result = run_experiment(
            run, resolved.label, experiment, n_seeds=min(seeds, 2) if quick else seeds, full=full
        )
        result |= {"generated": generated, "quick": quick}
        run.ended = "compared"
    if output is not None:
        write_page(output, experiment_document(result), result)
    print_result(result, in_words(result), as_json=as_json)


def in_words(result: dict[str, Any]) -> str:
    """The result for people."""
    images = result["images"]
    lines = [
        f"{images['judged']} images of {result['n_classes']} classes that no training has seen, "
        f"{len(result['seeds'])} trainings of each way",
        f"{'':>20}  success@1   MAP@R  spread  VAL@FAR .001  MAP@R beside the reference",
    ]
    for way in result["ways"]:
        figures, found = way["metrics"], way["difference"]
        val = "none" if way["val"] is None else f"{way['val']['mean']:.4f}"
        shown = str(way["verdict"])
        if found is not None:
            shown += f": {found['difference']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})"
        lines.append(
            f"{way['name']:>20}  {figures['success@1']['mean']:9.4f} {figures['map_at_r']['mean']:7.4f} "
            f"{spread_in_words(figures['map_at_r']['sd']):>7} {val:>13}  {shown}"
        )
    return "\n".join([*lines, experiment_verdict(result).text])


def _generated(*, quick: bool) -> str:
    """The generated catalog, written to the cache unless it is there."""
    n_products, views = (40, 6) if quick else (200, 10)
    folder = default_cache(os.environ) / "experiment" / f"{n_products}x{views}"
    if len(list(folder.glob("*.tar"))) < N_TARS:
        say(f"generating {n_products * views} images of {n_products} products")
        write_demo_catalog(folder, n_products=n_products, views=views)
    return str(folder)
