"""One night: list, diff, embed what changed, reduce, calibrate, gate, publish.

1. List the source (unchanged tars are not read) and compare with the newest snapshot.
2. Embed what is new, mark as dead what is gone or replaced, index the new parts, calibrate.
3. Judge the candidate by the gates. All pass: create the next snapshot. Any fails: keep the candidate.

Every stage leaves receipts, so a run that was killed is simply started again and does what is left. A night
on which nothing changed comes to the snapshot that is there: no worker is needed, Ray is not started, nothing
is published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.compaction import compact, due_compaction
from jobs.embedding import Embedded, embed_stage
from jobs.imported import Importer
from jobs.look import Listed, image_shards, look
from jobs.models import collection_model
from jobs.night_report import night_report
from jobs.reembed import check_reembed
from jobs.run import Run, software_versions, utc_now
from jobs.sitting import Sitting
from jobs.stages import check_index, index_stage, models_in
from pipeline.catalog.change import Change
from pipeline.catalog.table import Catalog
from pipeline.errors import CommitConflict, UsageError
from pipeline.fingerprint import canonical_json
from pipeline.model.described import Model
from pipeline.snapshot.attributes import add_layer
from pipeline.snapshot.evolve import Parent, Rows, evolve, reasons
from pipeline.snapshot.gates import Evidence, Spread, Thresholds, check_overrides, judge, refusing
from pipeline.snapshot.manifest import (
    Content,
    Coverage,
    EncoderRef,
    IndexShardRef,
    Manifest,
    ModelRef,
    SourceRef,
)
from pipeline.snapshot.publish import keep_candidate, manifest_of, publish
from pipeline.snapshot.rows import rows_digest, write_dead_rows, write_listing_rejects
from pipeline.snapshot.spread import snapshot_spread
from pipeline.storage import layout
from pipeline.storage.probe import prepare_store

_ATTEMPTS = 3
_ENCODER_SETTINGS = (
    "bits",
    "recipe",
    "thresholds",
    "form",
    "lists",
    "memory_budget",
    "seed",
    "vector_dtype",
)
_Kept = tuple[EncoderRef, Sequence[IndexShardRef]] | None
_LABEL_ALIASES = {"@folder": "folder", "@cls": "cls"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Night:
    """How a run ended: the snapshot that stands now, or the candidate that was kept and not published."""

    manifest: Manifest
    published: bool
    candidate_key: str | None

    @property
    def refused(self) -> bool:
        """Whether a gate refused the candidate."""
        return self.candidate_key is not None and bool(refusing(self.manifest.gates))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Findings:
    """What a night found out before it touches the index."""

    parent: Parent
    catalog: Catalog
    attributes: pa.Table
    change: Change
    embedded: Embedded
    rows: Rows

    def coverage(self) -> Coverage:
        """The coverage identity, every number from where it was counted."""
        parts, n_stale = self.embedded.parts, int(self.rows.stale.sum())
        refused_before = self.catalog.refused().num_rows + self.change.refused_again.num_rows
        return Coverage(
            listed=self.catalog.n_listed,
            embedded=sum(part.rows for part in parts) - self.embedded.reused,
            reused=int(self.change.kept.sum()) + self.embedded.reused,
            stale=n_stale,
            rejected=refused_before + sum(sum(part.rejected.values()) for part in parts) - n_stale,
            set_aside=self.embedded.set_aside,
            deleted=int(self.change.gone.sum()),
        )


def reindex(run: Run, importer: Importer | None = None) -> Night:
    """Brings the collection up to date with its source; ``importer`` may have vectors of fresh images.

    Raises:
        UsageError: source, store, model and collection do not fit together.
        CommitConflict: three times somebody else published first.
        OutcomeUnknown: the commit may or may not have taken effect.
    """
    model = _begin(run)
    for attempt in range(1, _ATTEMPTS):
        try:
            return _night(run, model, importer=importer)
        except CommitConflict as exc:
            run.events.record("commit_conflict", attempt=attempt, message=exc.message)
    return _night(run, model, importer=importer)


def backfill(run: Run, sitting: Sitting) -> Night:
    """Embeds what has no vector yet; once that is all, makes a candidate and does not publish it.

    Raises:
        SittingOver: the sitting is, and images are left for the next one.
        UsageError: as in ``reindex``.
    """
    return _night(run, _begin(run), sitting)


def _begin(run: Run) -> Model:
    check_overrides(run.config.gates.override)
    prepare_store(run.store, single_writer=run.config.single_writer)
    model = collection_model(run)
    plan = {"run": run.run_id, "model": model.model_id, "config": run.config.model_dump(mode="json")}
    run.store.put(layout.run_plan(run.run_id), canonical_json(plan))
    run.events.record("run_started", model=model.model_id, source=run.config.source)
    return model


def _night(run: Run, model: Model, sitting: Sitting | None = None, importer: Importer | None = None) -> Night:
    """A night, or with ``sitting`` one of a backfill."""
    listed = look(run, model)
    check_index(run.config.index, model.card.dim)
    attributes = _attributes(run, listed)
    imported = None if importer is None else importer(run, model, listed)
    if imported is not None:
        listed = imported.without_imported(listed)
    if sitting is None:
        check_reembed(run, listed, model)
    parent, catalog, change = listed.parent, listed.catalog, listed.change
    with run.stage("embed"):
        embedded = embed_stage(run, image_shards(run, listed), model, parent, sitting)
        if imported is not None:
            embedded = imported.and_embedded(embedded)
        is_recent = partial(_is_recent, run, parent.sequence)
        rows = evolve(run.store, parent, change, embedded.parts, is_recent=is_recent, cache=run.cache)
    found = _Findings(
        parent=parent, catalog=catalog, attributes=attributes, change=change, embedded=embedded, rows=rows
    )
    run.events.record("counted", **found.coverage().model_dump(), skipped=dict(catalog.skipped))
    found, kept = _compacted(run, model, found)
    content, bit_imbalance = _content(run, model, found, kept)
    candidate = _judged(run, found, content, bit_imbalance)
    run.report = night_report(run, parent, rows, embedded.parts, candidate)
    run.events.record("reported", **run.report)
    return _conclude(run, parent.manifest, candidate, publishing=sitting is None)


def _compacted(run: Run, model: Model, found: _Findings) -> tuple[_Findings, _Kept]:
    """The findings after compaction, if it is due, and what of the parent's index serves on."""
    manifest, settings = found.parent.manifest, _settings(run)
    if manifest is None or manifest.content.model.id != model.model_id or run.config.index.refit:
        return found, None
    present = manifest.content
    if any(present.settings.get(name) != settings[name] for name in _ENCODER_SETTINGS):
        return found, None
    due = due_compaction(run, found.parent, found.rows, present.index_shards)
    if due is None:
        return found, (present.encoder, present.index_shards)
    return replace(found, rows=compact(run, found.rows, due)), (present.encoder, due.kept)


