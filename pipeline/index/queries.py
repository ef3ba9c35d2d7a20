"""The queries that measure an index: live rows the encoder was not fitted on, or vectors that were given."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.index.arrays import BoolArray, Float32Array, IntArray, KeyArray, VectorArray
from pipeline.index.encoder import Encoder
from pipeline.index.order import NOWHERE, ids_at, places_of, row_of, shard_of, to_place
from pipeline.index.sample import query_sample, seeded_order
from pipeline.index.search import check_queries
from pipeline.index.shard import IndexShard

_MIX = np.uint64(0x9E3779B97F4A7C15)
"""An odd number (2**64 over the golden ratio): multiplying by it makes another order of the same keys."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuerySet:
    """Queries of one measurement: unit vectors, and for each the places and the id that are itself."""

    xq_QD: Float32Array
    excluded_QE: IntArray
    exclude_ids: tuple[str | None, ...]

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.xq_QD)

    @property
    def own_places(self) -> int:
        """How many of the C places a query's own row takes: 1 for catalog rows, 0 for given vectors."""
        return 1 if self.excluded_QE.shape[1] else 0

    def first(self, n: int) -> "QuerySet":
        """The first ``n`` of them."""
        return QuerySet(
            xq_QD=self.xq_QD[:n], excluded_QE=self.excluded_QE[:n], exclude_ids=self.exclude_ids[:n]
        )


def keys_of(shards: Sequence[IndexShard], seed: int) -> list[KeyArray]:
    """The seeded key of every row's id, uint64 [N] for each shard."""
    return [seeded_order(shard.ids, seed) for shard in shards]


def catalog_queries(
    shards: Sequence[IndexShard], keys: Sequence[KeyArray], fit_threshold: str, max_queries: int
) -> tuple[QuerySet, QuerySet]:
    """Live rows above the fit threshold, by seeded order of ids: the same in any sharding."""
    live = [np.arange(s.n_rows) if s.alive_N is None else np.flatnonzero(s.alive_N) for s in shards]
    key_N = np.concatenate([keys_N[rows] for keys_N, rows in zip(keys, live, strict=True)])
    place_N = np.concatenate([to_place(number, rows) for number, rows in enumerate(live)])
    sample = query_sample(key_N, fit_threshold, max_queries=max_queries)
    return (
        _rows_as_queries(shards, place_N[sample.calibration_Q]),
        _rows_as_queries(shards, place_N[sample.verification_Q]),
    )


def given_queries(encoder: Encoder, queries: VectorArray) -> tuple[QuerySet, QuerySet]:
    """Every second one calibrates, the others verify; none of them is taken for a row of the catalog."""
    check_queries(queries, encoder.d)
    calibration, verification = (
        QuerySet(
            xq_QD=np.ascontiguousarray(half, dtype=np.float32),
            excluded_QE=np.empty((len(half), 0), dtype=np.int64),
            exclude_ids=(None,) * len(half),
        )
        for half in (queries[0::2], queries[1::2])
    )
    return calibration, verification


def share_of(shards: Sequence[IndexShard], keys: Sequence[KeyArray], selectivity: float) -> list[IndexShard]:
    """The shards with a seeded random share of their live rows alive, as a filter would leave them."""
    limit = np.uint64(int(selectivity * 2**64))
    return [
        replace(shard, alive_N=_alive(shard) & (keys_N * _MIX < limit))
        for shard, keys_N in zip(shards, keys, strict=True)
    ]


def _alive(shard: IndexShard) -> BoolArray:
    return np.ones(shard.n_rows, dtype=np.bool_) if shard.alive_N is None else shard.alive_N


def _rows_as_queries(shards: Sequence[IndexShard], place_Q: IntArray) -> QuerySet:
    xq_QD = np.empty((len(place_Q), shards[0].vectors_ND.shape[1]), dtype=np.float32)
    for number, shard in enumerate(shards):
        here = np.flatnonzero((shard_of(place_Q) == number) & (place_Q != NOWHERE))
        xq_QD[here] = shard.vectors_ND[row_of(place_Q[here])]
    ids = tuple(ids_at(shards, place_Q).to_pylist())
    return QuerySet(xq_QD=xq_QD, excluded_QE=places_of(shards, ids), exclude_ids=ids)
