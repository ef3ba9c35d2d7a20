"""The one order of results: value ascending, then image id in UTF-8 byte order.

Every cut of this room (Hamming candidates, exact neighbours, final results) is made here, so that a result
does not depend on how rows are spread over index shards. Inside one shard the rank of an id is known without
reading it (`IndexShard.order_N`, or the row number); across shards ids are read only for rows that tie.

A row of an open snapshot is a *place*: index shard number * 2**40 + row, one int64; -1 where there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.index.arrays import BoolArray, Float32Array, Int32Array, IntArray
from pipeline.index.shard import IndexShard

NOWHERE = -1
FAR = np.iinfo(np.int32).max  # the Hamming distance of nowhere
ROW_BITS = 40


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neighbours:
    """Up to K nearest live rows of each query, best first: (distance, image id in UTF-8 byte order).

    Short rows are padded at the end with place -1 and distance infinity.
    """

    place_QK: IntArray
    distance_QK: Float32Array


def to_place(shard: int, rows: IntArray) -> IntArray:
    """The places of ``rows`` of index shard number ``shard``; int64, same shape."""
    return rows | (shard << ROW_BITS)


def shard_of(place: IntArray) -> IntArray:
    """Index shard number of every place; int64, same shape."""
    return place >> ROW_BITS


def row_of(place: IntArray) -> IntArray:
    """Row inside its index shard of every place; int64, same shape."""
    return place & ((1 << ROW_BITS) - 1)


def ids_at(shards: Sequence[IndexShard], place_M: IntArray) -> "pa.LargeStringArray":
    """Image ids of the places, in their order."""
    if len(shards) == 1:
        return shards[0].ids.take(pa.array(row_of(place_M)))
    found, where = [pa.array([], pa.large_string())], [np.empty(0, dtype=np.int64)]
    shard_M = shard_of(place_M)
    for number in np.unique(shard_M):
        here = np.flatnonzero(shard_M == number)
        found.append(shards[number].ids.take(pa.array(row_of(place_M[here]))))
        where.append(here)
    return pa.concat_arrays(found).take(pa.array(np.argsort(np.concatenate(where), kind="stable")))


def canonical_order(
    query_M: IntArray, value_M: Float32Array | Int32Array, place_M: IntArray, shards: Sequence[IndexShard]
) -> IntArray:
    """The permutation that sorts loose pairs by (query, value, image id); int64 [M]. Deterministic."""
    given_M, place_M = place_M, _ranked(shards, place_M)
    order_M = np.lexsort((place_M, value_M, query_M)).astype(np.int64)
    if len(shards) < 2 or len(order_M) < 2:
        return order_M
    tied = _in_a_tie(query_M[order_M], value_M[order_M])
    if tied.any():
        among = order_M[tied]
        rank = np.asarray(pc.rank(ids_at(shards, given_M[among]), tiebreaker="dense")).astype(np.int64)
        order_M[tied] = among[np.lexsort((place_M[among], rank, value_M[among], query_M[among]))]
    return order_M


def _ranked(shards: Sequence[IndexShard], place_M: IntArray) -> IntArray:
    """Places with the rank of the row's id in its shard instead of its row number."""
    if all(shard.order_N is None for shard in shards):
        return place_M
    ranked_M = place_M.copy()
    shard_M = shard_of(place_M)
    for number in np.unique(shard_M[place_M != NOWHERE]):
        order_N = shards[number].order_N
        if order_N is not None:
            here = np.flatnonzero(shard_M == number)
            ranked_M[here] = to_place(int(number), order_N[row_of(place_M[here])].astype(np.int64))
    return ranked_M


def position_in_query(sorted_query_M: IntArray) -> IntArray:
    """0, 1, 2, … counted anew for every query of an ascending query column; int64 [M]."""
    if len(sorted_query_M) == 0:
        return np.empty(0, dtype=np.int64)
    starts = np.flatnonzero(np.r_[True, sorted_query_M[1:] != sorted_query_M[:-1]])
    lengths = np.diff(np.r_[starts, len(sorted_query_M)])
    return np.arange(len(sorted_query_M), dtype=np.int64) - np.repeat(starts, lengths)


def nearest_pairs(
    query_M: IntArray, distance_M: Float32Array, place_M: IntArray, shards: Sequence[IndexShard], k: int
) -> tuple[IntArray, IntArray]:
    """Which pairs are among the ``k`` best of their query, best first, and at which position in it."""
    order_M = canonical_order(query_M, distance_M, place_M, shards)
    position_M = position_in_query(query_M[order_M])
    return order_M[position_M < k], position_M[position_M < k]


def to_neighbours(
    query_M: IntArray,
    distance_M: Float32Array,
    place_M: IntArray,
    shards: Sequence[IndexShard],
    shape_QK: tuple[int, int],
) -> Neighbours:
    """Loose pairs as the K best of each of Q queries."""
    best, position = nearest_pairs(query_M, distance_M, place_M, shards, shape_QK[1])
    place_QK = np.full(shape_QK, NOWHERE, dtype=np.int64)
    distance_QK = np.full(shape_QK, np.inf, dtype=np.float32)
    place_QK[query_M[best], position] = place_M[best]
    distance_QK[query_M[best], position] = distance_M[best]
    return Neighbours(place_QK=place_QK, distance_QK=distance_QK)


def _in_a_tie(query_M: IntArray, value_M: Float32Array | Int32Array) -> BoolArray:
    """Which pairs of a sorted list share query and value with a neighbour in it."""
    same = (query_M[1:] == query_M[:-1]) & (value_M[1:] == value_M[:-1])
    in_a_tie: BoolArray = np.r_[same, False] | np.r_[False, same]
    return in_a_tie


def places_of(shards: Sequence[IndexShard], ids: Sequence[str | None]) -> IntArray:
    """Where each id lives: int64 [Q, E], padded with -1. E is 1 unless an id is live more than once.

    Ids that are None or not in any shard have no place; nobody is excluded for them.
    """
    found = [
        [] if image_id is None else [to_place(s, shard.find(image_id)) for s, shard in enumerate(shards)]
        for image_id in ids
    ]
    places = [np.concatenate(rows) if rows else np.empty(0, dtype=np.int64) for rows in found]
    place_QE = np.full((len(ids), max((len(rows) for rows in places), default=0)), NOWHERE, dtype=np.int64)
    for query, rows in enumerate(places):
        place_QE[query, : len(rows)] = rows
    return place_QE
