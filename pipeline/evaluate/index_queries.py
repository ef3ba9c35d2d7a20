"""Fresh queries to measure an index by, and their exact nearest neighbours, kept so that they are found once.

The queries are live rows that neither fitted the encoder nor chose or verified its candidates: they are drawn
by another seed from what is left. A query is never its own neighbour.
"""

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.fingerprint import digest
from pipeline.index.arrays import BoolArray, Float32Array, IntArray, KeyArray
from pipeline.index.sample import query_sample, seeded_order, was_fitted
from pipeline.index.search import Searcher

SEED_STEP = 0x5EED
"""Added to the encoder's seed: fresh queries come in another order than calibration's."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FreshQueries:
    """Q rows as queries: float32 [Q, D], their ids, and in which index shard each lies."""

    xq_QD: Float32Array
    ids: tuple[str, ...]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.ids)


def fresh_queries(searcher: Searcher, n: int, seed: int) -> FreshQueries:
    """At most ``n`` live rows that nothing was fitted, chosen or verified on, in seeded order."""
    xs: list[Float32Array] = []
    ids: list[str] = []
    keys: list[KeyArray] = []
    spent = _spent(searcher)
    for shard in searcher.shards:
        rows = np.arange(shard.n_rows) if shard.alive_N is None else np.flatnonzero(shard.alive_N)
        live_ids = shard.ids.take(rows)
        free = np.flatnonzero(~spent(seeded_order(live_ids, _seed(searcher))))
        free_ids = live_ids.take(free)
        key_N = seeded_order(free_ids, seed + SEED_STEP)
        best = np.argsort(key_N, kind="stable")[:n]
        keys.append(key_N[best])
        ids += free_ids.take(best).to_pylist()
        xs.append(shard.vectors_ND[rows[free[best]]].astype(np.float32))
    if not ids:
        return FreshQueries(xq_QD=np.empty((0, searcher.d or 0), dtype=np.float32), ids=())
    order = np.argsort(np.concatenate(keys), kind="stable")[:n]
    return FreshQueries(xq_QD=np.concatenate(xs)[order], ids=tuple(ids[row] for row in order))


def neighbour_distances(
    searcher: Searcher, queries: FreshQueries, k: int, snapshot_digest: str, cache: Path
) -> tuple[Float32Array, bool]:
    """Distances of the exact ``k`` nearest of each query, [Q, k], and whether they were known.

    They are kept in ``cache`` under a name that contains the snapshot digest and tells the queries apart.
    Infinite where there are fewer than k.
    """
    name = f"{snapshot_digest}-{digest([list(queries.ids), k])[:16]}.npy"
    path = cache / "ground-truth" / name
    try:
        known = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        known = None
    if known is not None and known.shape == (len(queries), k) and known.dtype == np.float32:
        return known, True
    found = searcher.search(queries.xq_QD, k, exact=True, exclude_ids=queries.ids)
    distance_QK = np.full((len(queries), k), np.inf, dtype=np.float32)
    for query, distances in enumerate(found.distances):
        distance_QK[query, : len(distances)] = distances
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{name}.{uuid.uuid4().hex}.npy")
    np.save(aside, distance_QK)
    os.replace(aside, path)
    return distance_QK, False


def _seed(searcher: Searcher) -> int:
    return 0 if searcher.encoder is None else searcher.encoder.seed


def _spent(searcher: Searcher) -> Callable[[KeyArray], BoolArray]:
    """Which rows, by their key, were fitted on or were queries of the calibration."""
    encoder, point = searcher.encoder, searcher.calibration
    if encoder is None:
        return lambda keys: np.zeros(len(keys), dtype=np.bool_)
    last: np.uint64 | None = None
    if point is not None and point.queries == "catalog" and point.n_calibration + point.n_verification:
        key_N = np.concatenate([_live_keys(searcher, number) for number in range(len(searcher.shards))])
        n_queries = max(point.n_calibration, point.n_verification)
        sample = query_sample(key_N, encoder.fit_threshold, max_queries=n_queries)
        spent: IntArray = np.concatenate([sample.calibration_Q, sample.verification_Q])
        last = key_N[spent].max() if len(spent) else None

    def is_spent(keys: KeyArray) -> BoolArray:
        fitted = was_fitted(keys, encoder.fit_threshold)
        return fitted if last is None else fitted | (keys <= last)

    return is_spent


def _live_keys(searcher: Searcher, number: int) -> KeyArray:
    shard = searcher.shards[number]
    ids = shard.ids if shard.alive_N is None else shard.ids.take(np.flatnonzero(shard.alive_N))
    return seeded_order(ids, _seed(searcher))
