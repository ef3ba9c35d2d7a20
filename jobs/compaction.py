"""The compaction of a run: finds whether it is due, packs parts on the pool, and says what became of them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.few import carried_out
from jobs.run import Compacted, Run
from pipeline.cluster.pool import Done
from pipeline.errors import WorkerError
from pipeline.snapshot.compact import STAGE, Compaction, Limits, PackWorker, plan_compaction, replace_packed
from pipeline.snapshot.evolve import Parent, Rows
from pipeline.snapshot.manifest import IndexShardRef
from pipeline.snapshot.rows import live_rows
from pipeline.storage.receipts import read_receipt

_FEW_ROWS = 100_000
"""Rows to pack up to which one process beside the driver is enough: some seconds of work."""


def due_compaction(
    run: Run, parent: Parent, rows: Rows, shards: Sequence[IndexShardRef]
) -> Compaction | None:
    """What there is to compact in the parent's index ``shards`` after tonight's ``rows``; None if nothing."""
    if not rows.moved or rows.live.num_rows == 0:
        return None  # a night on which nothing changed publishes nothing
    index = run.config.index
    limits = Limits(
        max_dead_share=index.compact_share, max_deltas=index.compact_deltas, shard_rows=index.shard_rows
    )
    stale = pc.unique(parent.live.filter(pa.array(rows.stale))["part"]).to_pylist()
    fixed = frozenset(parent.parts[number].key for number in stale)
    return plan_compaction(rows.parts, rows.masks, shards, limits, fixed=fixed)


def compact(run: Run, rows: Rows, due: Compaction) -> Rows:
    """Packs the parts; the rows as they are then. The index shards above them are not built here."""
    with run.stage("compact"):
        receipts = {task.key: read_receipt(run.store, STAGE, task.key) for task in due.packs}
        todo = [task for task in due.packs if receipts[task.key] is None]
        run.progress.stage("compact", len(due.packs), "parts")
        make_worker = partial(PackWorker, run.config.store, run.cache)
        are_few = sum(part.rows for task in todo for part in task.parts) <= _FEW_ROWS
        for outcome in carried_out(run.pool, make_worker, todo, are_few=are_few):
            if not isinstance(outcome, Done):
                raise WorkerError(
                    f"packing {len(todo[outcome.index].parts)} parts killed its worker: {outcome.reason}",
                    fix="give the workers more memory",
                )
            receipts[outcome.result.key] = outcome.result
            run.record_done(outcome)
        made = {key: receipt for key, receipt in receipts.items() if receipt is not None}
        parts = replace_packed(rows.parts, due.packs, made)
        gone = {part.key for task in due.packs for part in task.parts}
        masks = {
            part.key: np.zeros(part.rows, dtype=bool)
            if part.key in gone or part.key not in rows.masks
            else rows.masks[part.key]
            for part in parts
        }
        live = live_rows(run.store, parts, masks, run.cache)
    run.compacted = Compacted(
        parts=len(gone),
        index_shards=len(due.rewritten),
        dropped_rows=sum(receipt.counts["dropped"] for receipt in made.values()),
    )
    run.events.record(
        "compacted",
        parts=run.compacted.parts,
        packed_into=len(due.packs),
        index_shards=run.compacted.index_shards,
        dropped_rows=run.compacted.dropped_rows,
    )
    return replace(rows, parts=parts, masks=masks, live=live, moved=True)
