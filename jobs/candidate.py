"""Makes the candidate of a night: what it contains, what the gates say of it, and its manifest.

What stays as it was is taken from the parent: the index where neither rows nor settings moved, and what the
gates measured of rows that are kept.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.embedding import Embedded
from jobs.run import Run, software_versions, utc_now
from jobs.stages import Kept, index_stage, models_in
from pipeline.catalog.change import Change
from pipeline.catalog.table import Catalog
from pipeline.model.described import Model
from pipeline.snapshot.attributes import add_layer
from pipeline.snapshot.evolve import Parent, Rows, reasons
from pipeline.snapshot.gates import Evidence, Spread, Thresholds, judge
from pipeline.snapshot.manifest import (
    Content,
    Coverage,
    Manifest,
    ModelRef,
    SourceRef,
)
from pipeline.snapshot.rows import norm_error, rows_digest, write_dead_rows, write_listing_rejects
from pipeline.snapshot.spread import snapshot_spread

_LABEL_ALIASES = {"@folder": "folder", "@cls": "cls"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Findings:
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


def candidate_content(run: Run, model: Model, found: Findings, kept: Kept | None) -> tuple[Content, float]:
    """What the candidate contains; the parent's index as it is where neither rows nor settings moved."""
    rows, parent = found.rows, found.parent
    present = parent.manifest.content if parent.manifest is not None else None
    settings = index_settings(run)
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


def judged(run: Run, found: Findings, content: Content, bit_imbalance: float) -> Manifest:
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
        norm_error=max(found.embedded.norm_error, _norm_error_before(run, found)),
        recall_low=1.0 if point.method == "exact" else point.ann_recall[point.k].low,
        filtered_recall_high=min((under.recall.high for under in point.filtered), default=1.0),
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


def _carried(parent: Manifest | None, gate: str, absent: float = 0.0) -> float:
    """What the parent snapshot's gate measured: it holds for the rows and shards that are kept."""
    gates = [] if parent is None else parent.gates
    return next((record.value for record in gates if record.name == gate), absent)


def _norm_error_before(run: Run, found: Findings) -> float:
    """The parent's norm error, a bound for the rows that are kept; measured anew where it was let through."""
    handed_on = _carried(found.parent.manifest, "unit_norm")
    if handed_on <= Thresholds().norm_tolerance:
        return handed_on
    return norm_error(run.store, found.rows.parts, found.rows.masks, run.cache)


def _spread(run: Run, found: Findings, content: Content) -> Spread:
    """The spread of the vectors; the parent's where the rows are the same, so that none has to be read."""
    parent = found.parent.manifest
    same_index = parent is not None and parent.content.index_shards == content.index_shards
    if same_index and not found.rows.moved:
        return Spread(
            variance=_carried(parent, "variance", 1.0),
            distinct_codes=_carried(parent, "distinct_codes", 1.0),
        )
    return snapshot_spread(run.store, content, found.rows.live, run.cache)


def index_settings(run: Run) -> dict[str, Any]:
    """What of the configuration is part of the content: it says how the index is made and calibrated."""
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
    return SourceRef(uri=spec.uri, listing=spec.listing, label=label_column(config.label), **read)


def label_column(label: str | None) -> str | None:
    """The attribute that a label names."""
    return None if label is None else _LABEL_ALIASES.get(label, label)
