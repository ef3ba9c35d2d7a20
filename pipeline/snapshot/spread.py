"""Whether a model tells images apart: a dead one makes the same vector of every image, or of nearly every.

Measured over images whose bytes differ, so that a catalog with many copies of one picture is no alarm.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.index.reduce import read_encoder
from pipeline.index.shard import IndexShard
from pipeline.snapshot.gates import Spread
from pipeline.snapshot.manifest import Content
from pipeline.snapshot.open import open_shards
from pipeline.snapshot.rows import dead_masks
from pipeline.storage.store import ObjectStore

_SAMPLE = 1_000
_FEWEST = 100
_UNKNOWN = Spread(variance=1.0, distinct_codes=1.0)


def snapshot_spread(store: ObjectStore, content: Content, live: pa.Table, cache: Path) -> Spread:
    """The spread of what a snapshot or candidate contains; ``live`` is its live rows."""
    encoder = read_encoder(store, content.encoder.file, cache)
    dead = dead_masks(store, content, cache)
    return measure_spread(open_shards(store, content.index_shards, encoder, dead, cache), live)


def measure_spread(shards: Sequence[IndexShard], live: pa.Table) -> Spread:
    """Of about a thousand rows, evenly spaced over the index shards, those whose images differ.

    Args:
        shards: opened with their codes.
        live: the live rows, ``snapshot.rows.LIVE_SCHEMA``.
    """
    total = sum(len(shard.ids) for shard in shards)
    vectors, codes, ids = [], [], []
    for shard in shards:
        n = len(shard.ids)
        chosen = np.unique(np.linspace(0, n - 1, -(-_SAMPLE * n // total) if n else 0).astype(np.int64))
        if shard.alive_N is not None:
            chosen = chosen[shard.alive_N[chosen]]
        if shard.codes_NW is None or not len(chosen):
            continue
        vectors.append(shard.vectors_ND[chosen].astype(np.float64))
        codes.append(shard.codes_NW[chosen])
        ids += shard.ids.take(pa.array(chosen)).to_pylist()
    if not ids:
        return _UNKNOWN
    x_ND, codes_NW = np.concatenate(vectors), np.concatenate(codes)
    first = _first_of_each_content(ids, live)
    if len(first) < _FEWEST:
        return _UNKNOWN
    mean_D = x_ND[first].mean(axis=0)
    return Spread(
        variance=max(0.0, 1.0 - float(mean_D @ mean_D)),
        distinct_codes=len(np.unique(codes_NW[first], axis=0)) / len(first),
    )


def _first_of_each_content(ids: Sequence[str], live: pa.Table) -> np.ndarray:
    """Of rows with the same image bytes the first; an imported row without a digest counts as its own."""
    wanted = pa.array(ids, type=live.schema.field("image_id").type)
    where = pc.index_in(wanted, value_set=live["image_id"].combine_chunks())
    digests = pc.fill_null(live["content_digest"].take(where), "")
    names = pc.if_else(pc.equal(digests, ""), pc.cast(wanted, digests.type), digests)
    _, first = np.unique(np.asarray(names.to_pylist(), dtype=object).astype(str), return_index=True)
    return np.sort(first)
