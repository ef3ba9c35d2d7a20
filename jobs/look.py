"""What the source lists tonight, and how it differs from the newest snapshot: a run and its plan share it."""

from dataclasses import dataclass

import pyarrow as pa

from jobs.embedding import embed_config_id
from jobs.inherit import inherited
from jobs.run import Run
from pipeline.catalog.change import Change, diff
from pipeline.catalog.listing import list_catalog
from pipeline.catalog.table import Catalog
from pipeline.errors import StoreMismatch, UsageError
from pipeline.model.file import Model
from pipeline.snapshot.evolve import Parent, load_parent
from pipeline.snapshot.manifest import Manifest
from pipeline.snapshot.publish import newest
from pipeline.snapshot.requeue import requests, requeued, without


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listed:
    """What the source lists tonight, and how it differs from the newest snapshot.

    ``requeued`` are refused images that somebody asked to try again.
    ``again`` counts the known images that would be embedded again, ``why_again`` says why.
    """

    parent: Parent
    catalog: Catalog
    change: Change
    requeued: pa.Table
    again: int
    why_again: str


def look(run: Run, model: Model) -> Listed:
    """Lists the source and compares it with the newest snapshot; ``run`` takes over what it was not told.

    Raises:
        StoreMismatch: the collection is made from another source.
        SourceError: the source cannot be listed.
    """
    manifest = newest(run.store, run.config.collection)
    _check_source(run, manifest)
    run.config = inherited(run.asked, manifest)
    with run.stage("list"):
        catalog = _list(run)
    with run.stage("diff"):
        parent = load_parent(run.store, manifest, model.model_id, run.cache)
        again = requeued(parent.refused, requests(run.store, run.config.collection))
        lasting = without(parent.lasting_refusals(embed_config_id(run, model)), again)
        change = diff(catalog, parent.live, lasting)
    run.bytes_read += catalog.bytes_read
    count, why = _embedded_again(manifest, change, model)
    return Listed(parent=parent, catalog=catalog, change=change, requeued=again, again=count, why_again=why)


def check_reembed(run: Run, listed: Listed) -> None:
    """Refuses to embed more known images again than the configuration allows.

    Raises:
        UsageError: says how many, and which part of their key changed.
    """
    manifest = listed.parent.manifest
    known = 0 if manifest is None else manifest.content.live_rows
    if listed.again > run.config.max_reembed * known:
        raise UsageError(
            f"this run would embed {listed.again} of {known} known images again: {listed.why_again}",
            fix="pass --max-reembed 1 to do so, or --collection for a collection of its own",
        )


def _list(run: Run) -> Catalog:
    run.progress.stage("list", 1, "containers")
    shown = [1]

    def advance(done: int, total: int) -> None:
        if total != shown[0]:
            shown[0] = total
            run.progress.stage("list", total, "containers")
        run.progress.advance(done)

    return list_catalog(run.source, run.source_spec, run.store, run.cache, advance)


def _check_source(run: Run, manifest: Manifest | None) -> None:
    if manifest is None or manifest.source.uri == run.source_spec.uri or run.config.replace_source:
        return
    raise StoreMismatch(
        f"collection {run.config.collection!r} in {run.config.store} is made from {manifest.source.uri}, "
        f"not from {run.source_spec.uri}",
        fix="pass --replace-source if the catalog has moved, or another --collection",
    )


def _embedded_again(manifest: Manifest | None, change: Change, model: Model) -> tuple[int, str]:
    """How many known images would be embedded again, and which part of their key changed."""
    if manifest is None:
        return 0, ""
    old = manifest.content.model
    if old.id != model.model_id:
        now, before = f"{model.card.name} ({model.model_id[:12]})", f"{old.name} ({old.id[:12]})"
        return manifest.content.live_rows, f"the model is {now}, it was {before}"
    changed = int(change.changed.sum())
    return changed, "their versions in the catalog changed" if changed else ""
