"""One night: list, diff, embed what changed, reduce, calibrate, gate, publish.

1. List the source (unchanged tars are not read) and compare with the newest snapshot.
2. Embed what is new, mark as dead what is gone or replaced, index the new parts, calibrate.
3. Judge the candidate by the gates. All pass: create the next snapshot. Any fails: keep the candidate.

Every stage leaves receipts, so a run that was killed is simply started again and does what is left. A night
on which nothing changed comes to the snapshot that is there: no worker is needed, Ray is not started, nothing
is published.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import pyarrow as pa

from jobs.candidate import Findings, candidate_content, index_settings, judged, label_column
from jobs.compaction import compact, due_compaction
from jobs.embedding import embed_stage, expect_work
from jobs.imported import Importer
from jobs.look import Listed, image_shards, look
from jobs.models import collection_model
from jobs.night_report import night_report
from jobs.reembed import check_reembed
from jobs.run import Run, utc_now
from jobs.sitting import Sitting
from jobs.stages import Kept, check_index
from pipeline.errors import CommitConflict, UsageError
from pipeline.fingerprint import canonical_json
from pipeline.model.described import Model
from pipeline.snapshot.evolve import evolve
from pipeline.snapshot.gates import check_overrides, refusing
from pipeline.snapshot.manifest import Manifest
from pipeline.snapshot.publish import keep_candidate, manifest_of, publish
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
    listed = look(run, model, partial(expect_work, run))
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
    found = Findings(
        parent=parent, catalog=catalog, attributes=attributes, change=change, embedded=embedded, rows=rows
    )
    run.events.record("counted", **found.coverage().model_dump(), skipped=dict(catalog.skipped))
    found, kept = _compacted(run, model, found)
    content, bit_imbalance = candidate_content(run, model, found, kept)
    candidate = judged(run, found, content, bit_imbalance)
    run.report = night_report(run, parent, rows, embedded.parts, candidate)
    run.events.record("reported", **run.report)
    run.pool.release()  # before it publishes: a cluster that dies may end this process, and nothing is undone
    return _conclude(run, parent.manifest, candidate, publishing=sitting is None)


def _compacted(run: Run, model: Model, found: Findings) -> tuple[Findings, Kept | None]:
    """The findings after compaction, if it is due, and what of the parent's index serves on."""
    manifest, settings = found.parent.manifest, index_settings(run)
    if manifest is None or manifest.content.model.id != model.model_id or run.config.index.refit:
        return found, None
    present = manifest.content
    if any(present.settings.get(name) != settings[name] for name in _ENCODER_SETTINGS):
        return found, None
    point = present.operating_point() if present.settings == settings else None
    due = due_compaction(run, found.parent, found.rows, present.index_shards)
    shards = present.index_shards if due is None else due.kept
    kept = Kept(encoder=present.encoder, shards=shards, point=point)
    return found if due is None else replace(found, rows=compact(run, found.rows, due)), kept


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


def _attributes(run: Run, listed: Listed) -> pa.Table:
    """The catalog's attributes; a label that nobody has is found out before any image is read."""
    table = listed.attributes
    label = run.config.label
    column = label_column(label)
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
