"""Makes the index of a snapshot anew where its parts changed, without inference, and publishes the outcome.

For `purge`, which takes rows out of parts, and for repair, which does without what is damaged. What is built
is small, an index shard or two, so it is built in this process.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.calibration import calibration_settings
from jobs.run import software_versions
from jobs.stages import fit_settings
from pipeline.config import IndexConfig
from pipeline.index.calibrate import calibrate
from pipeline.index.reduce import (
    ENCODER,
    PartFile,
    ReduceTask,
    ReduceWorker,
    fit_stage,
    group_parts,
    read_encoder,
)
from pipeline.index.sample import fit_sample, seeded_order
from pipeline.progress import Progress
from pipeline.snapshot.manifest import Content, Coverage, EncoderRef, GateRecord, IndexShardRef, Manifest
from pipeline.snapshot.open import open_shards
from pipeline.snapshot.publish import Published, publish
from pipeline.snapshot.rows import Mask, live_rows, live_vectors, rows_digest, write_dead_rows
from pipeline.storage.store import ObjectStore


def rebuilt(
    store: ObjectStore,
    content: Content,
    masks: Mapping[str, Mask],
    cache: Path,
    progress: Progress,
    *,
    refit: bool = False,
) -> Content:
    """``content`` with index shards for the parts that are in none, and all that follows from its rows.

    Args:
        store: holds the files, and gets the new ones.
        content: its index shards are kept; they name parts of it only.
        masks: the dead rows of each of its parts, by key.
        cache: folder of this machine for downloads.
        progress: told the index shards.
        refit: make a new encoder too; ``content`` has no index shards then.
    """
    config = IndexConfig.model_validate(content.settings)
    live = live_rows(store, content.parts, masks, cache)
    encoder_ref = _fit(store, content, live, config, cache) if refit else content.encoder
    indexed = {key for shard in content.index_shards for key in shard.parts}
    missing = [
        PartFile(key=part.key, rows=part.rows, file=part.embeddings)
        for part in content.parts
        if part.embeddings is not None and part.key not in indexed
    ]
    groups = group_parts(missing, config.shard_rows)
    worker, made = ReduceWorker(store.uri, cache), []
    progress.stage("reduce", len(groups), "index shards")
    for done, group in enumerate(groups, start=1):
        task = ReduceTask(
            parts=group,
            encoder_digest=encoder_ref.digest,
            encoder_file=encoder_ref.file,
            vector_dtype=config.vector_dtype,
        )
        files: Mapping[str, Any] = worker.run(task).files
        parts = [part.key for part in group]
        made.append(IndexShardRef(key=task.key, parts=parts, rows=task.rows, **files))
        progress.advance(done)
    shards = [*content.index_shards, *made]
    encoder = read_encoder(store, encoder_ref.file, cache)
    opened = open_shards(store, shards, encoder, masks, cache)
    return content.model_copy(
        update={
            "encoder": encoder_ref,
            "index_shards": shards,
            "dead_rows": write_dead_rows(store, masks),
            "live_rows": live.num_rows,
            "rows_digest": rows_digest(live),
            "calibration": calibrate(encoder, opened, calibration_settings(config)).to_json(),
        }
    )


def publish_rebuilt(
    store: ObjectStore,
    parent: Manifest,
    content: Content,
    coverage: Coverage,
    *,
    run_id: str,
    now: datetime,
    reason: str,
) -> Published:
    """Publishes ``content`` as the successor of ``parent``, whose listing it stands for.

    The gates of the parent hold for rows that are its own; recall is measured again, and ``reason`` overrides
    it.

    Raises:
        CommitConflict: somebody else published first.
    """
    point = content.operating_point()
    low = 1.0 if point.method == "exact" else point.ann_recall[point.k].low
    target = float(content.settings["recall"])
    recall = GateRecord(
        name="recall",
        passed=low >= target,
        value=low,
        threshold=target,
        message=f"lower bound of the measured recall: {low:.6g}, at least {target:g}",
        override=None if low >= target else reason,
    )
    gates = [recall if record.name == "recall" else record for record in parent.gates]
    return publish(
        store,
        parent.model_copy(
            update={
                "parent": parent.sequence,
                "run_id": run_id,
                "commit_id": run_id,
                "created": now.isoformat(),
                "software": software_versions(),
                "content": content,
                "digest": content.digest(),
                "coverage": coverage,
                "gates": gates,
                "seconds": {},
                "rollback": None,
                "adopted": None,
            }
        ),
    )


def coverage_of(before: Coverage, content: Content, *, deleted: int, n_stale: int | None = None) -> Coverage:
    """The coverage of content that was made of a snapshot's own rows: nothing was listed or embedded."""
    rejected = sum(content.rejected.values())
    stale = min(before.stale if n_stale is None else n_stale, rejected, content.live_rows)
    return Coverage(
        listed=content.live_rows + rejected - stale,
        embedded=0,
        reused=content.live_rows - stale,
        stale=stale,
        rejected=rejected - stale,
        set_aside=0,
        deleted=deleted,
    )


def _fit(
    store: ObjectStore, content: Content, live: pa.Table, config: IndexConfig, cache: Path
) -> EncoderRef:
    sample = fit_sample(seeded_order(live["image_id"], config.seed))
    sampled = live.take(pa.array(sample.rows_N))
    x_ND = live_vectors(store, sampled, content.parts, content.model.dim, cache)
    settings = fit_settings(config, content.encoder.bits, x_ND, live.num_rows, sample.fit_threshold)
    encoder, receipt = fit_stage(store, x_ND, settings, cache=cache)
    return EncoderRef(
        key=receipt.key,
        digest=encoder.digest,
        bits=encoder.bits,
        recipe=encoder.recipe,
        file=receipt.files[ENCODER],
    )