def _content(run: Run, model: Model, found: _Findings, kept: _Kept) -> tuple[Content, float]:
    """What the candidate contains; the parent's index as it is where neither rows nor settings moved."""
    rows, parent = found.rows, found.parent
    present = parent.manifest.content if parent.manifest is not None else None
    settings = _settings(run)
    plain: dict[str, Any] = {
        "model": ModelRef(
            id=model.model_id, name=model.card.name, dim=model.card.dim, provider=run.config.embed.provider
        ),
        "parts": rows.parts,
        "attributes": add_layer(run.store, parent.layers, found.attributes, run.cache),
        "live_rows": rows.live.num_rows,
        "rows_digest": rows_digest(rows.live),
        "rejected": reasons(parent, found.change, found.catalog.refused(), found.embedded.parts),
        "settings": settings,
        "listing_rejects": write_listing_rejects(run.store, found.catalog.refused()),
    }
    if present is not None and kept is not None and not rows.moved and present.settings == settings:
        return present.model_copy(update=plain), _carried(parent.manifest, "bit_balance")
    indexed = index_stage(run, rows, model.card.dim, kept)
    content = Content(
        **plain,
        encoder=indexed.encoder,
        index_shards=list(indexed.shards),
        dead_rows=write_dead_rows(run.store, rows.masks),
        calibration=indexed.calibration.to_json(),
    )
    return content, indexed.drift.bit_imbalance


