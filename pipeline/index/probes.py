"""Which lists a query looks into: the P nearest ones, and more where a filter left few live rows in them.

The choice depends on the query, the centroids and the live rows of the whole snapshot, not on batch, threads,
machine or index shards: scores are exact (`lists`), and equally near lists come by number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.index import kernel
from pipeline.index.arrays import Float32Array, Int32Array, IntArray
from pipeline.index.encoder import Encoder
from pipeline.index.lists import probe_order
from pipeline.index.shard import IndexShard

_FILTERED_BELOW = 0.9
"""Share of the calibrated live rows below which probing makes up for the rows that a filter took."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiveRows:
    """Live rows of the whole snapshot, whoever holds them."""

    n: int
    n_calibrated: int
    """When the number of probes was chosen."""
    by_list_L: IntArray


def probed_lists(
    encoder: Encoder, xq_QD: Float32Array, n_candidates: int, n_probes: int | None, live: LiveRows
) -> Int32Array | None:
    """The lists of each query, as `choose`; None for all rows: in flat form, or if all lists are probed."""
    n_lists = encoder.n_lists
    if n_probes is None or n_lists is None or n_probes >= n_lists:
        return None
    return choose(encoder, xq_QD, n_probes, live.by_list_L, least_live(n_candidates, n_probes, live))


def least_live(n_candidates: int, n_probes: int, live: LiveRows) -> int:
    """How many live rows a query must see: C, and under a filter as many as its probes held without it."""
    least = n_candidates
    if live.n < _FILTERED_BELOW * live.n_calibrated:
        least = max(least, -(-n_probes * live.n_calibrated // len(live.by_list_L)))
    return min(least, live.n)


def choose(
    encoder: Encoder, xq_QD: Float32Array, n_probes: int, live_L: IntArray, min_live: int
) -> Int32Array:
    """The lists of each query, in any order: int32 [Q, P], then -1; P is the most that any query probes.

    Args:
        encoder: of the lists form.
        xq_QD: unit queries.
        n_probes: lists to look into, the nearest first.
        live_L: live rows of each list over all index shards.
        min_live: further lists are added until all of them hold so many live rows.
    """
    assert encoder.centroids_LD is not None  # noqa: S101 (for the type checker)
    if kernel.available():
        return kernel.choose_lists(encoder, xq_QD, n_probes, live_L, min_live)
    order_QL = np.argsort(probe_order(xq_QD, encoder.centroids_LD), axis=1).astype(np.int32)
    missing_QL = np.cumsum(live_L[order_QL], axis=1) < min_live
    n_Q1 = np.minimum(np.maximum(missing_QL.sum(axis=1) + 1, n_probes), len(live_L))[:, None]
    order_QL[np.arange(len(live_L))[None, :] >= n_Q1] = -1
    return order_QL[:, : int(n_Q1.max(initial=0))]


def live_rows_of_lists(shards: Sequence[IndexShard], n_lists: int) -> IntArray:
    """Live rows of each list over all index shards: int64 [L]."""
    live_L = np.zeros(n_lists, dtype=np.int64)
    for shard in shards:
        if shard.offsets_L is not None:
            alive_N = np.ones(shard.n_rows, np.bool_) if shard.alive_N is None else shard.alive_N
            live_L += np.diff(np.concatenate([[0], np.cumsum(alive_N)])[shard.offsets_L])
    return live_L
