"""The stages of a run that make the index: fit and reduce; `jobs.calibration` chooses its operating point.

Each takes what is to be done and returns what is true afterwards. Work that has a receipt is found, not done
again.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import pyarrow as pa

from jobs.calibration import calibrate_stage, calibration_settings, measure_drift
from jobs.run import Run
from pipeline.cluster.pool import Done, SetAside
from pipeline.config import IndexConfig
from pipeline.embed.table import read_model_id
from pipeline.errors import UsageError, WorkerError
from pipeline.index.arrays import VectorArray
from pipeline.index.balance import Drift
from pipeline.index.bits import SHARE_SCANNED, cheapest_bits, offered_bits
from pipeline.index.calibrate import MAX_REFITS
from pipeline.index.calibration import Calibration
from pipeline.index.encoder import choose_bits
from pipeline.index.lists import FLAT_BELOW, choose_lists
from pipeline.index.reduce import (
    ENCODER,
    REDUCE_STAGE,
    FitSettings,
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
from pipeline.snapshot.rows import live_vectors
from pipeline.storage.receipts import Receipt, fetch, read_receipt

_HERE_ROWS = 20_000
"""Rows to index up to which no worker is started for them: about half a second's work."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kept:
    """What serves on of the parent's index; without ``point``, C and probes are chosen anew."""

    encoder: EncoderRef
    shards: Sequence[IndexShardRef]
    point: Calibration | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Indexed:
    """A calibrated index over all parts."""

    encoder: EncoderRef
    shards: Sequence[IndexShardRef]
    calibration: Calibration
    drift: Drift


def index_stage(run: Run, rows: Rows, dim: int, kept: Kept | None) -> Indexed:
    """Fits if need be, builds missing index shards, and calibrates; again with twice the bits if that fails.

    ``dim`` is the model's; ``kept`` is what serves on of the parent's index, None to make all anew.
    """
    indexed = _index(run, rows, kept or _anew(_fit(run, rows, dim, run.config.index.bits)))
    for _ in range(MAX_REFITS):
        next_bits = indexed.calibration.next_bits
        if indexed.calibration.met or next_bits is None or not can_have(run.config.index, dim, next_bits):
            break
        indexed = _index(run, rows, _anew(_fit(run, rows, dim, next_bits)))
    return indexed


def check_index(config: IndexConfig, dim: int) -> None:
    """Refuses, before any image is read, an index that cannot be built.

    Raises:
        UsageError: the recipe cannot make these bits of vectors of ``dim`` dimensions, or the memory budget
            does not hold them.
    """
    calibration_settings(config)
    bits = config.bits
    if config.recipe == "sign" and (dim % 8 or bits not in (None, dim)):
        raise UsageError(
            f"the recipe `sign` makes one bit of each of the model's {dim} dimensions, a multiple of 8; "
            f"{bits or dim} bits cannot be made",
            fix="leave out index.bits, or take the recipe centred-rotated",
        )
    if config.recipe == "itq" and (dim < 8 or (bits or 8) > dim):
        raise UsageError(
            f"the recipe `itq` makes at most one bit per dimension, {dim // 8 * 8} of the model's {dim}; "
            f"{bits or 8} bits cannot be made",
            fix="ask for fewer bits, or take the recipe centred-rotated",
        )
    if not can_have(config, dim, bits or 8):
        rough = f" and {dim + 4} of an int8 vector" if config.vector_dtype == "int8" else ""
        raise UsageError(
            f"index.memory_budget is {config.memory_budget} bytes a vector, "
            f"less than the {(bits or 8) // 8} of a code{rough}",
            fix="raise index.memory_budget, or ask for fewer index.bits",
        )


def fit_settings(
    config: IndexConfig, bits: int | None, x_ND: VectorArray, n_live: int, fit_threshold: str
) -> FitSettings:
    """What to fit on the sample ``x_ND`` of ``n_live`` rows; ``bits`` None for what suits the sample."""
    n_lists = _n_lists(config, n_live, len(x_ND))
    share = 1.0 if n_lists is None else SHARE_SCANNED
    return FitSettings(
        bits=bits or _affordable_bits(config, x_ND, n_live, share),
        seed=config.seed,
        recipe=config.recipe,
        thresholds=config.thresholds,
        n_lists=n_lists,
        fit_threshold=fit_threshold,
    )


def can_have(config: IndexConfig, dim: int, bits: int) -> bool:
    """Whether the recipe can make so many bits, and the memory budget hold them."""
    if (config.recipe == "sign" and bits != dim) or (config.recipe == "itq" and bits > dim):
        return False
    rough = dim + 4 if config.vector_dtype == "int8" else 0
    return config.memory_budget is None or bits // 8 + rough <= config.memory_budget


