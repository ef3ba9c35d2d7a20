"""First stage: the C live rows whose codes are nearest to each query's, over all index shards at once.

The answer is exact: the first C live rows in the order (Hamming distance, image id). So it does not depend on
how rows are spread over shards, on threads, or on dead rows, which Faiss skips inside its scan.

1. Cut the scan into pieces: up to 32 queries by a range of one shard's codes, enough pieces for all cores.
2. Faiss finds the C best of each piece. Among ties it keeps the smallest row numbers (a property test holds
   it to that), and row order is id order.
3. Keep what is nearer than the C-th distance over all pieces; among rows at that distance, the smallest ids.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import faiss
import numpy as np

from pipeline.index.arrays import BoolArray, ByteArray, Int32Array, IntArray
from pipeline.index.order import (
    NOWHERE,
    canonical_order,
    position_in_query,
    row_of,
    shard_of,
    to_place,
)
from pipeline.index.shard import IndexShard
from pipeline.index.threads import cut, default_threads, map_pieces

_QUERY_BLOCK = 32  # Faiss's own block; its codes block is 65,536 rows
_MIN_SLICE_ROWS = 65_536  # below this a piece costs less than handing it to a thread
_COUNTING_BYTES = 1 << 28  # Faiss's counting variant allocates queries * (bits + 1) * k * 8 bytes
_COUNT_BLOCK_ROWS = 1 << 17
_FAR = np.iinfo(np.int32).max

_Piece = tuple[int, int, int, int, int]  # shard, first code, past the last code, first query, past the last


def nearest_codes(
    shards: Sequence[IndexShard],
    codes_QW: ByteArray,
    n_candidates: int,
    *,
    excluded_QE: IntArray | None = None,
    threads: int | None = None,
) -> IntArray:
    """Places of the ``n_candidates`` nearest live rows of each query.

    Args:
        shards: of one snapshot, opened with one encoder.
        codes_QW: the queries' codes.
        n_candidates: C. With fewer live rows, all of them are candidates.
        excluded_QE: places that must not be candidates of that query; -1 for none.
        threads: pieces scanned at a time; changes no result.

    Returns:
        int64 [Q, C], ascending by place in each row (so that reading vectors goes forward), padded with -1.
    """
    threads = default_threads() if threads is None else threads
    n_asked = n_candidates + (0 if excluded_QE is None else excluded_QE.shape[1])
    pieces = _pieces(shards, len(codes_QW), threads)
    found = map_pieces(partial(_scan, shards, np.ascontiguousarray(codes_QW), n_asked), pieces, threads)
    hamming_QM, place_QM = _side_by_side(pieces, found, len(codes_QW))
    if excluded_QE is not None and excluded_QE.size:
        place_QM[(place_QM[:, :, None] == excluded_QE[:, None, :]).any(axis=2)] = NOWHERE
    hamming_QM[place_QM == NOWHERE] = _FAR
    return _compact(place_QM, _nearest(hamming_QM, place_QM, n_candidates, shards), n_candidates)


def hamming_counts(
    shards: Sequence[IndexShard], codes_QW: ByteArray, *, threads: int | None = None
) -> IntArray:
    """How many live rows are at each Hamming distance from each query; int64 [Q, B + 1]."""
    threads = default_threads() if threads is None else threads
    codes_QW = np.ascontiguousarray(codes_QW)
    counts_QH = np.zeros((len(codes_QW), codes_QW.shape[1] * 8 + 1), dtype=np.int64)
    for q0, q1 in cut(len(codes_QW), -(-len(codes_QW) // _QUERY_BLOCK)):
        pieces = [
            (number, a, b, q0, q1)
            for number, shard in enumerate(shards)
            for a, b in cut(shard.n_rows, -(-shard.n_rows // _COUNT_BLOCK_ROWS))
        ]
        for piece_QH in map_pieces(partial(_count, shards, codes_QW), pieces, threads):
            counts_QH[q0:q1] += piece_QH
    return counts_QH


def hamming_of(
    shards: Sequence[IndexShard], codes_QW: ByteArray, query_M: IntArray, place_M: IntArray
) -> Int32Array:
    """Hamming distance of each pair of a query and a place; int32 [M]."""
    hamming_M = np.empty(len(place_M), dtype=np.int32)
    shard_M = shard_of(place_M)
    for number in np.unique(shard_M):
        here = np.flatnonzero(shard_M == number)
        differing = codes_of(shards[number])[row_of(place_M[here])] ^ codes_QW[query_M[here]]
        hamming_M[here] = np.bitwise_count(differing).sum(axis=1, dtype=np.int32)
    return hamming_M


def codes_of(shard: IndexShard) -> ByteArray:
    """The codes of a shard that was opened with an encoder."""
    if shard.codes_NW is None:
        raise ValueError("the index shard was opened without an encoder: it has no codes to scan")
    return shard.codes_NW


def _pieces(shards: Sequence[IndexShard], n_queries: int, threads: int) -> list[_Piece]:
    """Query blocks by code ranges; codes are cut only if blocks and shards do not fill the threads."""
    blocks = cut(n_queries, -(-n_queries // _QUERY_BLOCK))
    wanted = -(-threads // max(1, len(blocks) * sum(shard.n_rows > 0 for shard in shards)))
    return [
        (number, a, b, q0, q1)
        for number, shard in enumerate(shards)
        for a, b in cut(shard.n_rows, min(wanted, 1 + shard.n_rows // _MIN_SLICE_ROWS), multiple=8)
        for q0, q1 in blocks
    ]


def _scan(
    shards: Sequence[IndexShard], codes_QW: ByteArray, n_asked: int, piece: _Piece
) -> tuple[Int32Array, IntArray]:
    """Hamming distances and places of the nearest live rows of one piece; -1 where it has fewer."""
    number, a, b, q0, q1 = piece
    hamming_QM, row_QM = _faiss_nearest(
        codes_of(shards[number])[a:b], codes_QW[q0:q1], min(n_asked, b - a), _selector(shards[number], a, b)
    )
    return hamming_QM, np.where(row_QM < 0, NOWHERE, to_place(number, row_QM + a))


def _selector(shard: IndexShard, a: int, b: int) -> Any:
    """Faiss's selector of the live rows in [a, b), numbered from a, a multiple of 8; None if all are."""
    if shard.live_bitmap is None:
        return None
    return faiss.IDSelectorBitmap(shard.live_bitmap[a // 8 : -(-b // 8)])


def _faiss_nearest(
    codes_NW: ByteArray, codes_QW: ByteArray, k: int, selector: Any
) -> tuple[Int32Array, IntArray]:
    n_queries, width = codes_QW.shape
    hamming_QK = np.empty((n_queries, k), dtype=np.int32)
    row_QK = np.empty((n_queries, k), dtype=np.int64)
    at_once = _COUNTING_BYTES // ((width * 8 + 1) * k * 8)
    for q0, q1 in cut(n_queries, -(-n_queries // max(1, min(at_once, _QUERY_BLOCK)))):
        queries, nearest, rows = codes_QW[q0:q1], hamming_QK[q0:q1], row_QK[q0:q1]
        pointers = (faiss.swig_ptr(queries), faiss.swig_ptr(codes_NW))
        if at_once:  # the counting variant: about the heap's speed at k = 100, four times at k = 8,000
            faiss.hammings_knn_mc(
                *pointers,
                q1 - q0,
                len(codes_NW),
                k,
                width,
                faiss.swig_ptr(nearest),
                faiss.swig_ptr(rows),
                selector,
            )
        else:
            heap = faiss.int_maxheap_array_t()
            heap.nh, heap.k = q1 - q0, k
            heap.val, heap.ids = faiss.swig_ptr(nearest), faiss.swig_ptr(rows)
            faiss.hammings_knn_hc(heap, *pointers, len(codes_NW), width, 1, 0, selector)
    return hamming_QK, row_QK


def _side_by_side(
    pieces: Sequence[_Piece], found: Sequence[tuple[Int32Array, IntArray]], n_queries: int
) -> tuple[Int32Array, IntArray]:
    """The answers of all pieces as two [Q, M] matrices, one column range per range of codes."""
    starts: dict[tuple[int, int], int] = {}
    width = 0
    for (number, a, *_), (hamming, _) in zip(pieces, found, strict=True):
        if (number, a) not in starts:
            starts[number, a] = width
            width += hamming.shape[1]
    hamming_QM = np.empty((n_queries, width), dtype=np.int32)
    place_QM = np.empty((n_queries, width), dtype=np.int64)
    for (number, a, _, q0, q1), (hamming, place) in zip(pieces, found, strict=True):
        columns = slice(starts[number, a], starts[number, a] + hamming.shape[1])
        hamming_QM[q0:q1, columns], place_QM[q0:q1, columns] = hamming, place
    return hamming_QM, place_QM


def _nearest(hamming_QM: Int32Array, place_QM: IntArray, n: int, shards: Sequence[IndexShard]) -> BoolArray:
    """Which entries are among the ``n`` first of their row by (Hamming, image id); bool [Q, M]."""
    if hamming_QM.shape[1] <= n:
        present_QM: BoolArray = place_QM != NOWHERE
        return present_QM
    cut_Q1 = np.partition(hamming_QM, n - 1, axis=1)[:, n - 1 : n]
    keep_QM: BoolArray = hamming_QM < cut_Q1
    tied_QM = (hamming_QM == cut_Q1) & (place_QM != NOWHERE)
    room_Q = n - keep_QM.sum(axis=1)
    crowded_Q = tied_QM.sum(axis=1) > room_Q
    keep_QM |= tied_QM & ~crowded_Q[:, None]
    query_M, column_M = np.nonzero(tied_QM & crowded_Q[:, None])
    order_M = canonical_order(query_M, hamming_QM[query_M, column_M], place_QM[query_M, column_M], shards)
    query_M, column_M = query_M[order_M], column_M[order_M]
    wins_M = position_in_query(query_M) < room_Q[query_M]
    keep_QM[query_M[wins_M], column_M[wins_M]] = True
    return keep_QM


def _compact(place_QM: IntArray, keep_QM: BoolArray, n: int) -> IntArray:
    place_QC = np.full((len(place_QM), n), NOWHERE, dtype=np.int64)
    query_M, column_M = np.nonzero(keep_QM)
    place_QC[query_M, position_in_query(query_M)] = place_QM[query_M, column_M]
    place_QC.view(np.uint64).sort(axis=1)  # as unsigned numbers, so that -1 comes last
    return place_QC


def _count(shards: Sequence[IndexShard], codes_QW: ByteArray, piece: _Piece) -> IntArray:
    number, a, b, q0, q1 = piece
    codes_NW, queries, alive_N = codes_of(shards[number])[a:b], codes_QW[q0:q1], shards[number].alive_N
    n_bins = codes_QW.shape[1] * 8 + 1
    hamming_QN = np.empty((q1 - q0, b - a), dtype=np.int32)
    faiss.hammings(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(codes_NW),
        q1 - q0,
        b - a,
        codes_QW.shape[1],
        faiss.swig_ptr(hamming_QN),
    )
    if alive_N is not None:
        hamming_QN = hamming_QN[:, alive_N[a:b]]
    return np.stack(list(_histograms(hamming_QN, n_bins)))


def _histograms(hamming_QN: Int32Array, n_bins: int) -> Iterator[IntArray]:
    for hamming_N in hamming_QN:
        yield np.bincount(hamming_N, minlength=n_bins)
