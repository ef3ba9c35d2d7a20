"""What a night says to scripts, as JSON: the shape that they rely on (DESIGN.md section 10)."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from jobs.reindex import Night
from jobs.run import Run


def summary(run: Run, night: Night) -> Mapping[str, Any]:
    """The JSON object of ``reindex`` and ``backfill``."""
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
