"""A night from a change list: tonight's catalog is that of the newest snapshot, but for the images it names.

Named images are looked up in the source one by one; so are those that the snapshot refused, because its books
do not say whether they have left since. Nothing is listed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.output import say, visible
from jobs.run import Run
from pipeline.catalog.change import contains
from pipeline.catalog.change_list import ChangeList
from pipeline.catalog.listing import rows_at
from pipeline.catalog.source import SourceFormat, SourceSpec
from pipeline.catalog.table import LISTING_SCHEMA, Catalog, attributes_json, refuse_duplicates
from pipeline.errors import SourceError, UsageError
from pipeline.snapshot.attributes import attributes_table, overlay, read_attributes
from pipeline.snapshot.evolve import Parent
from pipeline.snapshot.manifest import Manifest
from pipeline.snapshot.purge import not_purged
from pipeline.snapshot.refusals import refused_images

_SHOWN = 3


def changed_catalog(
    run: Run, manifest: Manifest | None, parent: Parent, changes: ChangeList
) -> tuple[Catalog, pa.Table]:
    """Tonight's catalog, and the attributes of all its images.

    Raises:
        UsageError: there is no snapshot to change, its model or its kind of source is another.
        SourceError: an image to upsert is not in the source.
    """
    spec, manifest = _source(run, manifest, parent)
    present = read_attributes(run.store, parent.layers, run.cache)
    upserts = not_purged(run.store, _upserted(run, spec, changes.upserts))
    named = pa.array([*changes.upserts, *changes.deletes], type=pa.string())
    refused = refused_images(run.store, manifest.content, run.cache)
    _warn_of_unknown(changes.deletes, {*present["locator"].to_pylist(), *refused["locator"].to_pylist()})
    refused = refused.filter(pc.invert(pc.is_in(refused["locator"], value_set=named)))
    tried = refused.filter(pc.invert(refused["in_listing"]))
    looked_up = rows_at(run.source, spec, run.store, tried["locator"].to_pylist(), run.cache)
    tables = [
        _carried(parent.live, present, named, [upserts["image_id"], tried["image_id"]]),
        looked_up,
        _still_refused(refused.filter(refused["in_listing"])),
        upserts,
    ]
    table = refuse_duplicates(pa.concat_tables(tables).combine_chunks())
    catalog = Catalog(table=table, format=manifest.source.format, skipped={})
    touched = pa.concat_tables([looked_up, upserts])
    return catalog, overlay(present, attributes_table(touched)) if touched.num_rows else present


def _source(run: Run, manifest: Manifest | None, parent: Parent) -> tuple[SourceSpec, Manifest]:
    """How the source of the snapshot is read, if a change list can be applied to it."""
    if manifest is None or parent.live.num_rows == 0:
        raise UsageError(
            f"collection {run.config.collection!r} has no snapshot with this model to change",
            fix="run once without --changes",
        )
    kind = SourceFormat(manifest.source.format)
    if kind in (SourceFormat.LISTING, SourceFormat.INVENTORY):
        raise UsageError(
            "the collection is made from a listing file, which a change list cannot change",
            fix="give the new listing file as the source",
        )
    return replace(run.source_spec, format=kind), manifest


def _warn_of_unknown(deletes: set[str], known: set[str]) -> None:
    """A list that names ids where keys are asked for would delete nothing and not say so."""
    unknown = sorted(deletes - known)
    if unknown:
        some = ", ".join(visible(locator) for locator in unknown[:_SHOWN])
        say(
            f"bitsieve: warning: {len(unknown)} of {len(deletes)} images to delete were never listed, "
            f"such as {some}; a change list names keys (`container::member` in tars), not ids"
        )


def _upserted(run: Run, spec: SourceSpec, upserts: Mapping[str, Mapping[str, object]]) -> pa.Table:
    rows = rows_at(run.source, spec, run.store, list(upserts), run.cache)
    missing = sorted(upserts.keys() - set(rows["locator"].to_pylist()))
    if missing:
        raise SourceError(
            f"{len(missing)} images to upsert are not in {spec.uri}, such as {', '.join(missing[:_SHOWN])}",
            fix="write them before the change list, or name them with op delete",
        )
    said = [
        attributes_json({**json.loads(own), **upserts[locator]})
        for own, locator in zip(rows["attributes"].to_pylist(), rows["locator"].to_pylist(), strict=True)
    ]
    place = LISTING_SCHEMA.get_field_index("attributes")
    return rows.set_column(place, LISTING_SCHEMA.field(place), pa.array(said, type=pa.string()))


def _carried(
    live: pa.Table, present: pa.Table, named: pa.Array, elsewhere: Sequence[pa.ChunkedArray]
) -> pa.Table:
    """Live rows that the list says nothing of, as rows of a listing; they are kept, so nothing reads them."""
    where = pc.index_in(live["image_id"], value_set=present["image_id"].combine_chunks())
    locators = pc.fill_null(present["locator"].take(where), "")
    told = pc.is_in(locators, value_set=named).to_numpy().astype(bool)
    for ids in elsewhere:
        told |= contains(live["image_id"], ids)
    kept = live.select(["image_id", "version"]).append_column("locator", locators).filter(pa.array(~told))
    n_rows = kept.num_rows
    constants = {"container": "", "attributes": "{}", "detail": "", "row_group": -1}
    columns = {name: pa.array([value] * n_rows) for name, value in constants.items()}
    columns |= {name: pa.array(np.zeros(n_rows, dtype=np.int64)) for name in ("size_bytes", "offset")}
    columns |= {name: kept[name] for name in ("image_id", "version", "locator")}
    columns["reject"] = pa.nulls(n_rows, pa.string())
    return pa.table({name: columns[name] for name in LISTING_SCHEMA.names}).cast(LISTING_SCHEMA)


def _still_refused(refused: pa.Table) -> pa.Table:
    """What the listing itself refused, as rows of a listing."""
    n_rows = refused.num_rows
    columns = {name: refused[name] for name in ("image_id", "version", "size_bytes", "locator", "detail")}
    columns |= {"container": pa.array([""] * n_rows), "attributes": pa.array(["{}"] * n_rows)}
    columns |= {"row_group": pa.array([-1] * n_rows), "offset": pa.array([0] * n_rows)}
    columns["reject"] = refused["reason"]
    return pa.table({name: columns[name] for name in LISTING_SCHEMA.names}).cast(LISTING_SCHEMA)