def models_in(run: Run, parts: Sequence[PartRef]) -> set[str]:
    """The model ids that the files of ``parts`` themselves name."""
    files = [part.embeddings for part in parts if part.embeddings is not None]
    return {read_model_id(fetch(run.store, file, run.cache)) for file in files}


def _anew(encoder: EncoderRef) -> Kept:
    return Kept(encoder=encoder, shards=(), point=None)


def _index(run: Run, rows: Rows, kept: Kept) -> Indexed:
    encoder = read_encoder(run.store, kept.encoder.file, run.cache)
    with run.stage("reduce"):
        shards = _reduce(run, rows.parts, kept.encoder, kept.shards)
    drift = measure_drift(run.store, encoder, shards)
    with run.stage("calibrate"):
        calibration = calibrate_stage(run, encoder, shards, rows.masks, kept.point, drift)
    run.drift = drift if calibration.method == "hamming" else None  # else no search uses bits
    if run.drift is not None:
        run.events.record("drift_measured", **asdict(drift), advice=drift.advice)
    return Indexed(encoder=kept.encoder, shards=shards, calibration=calibration, drift=drift)


def _fit(run: Run, rows: Rows, dim: int, bits: int | None) -> EncoderRef:
    config = run.config.index
    with run.stage("fit"):
        sample = fit_sample(seeded_order(rows.live["image_id"], config.seed))
        sampled = rows.live.take(pa.array(sample.rows_N))
        x_ND = live_vectors(run.store, sampled, rows.parts, dim, run.cache)
        encoder, receipt = fit_stage(
            run.store,
            x_ND,
            fit_settings(config, bits, x_ND, rows.live.num_rows, sample.fit_threshold),
            cache=run.cache,
        )
    return EncoderRef(
        key=receipt.key,
        digest=encoder.digest,
        bits=encoder.bits,
        recipe=encoder.recipe,
        file=receipt.files[ENCODER],
    )


def _n_lists(config: IndexConfig, n_live: int, n_sample: int) -> int | None:
    """How many lists to fit; None for the flat form."""
    if config.form == "flat" or (config.form == "auto" and n_live < FLAT_BELOW):
        return None
    return config.lists or choose_lists(n_live, n_sample)


def _affordable_bits(config: IndexConfig, x_ND: VectorArray, n_live: int, share_scanned: float) -> int:
    """The bits that the recipe and the sample ask for, or as many as the memory budget holds."""
    dim = x_ND.shape[1]
    offers = [bits for bits in offered_bits(dim) if can_have(config, dim, bits)]
    if config.recipe == "centred-rotated" and offers:
        return cheapest_bits(x_ND, n_live, offers, seed=config.seed, share_scanned=share_scanned)
    bits = choose_bits(dim, config.recipe)
    while not can_have(config, dim, bits):
        bits = (bits - 1) // 64 * 64 or bits - 8
    return bits


def _reduce(
    run: Run, parts: Sequence[PartRef], encoder: EncoderRef, kept: Sequence[IndexShardRef]
) -> list[IndexShardRef]:
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
    for done, outcome in enumerate(_reduced(run, todo), start=1):
        if not isinstance(outcome, Done):
            raise WorkerError(
                f"an index shard of {todo[outcome.index].rows} rows killed its worker: {outcome.reason}",
                fix="give the workers more memory, or make index.shard_rows smaller",
            )
        receipts[todo[outcome.index].key] = outcome.result
        run.record_done(outcome)
        run.progress.advance(len(tasks) - len(todo) + done)
    built = [receipt for receipt in receipts.values() if receipt is not None]
    return [*kept, *(_shard_ref(task, receipt) for task, receipt in zip(tasks, built, strict=True))]


def _reduced(run: Run, todo: Sequence[ReduceTask]) -> Iterator[Done[Receipt] | SetAside]:
    """Builds the index shards on the pool, or here where it takes longer to start a worker."""
    make_worker = partial(ReduceWorker, run.config.store, run.cache)
    if sum(task.rows for task in todo) > _HERE_ROWS:
        yield from run.pool.run(make_worker, todo)
        return
    for index, task in enumerate(todo):
        yield Done(index=index, result=make_worker().run(task), worker=f"driver:{os.getpid()}")


def _shard_ref(task: ReduceTask, receipt: Receipt) -> IndexShardRef:
    return IndexShardRef(
        key=task.key,
        parts=[part.key for part in task.parts],
        rows=receipt.counts["rows"],
        codes=receipt.files["codes"],
        vectors=receipt.files["vectors"],
        row_ids=receipt.files["row_ids"],
        offsets=receipt.files.get("offsets"),
        order=receipt.files.get("order"),
        int8=receipt.files.get("int8"),
        scales=receipt.files.get("scales"),
    )
