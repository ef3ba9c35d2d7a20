"""A search whose index shards are held by several processes: what each finds, and how answers become one.

C counts candidates over the whole snapshot, so no holder of some index shards can tell alone which of its
rows are candidates. Each returns its own C first rows by (Hamming distance, image id) with their exact
distances; of all of these the first C are the candidates of the snapshot, and the k nearest of them the
answer: the same as in one process, whoever holds which index shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.index.arrays import Float32Array, Int32Array, IntArray
from pipeline.index.exact import nearest, place_distances
from pipeline.index.hamming import hamming_of, nearest_codes
from pipeline.index.order import NOWHERE, ids_at, position_in_query
from pipeline.index.probes import LiveRows, probed_lists
from pipeline.index.search import Searcher


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartialResult:
    """Loose pairs of a query and a live row; ``hamming_M`` is all zeros for exact search."""

    query_M: IntArray
    hamming_M: Int32Array
    distance_M: Float32Array
    ids_M: "pa.LargeStringArray"


def search_partly(
    searcher: Searcher,
    xq_QD: Float32Array,
    k: int,
    n_candidates: int | None,
    live: LiveRows | None = None,
) -> PartialResult:
    """What the index shards of ``searcher`` can add to the ``k`` nearest of each query.

    Args:
        searcher: of some index shards of a snapshot.
        xq_QD: unit queries, float32.
        k: results asked for.
        n_candidates: C of the whole snapshot; None for exact search.
        live: the live rows of the whole snapshot, which decide the lists; None looks into all.
    """
    shards = searcher.shards
    if n_candidates is None or searcher.encoder is None:
        found = nearest(shards, xq_QD, max(1, min(k, searcher.n_live)))
        query_M, column_M = np.nonzero(found.place_QK != NOWHERE)
        place_M = found.place_QK[query_M, column_M]
        distance_M, hamming_M = found.distance_QK[query_M, column_M], np.zeros(len(query_M), dtype=np.int32)
    else:
        codes_QW = searcher.encoder.encode(xq_QD)
        n = max(1, min(n_candidates, searcher.n_live))
        n_probes = None if searcher.calibration is None else searcher.calibration.probes_for(k)
        probes_QP = None
        if live is not None:
            probes_QP = probed_lists(searcher.encoder, xq_QD, n_candidates, n_probes, live)
        place_QC = nearest_codes(shards, codes_QW, n, probes_QP=probes_QP, threads=searcher.threads)
        query_M, column_M = np.nonzero(place_QC != NOWHERE)
        place_M = place_QC[query_M, column_M]
        hamming_M = hamming_of(shards, codes_QW, query_M, place_M)
        distance_M = place_distances(shards, xq_QD, query_M, place_M)
    return PartialResult(
        query_M=query_M,
        hamming_M=hamming_M,
        distance_M=distance_M,
        ids_M=ids_at(shards, place_M),
    )


def merge(
    parts: Sequence[PartialResult], n_queries: int, k: int, n_candidates: int | None
) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[float, ...], ...]]:
    """Ids and distances of the ``k`` nearest of each query, best first, from all that hold index shards."""
    query_M = np.concatenate([np.empty(0, np.int64), *(part.query_M for part in parts)])
    distance_M = np.concatenate([np.empty(0, np.float32), *(part.distance_M for part in parts)])
    ids_M = pa.concat_arrays([pa.array([], pa.large_string()), *(part.ids_M for part in parts)])
    kept_M = np.arange(len(query_M), dtype=np.int64)
    if n_candidates is not None:
        hamming_M = np.concatenate([np.empty(0, np.int32), *(part.hamming_M for part in parts)])
        kept_M = _first(query_M, hamming_M, ids_M, n_candidates)
    best_M = kept_M[_first(query_M[kept_M], distance_M[kept_M], ids_M.take(pa.array(kept_M)), k)]
    ids, distances = ids_M.take(pa.array(best_M)).to_pylist(), distance_M[best_M].tolist()
    stops = np.cumsum(np.bincount(query_M[best_M], minlength=n_queries)).tolist()
    spans = list(zip([0, *stops[:-1]], stops, strict=True)) if stops else []
    return tuple(tuple(ids[a:b]) for a, b in spans), tuple(tuple(distances[a:b]) for a, b in spans)


def _first(
    query_M: IntArray, value_M: Int32Array | Float32Array, ids_M: "pa.LargeStringArray", n: int
) -> IntArray:
    """The ``n`` first pairs of each query by (value, id), in order; ids are read only where values tie."""
    order_M = np.lexsort((value_M, query_M)).astype(np.int64)
    sorted_query_M, sorted_value_M = query_M[order_M], value_M[order_M]
    same_M = (sorted_query_M[1:] == sorted_query_M[:-1]) & (sorted_value_M[1:] == sorted_value_M[:-1])
    tied = np.flatnonzero(np.r_[same_M, False] | np.r_[False, same_M]) if len(order_M) else order_M
    if len(tied):
        among = order_M[tied]
        rank = np.asarray(pc.rank(ids_M.take(pa.array(among)), tiebreaker="dense")).astype(np.int64)
        order_M[tied] = among[np.lexsort((rank, value_M[among], query_M[among]))]
    return order_M[position_in_query(query_M[order_M]) < n]
