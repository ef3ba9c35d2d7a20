"""The night's report: what changed in the catalog, the vectors and the answers, and how fast it went."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.run import Run
from pipeline.catalog.change import contains
from pipeline.snapshot.churn import Churn, neighbour_churn
from pipeline.snapshot.evolve import Parent, Rows
from pipeline.snapshot.manifest import Manifest, PartRef
from pipeline.snapshot.open import OpenSnapshot


def night_report(
    run: Run, parent: Parent, rows: Rows, tonight: Sequence[PartRef], candidate: Manifest
) -> dict[str, Any]:
    """The report as JSON values; ``rows`` are those of the night before any compaction."""
    coverage = candidate.coverage
    gates = {gate.name: gate.value for gate in candidate.gates}
    churn = _churn(run, parent, rows, candidate)
    return {
        **_added_and_changed(parent, rows, tonight),
        "deleted": coverage.deleted,
        "stale": coverage.stale,
        "rejected": candidate.content.rejected,
        "norm_error": gates["unit_norm"],
        "mean_shift": None if run.drift is None else run.drift.mean_shift,
        "bit_imbalance": None if run.drift is None else run.drift.bit_imbalance,
        "neighbour_churn": None if churn is None else asdict(churn),
        "per_s": _throughput(run, coverage.listed),
    }


def _churn(run: Run, parent: Parent, rows: Rows, candidate: Manifest) -> Churn | None:
    """None without a parent, for another model, or where no row moved."""
    if parent.manifest is None or parent.live.num_rows == 0 or not rows.moved:
        return None
    before, after = (
        OpenSnapshot(store=run.store, manifest=manifest, cache=run.cache)
        for manifest in (parent.manifest, candidate)
    )
    with run.stage("churn"):
        live = rows.live if run.compacted is None else after.live
        return neighbour_churn(before, after, parent.live, live)


def _added_and_changed(parent: Parent, rows: Rows, tonight: Sequence[PartRef]) -> dict[str, int]:
    """How many live images are new, and how many have other bytes than in the parent."""
    keys = {part.key for part in tonight}
    is_new = np.asarray([part.key in keys for part in rows.parts], dtype=bool)
    if not is_new.any():
        return {"added": 0, "changed": 0}
    fresh = rows.live.filter(pa.array(is_new[rows.live["part"].to_numpy()]))
    n_changed = int(contains(fresh["image_id"], parent.live["image_id"]).sum())
    return {"added": fresh.num_rows - n_changed, "changed": n_changed}


def _throughput(run: Run, listed: int) -> Mapping[str, float]:
    """Images a second of wall time, of the stages that had any."""
    done = {"list": listed, "embed": sum(run.images_now.values())}
    return {
        stage: round(count / run.seconds[stage], 1)
        for stage, count in done.items()
        if count and run.seconds.get(stage)
    }
