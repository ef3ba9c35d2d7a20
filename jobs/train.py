"""``bitsieve train``: from labelled images to a network, in the store.

1. List the source, keep the images that carry the label.
2. Pack them on this machine; with a frozen trunk, compute its features once.
3. Train in Ray actors. A run that was killed goes on; one that has ended is not done again.

``bitsieve export-model`` makes the ONNX file. torch is imported when a training begins, not before.
"""

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.models import model_bytes
from jobs.older_model import older_in_words, stored_vectors
from jobs.output import print_result, say
from jobs.reindex_command import Config, Json, Setting
from jobs.run import Run
from jobs.session import open_run
from pipeline.catalog.listing import list_catalog
from pipeline.cluster.pool import ClusterOptions
from pipeline.cluster.ray_pool import RayPool
from pipeline.config import CatalogConfig, load_catalog
from pipeline.errors import GateRefused, UsageError
from pipeline.storage.probe import prepare_store
from pipeline.values import DecodeLimits

if TYPE_CHECKING:
    from pipeline.train.job import TrainJob
    from pipeline.train.loop import Data

_SHOWN = ("steps", "stopped", "best_step", "n_validations", "untrained", "validation", "last", "older")
EXAMPLE = "Example: bitsieve train photos/ --store models/ --label product --model onnx:trunk.onnx"


