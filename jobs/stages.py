"""The stages of a run that make the index: fit, reduce, calibrate.

Each takes what is to be done and returns what is true afterwards. Work that has a receipt is found, not done
again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from jobs.run import Run
from pipeline.cluster.pool import Done
from pipeline.config import IndexConfig
from pipeline.embed.table import read_model_id
from pipeline.errors import DataCorrupt, WorkerError
from pipeline.index.calibrate import MAX_REFITS, CalibrationSettings, calibrate
from pipeline.index.calibration import Calibration
from pipeline.index.balance import bit_balance
from pipeline.index.encoder import Encoder, default_bits
from pipeline.index.reduce import (
    ENCODER,
    REDUCE_STAGE,
    PartFile,
    ReduceTask,
    ReduceWorker,
    fit_stage,
    group_parts,
    read_encoder,
)
from pipeline.index.sample import fit_sample, seeded_order
from pipeline.snapshot.evolve import Rows
from pipeline.snapshot.manifest import EncoderRef, IndexShardRef, PartRef
from pipeline.snapshot.open import open_shards
from pipeline.snapshot.rows import Mask, live_vectors
from pipeline.storage.receipts import Receipt, fetch, read_receipt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Indexed:
    """A calibrated index over all parts."""

    encoder: EncoderRef
    shards: Sequence[IndexShardRef]
    calibration: Calibration
    bit_imbalance: float


def index_stage(
    run: Run, rows: Rows, dim: int, keep: tuple[EncoderRef, Sequence[IndexShardRef]] | None
) -> Indexed:
    """Fits if need be, builds missing index shards, and calibrates; again with twice the bits if that fails.

    ``dim`` is the model's; ``keep`` the parent's encoder and its index shards, None to make both anew.
    """
    indexed = _index(run, rows, keep or (_fit(run, rows, dim, run.config.index.bits), ()))
    for _ in range(MAX_REFITS):
        next_bits = indexed.calibration.next_bits
        if indexed.calibration.met or next_bits is None or run.config.index.recipe == "sign":
            break
        indexed = _index(run, rows, (_fit(run, rows, dim, next_bits), ()))
    return indexed


def calibration_settings(config: IndexConfig) -> CalibrationSettings:
    """What the configuration asks of the calibration.

    Raises:
        UsageError: it cannot be met whatever the index is.
    """
    return CalibrationSettings(target=config.recall, k=config.recall_at, budget=config.max_candidates)


def models_in(run: Run, parts: Sequence[PartRef]) -> set[str]:
    """The model ids that the files of ``parts`` themselves name."""
    files = [part.embeddings for part in parts if part.embeddings is not None]
    return {read_model_id(fetch(run.store, file, run.cache)) for file in files}


def _index(run: Run, rows: Rows, keep: tuple[EncoderRef, Sequence[IndexShardRef]]) -> Indexed:
    encoder_ref, kept = keep
    encoder = read_encoder(run.store, encoder_ref.file, run.cache)
    with run.stage("reduce"):
        shards, imbalance = _reduce(run, rows.parts, encoder_ref, kept)
    with run.stage("calibrate"):
        calibration = _calibrate(run, encoder, shards, rows.masks)
    run.events.record("calibrated", bits=encoder.bits, met=calibration.met, reason=calibration.reason)
    return Indexed(encoder=encoder_ref, shards=shards, calibration=calibration, bit_imbalance=imbalance)


def _fit(run: Run, rows: Rows, dim: int, bits: int | None) -> EncoderRef:
    config = run.config.index
    with run.stage("fit"):
        sample = fit_sample(seeded_order(rows.live["image_id"], config.seed))
        sampled = rows.live.take(pa.array(sample.rows_N))
        x_ND = live_vectors(run.store, sampled, rows.parts, dim, run.cache)
        encoder, receipt = fit_stage(
            run.store,
            x_ND,
            bits=bits or (dim if config.recipe == "sign" else default_bits(dim)),
            seed=config.seed,
            recipe=config.recipe,
            fit_threshold=sample.fit_threshold,
            cache=run.cache,
        )
    return EncoderRef(
        key=receipt.key,
        digest=encoder.digest,
        bits=encoder.bits,
        recipe=encoder.recipe,
        file=receipt.files[ENCODER],
    )


def _reduce(
    run: Run, parts: Sequence[PartRef], encoder: EncoderRef, kept: Sequence[IndexShardRef]
) -> tuple[list[IndexShardRef], float]:
    indexed = {key for ref in kept for key in ref.parts}
    missing = [
        PartFile(key=part.key, rows=part.rows, file=part.embeddings)
        for part in parts
        if part.embeddings is not None and part.key not in indexed
    ]
    tasks = [
        ReduceTask(
            parts=group,
            encoder_digest=encoder.digest,
            encoder_file=encoder.file,
            vector_dtype=run.config.index.vector_dtype,
        )
        for group in group_parts(missing, run.config.index.shard_rows)
    ]
    receipts = {task.key: read_receipt(run.store, REDUCE_STAGE, task.key) for task in tasks}
    todo = [task for task in tasks if receipts[task.key] is None]
    run.progress.stage("reduce", len(tasks), "index shards")
    run.progress.advance(len(tasks) - len(todo))
    worker = partial(ReduceWorker, run.config.store, run.cache)
    for done, outcome in enumerate(run.pool.run(worker, todo), start=1):
        if not isinstance(outcome, Done):
            raise WorkerError(
                f"an index shard of {todo[outcome.index].rows} rows killed its worker: {outcome.reason}",
                fix="give the workers more memory, or make index.shard_rows smaller",
            )
        receipts[todo[outcome.index].key] = outcome.result
        run.record_done(outcome)
        run.progress.advance(len(tasks) - len(todo) + done)
    built = [receipt for receipt in receipts.values() if receipt is not None]
    refs = [*kept, *(_shard_ref(task, receipt) for task, receipt in zip(tasks, built, strict=True))]
    return refs, _bit_imbalance(run, refs)


def _calibrate(
    run: Run, encoder: Encoder, refs: Sequence[IndexShardRef], dead: Mapping[str, Mask]
) -> Calibration:
    shards = open_shards(run.store, refs, encoder, dead, run.cache)
    run.progress.stage("calibrate", 1, "index")
    calibration = calibrate(encoder, shards, calibration_settings(run.config.index))
    run.progress.advance(1)
    return calibration


def _bit_imbalance(run: Run, refs: Sequence[IndexShardRef]) -> float:
    """Mean over bits of |share of ones - 1/2| over all index shards, from their receipts."""
    ones = np.zeros(0, dtype=np.int64)
    rows = 0
    for ref in refs:
        receipt = read_receipt(run.store, REDUCE_STAGE, ref.key)
        if receipt is None:
            raise DataCorrupt(
                f"index shard {ref.key} of the parent snapshot has lost its receipt or a file",
                fix="run again with --refit to build the index shards anew from the embeddings",
            )
        ones = np.asarray(receipt.facts["ones"], dtype=np.int64) + (ones if len(ones) else 0)
        rows += ref.rows
    return bit_balance(ones, rows) if rows else 0.0


def _shard_ref(task: ReduceTask, receipt: Receipt) -> IndexShardRef:
    return IndexShardRef(
        key=task.key,
        parts=[part.key for part in task.parts],
        rows=receipt.counts["rows"],
        codes=receipt.files["codes"],
        vectors=receipt.files["vectors"],
        row_ids=receipt.files["row_ids"],
    )
