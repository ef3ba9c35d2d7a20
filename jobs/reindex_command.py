"""``bitsieve reindex``: the command line of one night."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.hooks import PUBLISHED, REFUSED, announce
from jobs.limits import limit_in_words
from jobs.output import print_result, say
from jobs.place import Source
from jobs.reindex import Night, reindex
from jobs.run import Run
from jobs.session import open_run
from jobs.summary import summary
from pipeline.catalog.change_list import ChangeList, read_changes
from pipeline.config import CatalogConfig, load_catalog
from pipeline.errors import GateRefused, UsageError
from pipeline.snapshot.gates import refusing
from pipeline.snapshot.manifest import Manifest

Config = Annotated[Path | None, typer.Option("-c", "--config", help="TOML file with named catalogs.")]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value, see docs/configuration.md.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def command(
    source: Source = None,
    store: Annotated[str | None, typer.Option(help="Where the index lives: folder or s3:// prefix.")] = None,
    model: Annotated[str | None, typer.Option(help="ONNX file with a card, or `builtin`.")] = None,
    label: Annotated[str | None, typer.Option(help="Attribute that names what an image shows.")] = None,
    collection: Annotated[str | None, typer.Option(help="Collection in the store, `main` if absent.")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="prefix, webdataset, parquet, listing or inventory.")
    ] = None,
    root: Annotated[str | None, typer.Option(help="Where the images of a listing file are.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Only keys that match; may be repeated.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No keys that match; may be repeated.")] = None,
    id_template: Annotated[str | None, typer.Option(help="Tar ids, of {name} and {tar}.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Parquet: column with ids.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Parquet: column with image bytes.")] = None,
    recall: Annotated[float | None, typer.Option(help="ann_recall@10 to reach, .99 if absent.")] = None,
    bits: Annotated[int | None, typer.Option(help="Bits of a code; chosen if absent.")] = None,
    vector_dtype: Annotated[str | None, typer.Option(help="Second stage: float32, float16 or int8.")] = None,
    refit: Annotated[bool, typer.Option("--refit", help="New encoder, new index shards.")] = False,
    changes: Annotated[Path | None, typer.Option(help="A change list; the source is not listed.")] = None,
    replace_source: Annotated[bool, typer.Option("--replace-source", help="The catalog has moved.")] = False,
    max_reembed: Annotated[float | None, typer.Option(help="Share of known rows to embed again.")] = None,
    override: Annotated[list[str] | None, typer.Option(help="GATE=REASON, recorded.")] = None,
    single_writer: Annotated[
        bool, typer.Option("--single-writer", help="Store without atomic create.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Actors; one per CPU or GPU if absent.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per inference call.")] = None,
    memory_budget: Annotated[int | None, typer.Option(help="Bytes a worker may hold.")] = None,
    provider: Annotated[str | None, typer.Option(help="cpu, cuda or tensorrt.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="A running Ray cluster.")] = None,
    config: Config = None,
    settings: Setting = None,
    as_json: Json = False,
) -> int:
    """One night: list, diff, embed what changed, index, calibrate, gate, publish.

    Example: bitsieve reindex photos/ --store index/ --model faces.onnx --label identity
    """
    flags: dict[str, Any] = {
        "source": None if config else source,
        "store": store,
        "model": model,
        "label": label,
        "collection": collection,
        "read.format": format_,
        "read.root": root,
        "read.include": include or None,
        "read.exclude": exclude or None,
        "read.id_template": id_template,
        "read.id_column": id_column,
        "read.image_column": image_column,
        "index.recall": recall,
        "index.bits": bits,
        "index.vector_dtype": vector_dtype,
        "index.refit": refit or None,
        "replace_source": replace_source or None,
        "max_reembed": max_reembed,
        "gates.override": overrides(override) if override else None,
        "single_writer": single_writer or None,
        "embed.workers": workers,
        "embed.batch_size": batch_size,
        "embed.memory_budget": memory_budget,
        "embed.provider": provider,
        "embed.ray_address": ray_address,
    }
    resolved = load_catalog(config, source, environ=os.environ, settings=settings or [], flags=flags)
    told = None if changes is None else read_changes(changes)
    return run_night(resolved, as_json=as_json, job=partial(_night, told))


def _night(changes: ChangeList | None, run: Run) -> Night:
    run.changes = changes
    return reindex(run)


def run_night(
    config: CatalogConfig,
    *,
    as_json: bool,
    job: Callable[[Run], Night] = reindex,
    more: Callable[[], tuple[Mapping[str, Any], str]] | None = None,
) -> int:
    """Runs one night and prints how it ended; the exit code. ``more`` adds to the result and to the words."""
    with open_run(config) as run:
        night = job(run)
    facts, words = more() if more else ({}, "")
    result = {**summary(run, night), **facts}
    if night.refused:
        refused = refusal(night)
        result["error"] = {"kind": refused.kind, "message": refused.message, "fix": refused.fix}
        say(f"bitsieve: {refused.kind}: {refused}")
    print_result(result, "\n".join(filter(None, [words, in_words(run, night)])), as_json=as_json)
    if night.refused or night.published:
        announce(config.hooks, REFUSED if night.refused else PUBLISHED, result)
    return GateRefused.exit_code if night.refused else 0


def refusal(night: Night) -> GateRefused:
    """What keeps the candidate of a night from being published, and what to do."""
    refusals = "; ".join(f"{gate.name} ({gate.message})" for gate in refusing(night.manifest.gates))
    fix = (
        f"look at {night.candidate_key}, mend the cause, or publish it all the same: "
        f"`bitsieve publish {night.manifest.run_id} --override GATE=REASON`"
    )
    return GateRefused(f"not published: {refusals}", fix=fix)


def counted_in_words(manifest: Manifest) -> list[str]:
    """The coverage identity, and why images were refused."""
    coverage = manifest.coverage
    lines = [
        f"{coverage.listed} listed = {coverage.embedded} embedded + {coverage.reused} reused + "
        f"{coverage.stale} stale + {coverage.rejected} rejected + {coverage.set_aside} set aside; "
        f"{coverage.deleted} deleted"
    ]
    if manifest.content.rejected:
        counts = ", ".join(f"{count} {reason}" for reason, count in manifest.content.rejected.items())
        lines.append(f"refused for: {counts}")
    return lines


def index_in_words(manifest: Manifest) -> list[str]:
    """The index and its recall."""
    point = manifest.content.operating_point()
    found = point.ann_recall.get(point.k)
    if point.method == "exact":
        return [f"index: {manifest.content.live_rows} vectors, exact search"]
    if found is None:
        return []
    return [
        f"index: {manifest.content.live_rows} vectors in "
        f"{len(manifest.content.index_shards)} index shards, "
        f"{point.bits} bits, {point.candidates[point.k]} candidates"
        f"{f' in {point.probes[point.k]} lists' if point.probes else ''}; "
        f"ann_recall@{point.k} {found.mean:.4f} (95 % interval {found.low:.4f} to {found.high:.4f})"
    ]


def in_words(run: Run, night: Night) -> str:
    """The end of a night for people: the coverage identity, the index, and what was published."""
    manifest = night.manifest
    lines = [*counted_in_words(manifest), *index_in_words(manifest)]
    if run.drift is not None and run.drift.advice:
        lines.append(f"a refit is advised (--refit): {run.drift.advice}")
    embed_s = run.seconds.get("embed", 0.0)
    n_images = sum(run.images_now.values())
    if n_images and embed_s:
        limit = limit_in_words(run.embed_seconds, run.embed_workers)
        lines.append(f"embedded {n_images / embed_s:.0f} images/s, {limit}".removesuffix(", "))
    if run.compared is not None:
        lines.append(run.compared.in_words())
    if night.published:
        lines.append(
            f"published snapshot {manifest.sequence} of {manifest.collection}: {manifest.digest[:16]}"
        )
    elif not night.refused:
        lines.append(f"nothing changed: snapshot {manifest.sequence} of {manifest.collection} stands")
    return "\n".join(lines)


def overrides(given: list[str]) -> dict[str, str]:
    """``GATE=REASON`` pairs.

    Raises:
        UsageError: a reason is missing.
    """
    pairs = {}
    for text in given:
        gate, _, reason = text.partition("=")
        if not reason.strip():
            raise UsageError(
                f"--override {text!r} gives no reason", fix="for example --override shrink='season ended'"
            )
        pairs[gate.strip()] = reason.strip()
    return pairs
