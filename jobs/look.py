"""What the source lists tonight, and how it differs from the newest snapshot: a run and its plan share it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from jobs.changes import changed_catalog
from jobs.embedding import embed_config_id
from jobs.inherit import inherited
from jobs.run import Run
from pipeline.catalog.change import Change, diff
from pipeline.catalog.listing import list_catalog
from pipeline.catalog.plan import ImageShard
from pipeline.catalog.table import Catalog
from pipeline.errors import StoreMismatch
from pipeline.model.described import Model
from pipeline.snapshot.attributes import attributes_table
from pipeline.snapshot.evolve import Parent, load_parent
from pipeline.snapshot.manifest import Manifest
from pipeline.snapshot.publish import newest
from pipeline.snapshot.purge import without_purged
from pipeline.snapshot.requeue import plan_with_requeued, requests, requeued, without
from pipeline.snapshot.reuse import Reusable, reusable


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listed:
    """What the source lists tonight, and how it differs from the newest snapshot.

    ``requeued`` are refused images that somebody asked to try again; ``known`` is what has a vector already.
    ``attributes`` are those of all images of the catalog.
    """

    parent: Parent
    catalog: Catalog
    change: Change
    requeued: pa.Table
    known: Reusable
    attributes: pa.Table


def look(run: Run, model: Model, on_change: Callable[[bool], None] | None = None) -> Listed:
    """Lists the source and compares it with the newest snapshot; ``run`` takes over what it was not told.

    Nothing is listed where the run has a change list: then the catalog is the newest snapshot's, changed.
    ``on_change`` is called, perhaps often, while tars or files are listed that are not as they were, with
    whether no image has a vector yet.

    Raises:
        StoreMismatch: the collection is made from another source.
        SourceError: the source cannot be listed.
    """
    manifest = newest(run.store, run.config.collection)
    _check_source(run, manifest)
    run.config = inherited(run.asked, manifest)
    with run.stage("diff"):
        parent = load_parent(run.store, manifest, model.model_id, run.cache)
    with run.stage("list"):
        if run.changes is None:
            is_first = not parent.live.num_rows
            catalog = _list(run, None if on_change is None else partial(on_change, is_first))
            attributes = attributes_table(catalog.images())
        else:
            catalog, attributes = changed_catalog(run, manifest, parent, run.changes)
    with run.stage("diff"):
        again = requeued(parent.refused, requests(run.store, run.config.collection))
        config_id = embed_config_id(run, model)
        lasting = without(parent.lasting_refusals(config_id), again)
        change = diff(catalog, parent.live, lasting)
        known = reusable(parent.live, parent.parts, config_id)
    run.bytes_read += catalog.bytes_read
    return Listed(
        parent=parent, catalog=catalog, change=change, requeued=again, known=known, attributes=attributes
    )


def image_shards(run: Run, listed: Listed) -> list[ImageShard]:
    """The units of work for what is fresh tonight."""
    max_images = run.config.embed.shard_images
    return plan_with_requeued(listed.change.fresh, listed.requeued, max_images, listed.known)


def _list(run: Run, on_change: Callable[[], None] | None) -> Catalog:
    run.progress.stage("list", 1, "containers")
    shown = [1]

    def advance(done: int, total: int) -> None:
        if total != shown[0]:
            shown[0] = total
            run.progress.stage("list", total, "containers")
        run.progress.advance(done)

    catalog = list_catalog(run.source, run.source_spec, run.store, run.cache, advance, on_change)
    return without_purged(run.store, catalog)


def _check_source(run: Run, manifest: Manifest | None) -> None:
    if manifest is None or manifest.source.uri == run.source_spec.uri or run.config.replace_source:
        return
    raise StoreMismatch(
        f"collection {run.config.collection!r} in {run.config.store} is made from {manifest.source.uri}, "
        f"not from {run.source_spec.uri}",
        fix="pass --replace-source if the catalog has moved, or another --collection",
    )
