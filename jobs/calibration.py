"""The stage that chooses how many candidates and probes the index needs, or keeps those of the night before.

Choosing compares thousands of queries with every row, under filters too. Between two such nights C and probes
are kept as they are and only the recall is measured, of the real search: the exact neighbours it is measured
against are carried over in the cache folder, so that only what changed is compared. They are chosen anew when
the rows have drifted from the encoder, when ``index.calibrate_nights`` is over, when the measured recall no
longer reaches its target, or when filters leave more rows than were measured.
"""

import os
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from jobs.run import Run
from pipeline.config import IndexConfig
from pipeline.errors import DataCorrupt
from pipeline.fingerprint import digest
from pipeline.index.balance import Drift, bit_balance, mean_shift
from pipeline.index.calibrate import CalibrationSettings, calibrate, n_steps
from pipeline.index.calibration import Calibration
from pipeline.index.carry import Known, carried
from pipeline.index.encoder import Encoder
from pipeline.index.keep import kept
from pipeline.index.order import Neighbours
from pipeline.index.queries import QuerySet
from pipeline.index.reduce import REDUCE_STAGE
from pipeline.index.shard import IndexShard
from pipeline.snapshot.manifest import IndexShardRef
from pipeline.snapshot.open import open_shards
from pipeline.snapshot.rows import Mask
from pipeline.storage.receipts import read_receipt
from pipeline.storage.store import ObjectStore

_DOES_NOT_HOLD = "the recall fell below its target, or there are more rows under a filter than were measured"


def calibration_settings(config: IndexConfig) -> CalibrationSettings:
    """What the configuration asks of the calibration.

    Raises:
        UsageError: it cannot be met whatever the index is.
    """
    return CalibrationSettings(target=config.recall, k=config.recall_at, budget=config.max_candidates)


def calibrate_stage(
    run: Run,
    encoder: Encoder,
    refs: Sequence[IndexShardRef],
    dead: Mapping[str, Mask],
    point: Calibration | None,
    drift: Drift,
) -> Calibration:
    """The operating point of ``refs``: ``point``, the parent's, where it holds, or a new one."""
    shards = open_shards(run.store, refs, encoder, dead, run.cache)
    settings = calibration_settings(run.config.index)
    steps = n_steps(settings)
    run.progress.stage("calibrate", steps, "steps")
    why = _why_anew(run.config.index, point, drift)
    held = None
    if point is not None and not why:
        truth = partial(_neighbours, run.cache, encoder, [ref.key for ref in refs])
        held = kept(point, encoder, shards, truth)
        why = "" if held is not None else _DOES_NOT_HOLD
    calibration = held or calibrate(encoder, shards, settings, advance=run.progress.advance)
    run.progress.advance(steps)
    run.events.record(
        "calibrated",
        bits=encoder.bits,
        form=calibration.form,
        lists=encoder.n_lists,
        candidates=calibration.candidates.get(calibration.k),
        probes=calibration.probes.get(calibration.k),
        met=calibration.met,
        reason=calibration.reason,
        kept=calibration.kept,
        why_anew=why,
    )
    return calibration


def measure_drift(store: ObjectStore, encoder: Encoder, refs: Sequence[IndexShardRef]) -> Drift:
    """How far all rows of the index are from those the encoder was fitted on, from the shards' receipts."""
    ones_B, sum_D = np.zeros(encoder.bits, dtype=np.int64), np.zeros(encoder.d)
    rows, crowding = 0, 0.0
    for ref in refs:
        receipt = read_receipt(store, REDUCE_STAGE, ref.key)
        if receipt is None:
            raise DataCorrupt(
                f"index shard {ref.key} of the parent snapshot has lost its receipt or a file",
                fix="run again with --refit to build the index shards anew from the embeddings",
            )
        ones_B += np.asarray(receipt.facts["ones"], dtype=np.int64)
        sum_D += np.asarray(receipt.facts["sum"], dtype=np.float64)
        crowding += ref.rows * float(receipt.facts["list_imbalance"])
        rows += ref.rows
    return Drift(
        mean_shift=0.0 if encoder.recipe == "sign" else mean_shift(sum_D, rows, encoder.mean_D),
        bit_imbalance=bit_balance(ones_B, rows),
        list_imbalance=crowding / rows if rows else 1.0,
    )


def _why_anew(config: IndexConfig, point: Calibration | None, drift: Drift) -> str:
    """Why C and probes are chosen anew whatever the recall is; empty where they may be kept."""
    if point is None or point.method == "exact":
        return "nothing to keep"
    if drift.advice:
        return drift.advice
    if point.kept + 1 >= config.calibrate_nights:
        return f"chosen {point.kept + 1} nights ago"
    return ""


def _neighbours(
    cache: Path,
    encoder: Encoder,
    keys: Sequence[str],
    shards: Sequence[IndexShard],
    queries: QuerySet,
    k: int,
) -> Neighbours:
    """The exact neighbours of ``queries``: what the cache knows of an earlier night, and what is new."""
    path = cache / "ground-truth" / f"{encoder.digest}-{digest(['calibration', k])[:16]}.npz"
    near, known = carried(Known.read(path), keys, shards, queries, k)
    if known is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        known.save(aside)
        os.replace(aside, path)
    return near
