"""``bitsieve backfill``: everything for a model, in any number of sittings; ends as a candidate.

A sitting embeds image shards that have no receipt until its limits are reached or none is left. The sitting
after which none is left fits, reduces, calibrates and judges, and keeps what it made as a candidate, which
``bitsieve publish`` publishes. Nothing is remembered between sittings but receipts, so one that is killed is
simply started again.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.hooks import REFUSED, announce
from jobs.limits import limit_in_words
from jobs.output import AsJson, hours_in_words, print_result, say
from jobs.place import Source
from jobs.reindex import Night, backfill
from jobs.reindex_command import counted_in_words, index_in_words, overrides, refusal
from jobs.run import Run
from jobs.session import open_run
from jobs.sitting import Sitting, SittingOver
from jobs.summary import summary
from pipeline.config import CatalogConfig, load_catalog
from pipeline.errors import GateRefused


def command(
    source: Source = None,
    store: Annotated[str | None, typer.Option(help="Where the index lives: folder or s3:// prefix.")] = None,
    model: Annotated[str | None, typer.Option(help="ONNX file with a card, or `builtin`.")] = None,
    collection: Annotated[str | None, typer.Option(help="Collection in the store, `main` if absent.")] = None,
    label: Annotated[str | None, typer.Option(help="Attribute that names what an image shows.")] = None,
    max_hours: Annotated[float | None, typer.Option(min=0.0, help="Hours this sitting embeds.")] = None,
    max_images: Annotated[
        int | None, typer.Option(min=1, help="Images this sitting embeds, in whole image shards.")
    ] = None,
    override: Annotated[list[str] | None, typer.Option(help="GATE=REASON, recorded.")] = None,
    workers: Annotated[int | None, typer.Option(help="Actors; one per CPU or GPU if absent.")] = None,
    provider: Annotated[str | None, typer.Option(help="cpu, cuda or tensorrt.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="A running Ray cluster.")] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="TOML file with named catalogs.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value.")] = None,
    as_json: AsJson = False,
) -> int:
    """Everything for a model, in any number of sittings; ends as a candidate for `bitsieve publish`.

    Example: bitsieve backfill photos/ --store index/ --model new.onnx --collection canary --max-hours 8
    """
    flags: dict[str, Any] = {
        "source": None if config else source,
        "store": store,
        "model": model,
        "collection": collection,
        "label": label,
        "gates.override": overrides(override) if override else None,
        "embed.workers": workers,
        "embed.provider": provider,
        "embed.ray_address": ray_address,
    }
    resolved = load_catalog(config, source, environ=os.environ, settings=settings or [], flags=flags)
    return run_sitting(resolved, Sitting.of(max_hours, max_images), as_json=as_json)


def run_sitting(config: CatalogConfig, sitting: Sitting, *, as_json: bool) -> int:
    """Runs one sitting and prints how it ended; the exit code."""
    with open_run(config) as run:
        try:
            night = backfill(run, sitting)
        except SittingOver as over:
            run.ended = "incomplete"
            print_result(_unfinished(run, over), _unfinished_in_words(run, over), as_json=as_json)
            return 0
    result = {**summary(run, night), "complete": True, "left": 0}
    if night.refused:
        refused = refusal(night)
        result["error"] = {"kind": refused.kind, "message": refused.message, "fix": refused.fix}
        say(f"bitsieve: {refused.kind}: {refused}")
    print_result(result, _in_words(run, night), as_json=as_json)
    if night.refused:
        announce(config.hooks, REFUSED, result)
    return GateRefused.exit_code if night.refused else 0


def _unfinished(run: Run, over: SittingOver) -> Mapping[str, Any]:
    return {
        "collection": run.config.collection,
        "run": run.run_id,
        "complete": False,
        "done": over.done,
        "left": over.left,
        "now": dict(run.images_now),
        "bytes": {"read": run.bytes_read, "written": run.bytes_written},
        "seconds": run.seconds,
    }


def _unfinished_in_words(run: Run, over: SittingOver) -> str:
    n_now, embed_s = sum(run.images_now.values()), run.seconds.get("embed", 0.0)
    lines = [f"{over.done} of {over.done + over.left} images done, {n_now} of them in this sitting"]
    if n_now and embed_s:
        hours = over.left / (n_now / embed_s) / 3600
        limit = limit_in_words(run.embed_seconds, run.embed_workers)
        lines.append(f"embedded {n_now / embed_s:.0f} images/s, {limit}".removesuffix(", "))
        lines.append(f"at this pace {hours_in_words(hours)} are left: run the same command again")
    else:
        lines.append("run the same command again for the rest")
    return "\n".join(lines)


def _in_words(run: Run, night: Night) -> str:
    manifest = night.manifest
    lines = [*counted_in_words(manifest), *index_in_words(manifest)]
    if night.candidate_key is None:
        lines.append(f"nothing changed: snapshot {manifest.sequence} of {manifest.collection} stands")
    elif not night.refused:
        lines.append(
            f"complete: `bitsieve publish {run.run_id} --store {run.config.store} "
            f"--collection {manifest.collection}` publishes it"
        )
    return "\n".join(lines)