def command(
    source: Annotated[str, typer.Argument(help="Folder or s3:// prefix; with -c the name of a catalog.")],
    store: Annotated[
        str | None, typer.Option(help="Where trainings are kept: folder or s3:// prefix.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Attribute that says what an image shows.")] = None,
    model: Annotated[
        str | None, typer.Option(help="tiny, nn4, hf:NAME, onnx:FILE … (train.network).")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="triplet, arcface … (train.loss).")] = None,
    miner: Annotated[str | None, typer.Option(help="semi-hard, hard, random … (train.miner).")] = None,
    pooling: Annotated[str | None, typer.Option(help="gem, rmac … (train.pooling).")] = None,
    dim: Annotated[int | None, typer.Option(help="Length of the vectors (train.dim).")] = None,
    size: Annotated[str | None, typer.Option(help="S or HEIGHTxWIDTH in pixels (train.size).")] = None,
    steps: Annotated[int | None, typer.Option(help="Batches, at most (train.steps).")] = None,
    compatible_with: Annotated[
        str | None,
        typer.Option(help="STORE#COLLECTION of an older model whose vectors new queries shall search."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides all that is drawn (train.seed).")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that train as one (train.workers).")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="prefix, webdataset, parquet, listing or inventory.")
    ] = None,
    include: Annotated[list[str] | None, typer.Option(help="Only keys that match; may be repeated.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No keys that match; may be repeated.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="A running Ray cluster.")] = None,
    config: Config = None,
    settings: Setting = None,
    as_json: Json = False,
) -> None:
    """Train a network on labelled images; all settings are `train` in docs/configuration.md.

    Example: bitsieve train photos/ --store models/ --label product --model onnx:trunk.onnx
    """
    flags: dict[str, Any] = {
        "source": None if config else source,
        "store": store,
        "label": label,
        "train.network": model,
        "train.loss": loss,
        "train.miner": miner,
        "train.pooling": pooling,
        "train.dim": dim,
        "train.size": size,
        "train.steps": steps,
        "train.compatible_with": compatible_with,
        "train.seed": seed,
        "train.workers": workers,
        "read.format": format_,
        "read.include": include or None,
        "read.exclude": exclude or None,
        "embed.ray_address": ray_address,
    }
    resolved = load_catalog(config, source, environ=os.environ, settings=settings or [], flags=flags)
    if resolved.label is None:
        raise UsageError("which attribute says what an image shows?", fix="pass --label NAME")
    require_torch()
    with open_run(resolved) as run:
        result = train(run, resolved.label)
        run.ended = result["stopped"]
    older = result["older"]
    if older is not None and not older["accepted"]:
        say(in_words(result))
        raise GateRefused(
            f"training {result['training'][:16]} is kept, but not comparable with the older model: "
            f"{older['verdict']}",
            fix="raise train.compatible_weight or train.steps, train on more classes, or fit an adapter",
        )
    print_result(result, in_words(result), as_json=as_json)


def require_torch() -> None:
    """Refuses to train in an environment that cannot.

    Raises:
        UsageError: names what is missing.
    """
    try:
        import pipeline.train.loop  # noqa: F401
    except ModuleNotFoundError as exc:
        raise UsageError(
            f"training needs {exc.name}, which is not installed", "pip install 'bitsieve[train]'"
        ) from exc


def train(run: Run, label: str) -> dict[str, Any]:
    """Trains on the run's source; the result, as JSON values."""
    from pipeline.train.job import save_trunk
    from pipeline.train.results import training_result
    from pipeline.train.validate import COLLAPSED_BELOW

    started = time.monotonic()
    prepare_store(run.store, single_writer=run.config.single_writer)
    job = train_job(run, label)
    key = job.key()
    run.events.record("training_started", training=key, images=job.images.rows.num_rows)
    run.progress.stage("pack", job.images.rows.num_rows, "images")
    packed = job.pack(lambda _what, done, _total: run.progress.advance(done))
    data = job.data(packed)
    warnings = _warnings(data, packed.rejected)
    for warning in warnings:
        say(f"warning: {warning}")
    result = training_result(run.store, key)
    if result is None:
        if job.trunk is not None:
            run.progress.stage("features", len(packed.kept), "images")
            job.examples(packed, lambda _what, done, _total: run.progress.advance(done))
            save_trunk(job)
        result = _on_ray(run, job)
    if result["last"]["mean_distance"] < COLLAPSED_BELOW:
        apart = f"two images are {result['last']['mean_distance']:.3f} apart on average"
        warnings.append(
            f"the network has collapsed: {apart}; lower train.learning_rate, or choose another miner or loss"
        )
        say(f"warning: {warnings[-1]}")
    run.events.record("training_ended", training=key, steps=result["steps"], stopped=result["stopped"])
    return {
        "training": key,
        "images": {
            "train": len(data.train),
            "validation": len(data.held),
            "without_label": job.images.n_without_label,
            "rejected": packed.rejected,
        },
        "classes": len(job.images.names),
        **{name: result[name] for name in _SHOWN},
        "warnings": warnings,
        "seconds": round(time.monotonic() - started, 1),
    }


def _on_ray(run: Run, job: "TrainJob") -> dict[str, Any]:
    from pipeline.train.launch import launch

    settings = job.settings
    shared = 1.0 if run.config.embed.ray_address else max(1, (os.cpu_count() or 1) // settings.workers)
    cpus = settings.cpus or shared
    options = ClusterOptions(
        address=run.config.embed.ray_address,
        n_workers=settings.workers,
        cpus_per_worker=cpus,
        gpus_per_worker=1.0 if settings.gpu else 0.0,
    )
    run.progress.stage("train", settings.steps, "steps")
    with RayPool(options) as pool:
        result = launch(
            job,
            pool,
            threads=max(1, int(cpus)),
            watch=lambda progress: run.progress.advance(progress["step"], _note(progress)),
        )
    run.progress.advance(settings.steps)
    return result


def in_words(result: dict[str, Any]) -> str:
    """The result for people."""
    images, before, after = result["images"], result["untrained"], result["validation"]
    return "\n".join(
        [
            f"{images['train']} images to train on, {images['validation']} of other classes to validate; "
            f"{images['without_label']} without the label, {sum(images['rejected'].values())} rejected",
            f"{result['steps']} steps, the best after {result['best_step']}"
            + (", stopped: no better one came" if result["stopped"] == "patience" else ""),
            f"validation: success@1 {before['success_at_1']:.4f} before, {after['success_at_1']:.4f} after; "
            f"MAP@R {before['map_at_r']:.4f} before, {after['map_at_r']:.4f} after (the best of "
            f"{result['n_validations']} validations, which flatters; the last: "
            f"{result['last']['map_at_r']:.4f})",
            *older_in_words(result["older"]),
            f"training {result['training']}",
            f"next: bitsieve export-model {result['training'][:16]} --store … -o FILE --name … --license …",
        ]
    )


def train_job(run: Run, label: str) -> "TrainJob":
    """The training that the run's configuration asks for, on its source."""
    from pipeline.train.job import TrainJob
    from pipeline.train.labelled import labelled_images
    from pipeline.train.networks import input_size
    from pipeline.train.settings import ONNX

    config: CatalogConfig = run.config
    settings = config.train
    trunk = None
    if settings.network.startswith(ONNX):
        trunk = model_bytes(settings.network.removeprefix(ONNX))
    else:
        settings = settings.model_copy(update={"size": input_size(settings.network, settings.size)})
    run.progress.stage("list", 1, "files")
    catalog = list_catalog(
        run.source, run.source_spec, run.store, run.cache, lambda done, _total: run.progress.advance(done)
    )
    images = labelled_images(catalog.images(), label, settings.separator)
    older = None
    if settings.compatible_with:
        ids = images.rows["image_id"].to_pylist()
        older = stored_vectors(settings.compatible_with, ids, label, settings.dim)
    return TrainJob(
        settings=settings,
        images=images,
        source=run.source,
        spec=run.source_spec,
        store=run.store,
        folder=run.cache / "training",
        trunk=trunk,
        older=older,
        limits=DecodeLimits(**config.decode.model_dump()),
    )


def _warnings(data: "Data", rejected: dict[str, int]) -> list[str]:
    warnings = [f"{count} images were left out: {reason}" for reason, count in rejected.items()]
    if data.single_labels:
        counts = Counter(data.labels[data.train].tolist())
        alone = sum(count == 1 for count in counts.values())
        if alone:
            warnings.append(f"{alone} of {len(counts)} classes to train on have one image: they make no pair")
    return warnings


def _note(progress: dict[str, Any]) -> str:
    words = [] if progress["loss"] is None else [f"loss {progress['loss']:.4f}"]
    if progress["validation"] is not None:
        words.append(f"MAP@R {progress['validation']['map_at_r']:.4f}")
    return ", ".join(words)