def _judged(run: Run, found: _Findings, content: Content, bit_imbalance: float) -> Manifest:
    """The candidate, with the verdict of every gate."""
    parent = found.parent.manifest
    digest, coverage = content.digest(), found.coverage()
    refused_digests = parent.refused_digests if parent is not None else []
    refused_rows = parent.refused_rows if parent is not None else []
    point = content.operating_point()
    evidence = Evidence(
        coverage=coverage,
        live_rows=content.live_rows,
        distinct_live_ids=pc.count_distinct(found.rows.live["image_id"]).as_py(),
        parent_live_rows=parent.content.live_rows if parent is not None else 0,
        n_models=len({content.model.id, *models_in(run, found.embedded.parts)}),
        norm_error=max(found.embedded.norm_error, _carried(parent, "unit_norm")),
        recall_low=1.0 if point.method == "exact" else point.ann_recall[point.k].low,
        bit_imbalance=bit_imbalance if point.method == "hamming" else 0.0,  # else no search uses bits
        spread=_spread(run, found, content),
        rolled_back=digest in refused_digests or content.rows_digest in refused_rows,
    )
    gates_config = run.config.gates
    limits = Thresholds(
        max_rejected_share=gates_config.max_rejected_share,
        max_shrink_share=gates_config.max_shrink_share,
        max_bit_imbalance=gates_config.max_bit_imbalance,
        min_variance=gates_config.min_variance,
        min_distinct_codes=gates_config.min_distinct_codes,
        target_recall=run.config.index.recall,
    )
    gates = judge(evidence, limits, gates_config.override)
    run.events.record("judged", digest=digest, gates=[gate.model_dump() for gate in gates])
    return Manifest(
        collection=run.config.collection,
        sequence=0,
        parent=parent.sequence if parent is not None else None,
        run_id=run.run_id,
        commit_id=run.run_id,
        created=utc_now().isoformat(),
        software=software_versions(),
        source=_source_ref(run, found.catalog),
        content=content,
        digest=digest,
        coverage=coverage,
        gates=gates,
        refused_digests=refused_digests,
        refused_rows=refused_rows,
        seconds=run.seconds,
    )


def _conclude(run: Run, parent: Manifest | None, candidate: Manifest, *, publishing: bool) -> Night:
    """Publishes the candidate, keeps it for a person to see, or finds that nothing changed."""
    is_same = parent is not None and parent.digest == candidate.digest
    if parent is not None and is_same and parent.source.reads_like(candidate.source):
        unchanged = candidate.model_copy(update={"sequence": parent.sequence})
        run.ended = "unchanged"
        return Night(manifest=unchanged, published=False, candidate_key=None)
    refused = refusing(candidate.gates)
    if refused or not publishing:
        run.ended = "refused" if refused else "candidate"
        return Night(manifest=candidate, published=False, candidate_key=keep_candidate(run.store, candidate))
    with run.stage("publish"):
        outcome = publish(run.store, candidate)
    run.events.record("published", sequence=outcome.manifest.sequence, ours=outcome.published)
    run.ended = "published"
    return Night(manifest=outcome.manifest, published=outcome.published, candidate_key=None)


def _carried(parent: Manifest | None, gate: str, absent: float = 0.0) -> float:
    """What the parent snapshot's gate measured: it holds for the rows and shards that are kept."""
    gates = [] if parent is None else parent.gates
    return next((record.value for record in gates if record.name == gate), absent)


def _spread(run: Run, found: _Findings, content: Content) -> Spread:
    """The spread of the vectors; the parent's where no index shard is new, so that none has to be read."""
    parent = found.parent.manifest
    if parent is not None and parent.content.index_shards == content.index_shards:
        return Spread(
            variance=_carried(parent, "variance", 1.0),
            distinct_codes=_carried(parent, "distinct_codes", 1.0),
        )
    return snapshot_spread(run.store, content, found.rows.live, run.cache)


def _attributes(run: Run, listed: Listed) -> pa.Table:
    """The catalog's attributes; a label that nobody has is found out before any image is read."""
    table = listed.attributes
    label = run.config.label
    column = _label_column(label)
    manifest = listed.parent.manifest
    is_new = manifest is None or manifest.source.label != column
    if column is not None and is_new and column not in table.schema.names:
        known = ", ".join(name for name in table.schema.names if name not in ("image_id", "locator"))
        raise UsageError(
            f"no image of {run.config.source} has an attribute {label!r}",
            fix=f"the catalog's attributes are: {known or 'none'}",
        )
    return table


def _is_recent(run: Run, newest_sequence: int, since: int) -> bool:
    """Whether bytes that were refused first in snapshot ``since`` were so less than ``stale_nights`` ago.

    Nights are days of the clock, to the nearest: a night on which nothing changed publishes nothing and would
    not be counted.
    """
    if since > newest_sequence:  # tonight
        return run.config.stale_nights > 0
    published = datetime.fromisoformat(manifest_of(run.store, run.config.collection, since).created)
    return round((utc_now() - published) / timedelta(days=1)) < run.config.stale_nights


def _settings(run: Run) -> dict[str, Any]:
    index = run.config.index
    return {
        "recall": index.recall,
        "recall_at": index.recall_at,
        "bits": index.bits,
        "recipe": index.recipe,
        "thresholds": index.thresholds,
        "form": index.form,
        "lists": index.lists,
        "memory_budget": index.memory_budget,
        "seed": index.seed,
        "vector_dtype": index.vector_dtype,
        "max_candidates": index.max_candidates,
    }


def _source_ref(run: Run, catalog: Catalog) -> SourceRef:
    config = run.config
    spec = run.source_spec
    read = {**config.read.model_dump(exclude={"root"}), "format": catalog.format}
    return SourceRef(uri=spec.uri, listing=spec.listing, label=_label_column(config.label), **read)


def _label_column(label: str | None) -> str | None:
    return None if label is None else _LABEL_ALIASES.get(label, label)


def summary(run: Run, night: Night) -> Mapping[str, Any]:
    """The JSON that scripts rely on (DESIGN.md section 10)."""
    manifest, content = night.manifest, night.manifest.content
    point = content.operating_point()
    return {
        "collection": manifest.collection,
        "snapshot": manifest.sequence or None,
        "digest": manifest.digest,
        "published": night.published,
        "candidate": night.candidate_key,
        "run": run.run_id,
        "model": content.model.model_dump(),
        "images": manifest.coverage.model_dump(),
        "rejected": content.rejected,
        "index": {
            "vectors": content.live_rows,
            "shards": len(content.index_shards),
            "bits": point.bits,
            "candidates": point.candidates.get(point.k),
            "form": point.form,
            "probes": point.probes.get(point.k),
            "drift": None if run.drift is None else {**asdict(run.drift), "advice": run.drift.advice},
            "method": point.method,
            **{f"ann_recall@{k}": asdict(found) for k, found in point.ann_recall.items()},
        },
        "gates": [gate.model_dump() for gate in manifest.gates],
        "night": run.report,
        "compacted": None if run.compacted is None else asdict(run.compacted),
        "predicted": None if run.compared is None else asdict(run.compared),
        "bytes": {"read": run.bytes_read, "written": run.bytes_written},
        "seconds": run.seconds,
    }
