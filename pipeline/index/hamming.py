"""First stage: the C live rows whose codes are nearest to each query's, over all index shards at once.

The answer is exact: the first C live rows in the order (Hamming distance, image id), of all rows or of the
lists that a query probes. So it does not depend on how rows are spread over shards, on threads, or on dead
rows, which are skipped inside the scan.

1. Cut the work into pieces: a block of queries by a share of the rows (or of the probed lists). Rows are
   shared out only if there are fewer blocks than threads, and only where that pays.
2. Scan a piece (`kernel`, `plain` without numba, or `cuda`), index shard by index shard: the C-th distance
   found so far limits what the next shard may add.
3. Keep what is nearer than the C-th distance over all pieces; among rows at that distance, the smallest ids.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from pipeline.index import kernel, plain
from pipeline.index.arrays import BoolArray, ByteArray, Float32Array, Int32Array, IntArray
from pipeline.index.order import (
    FAR,
    NOWHERE,
    canonical_order,
    position_in_query,
    row_of,
    shard_of,
)
from pipeline.index.shard import IndexShard
from pipeline.index.threads import cut, default_threads, map_pieces

MIN_SLICE_BYTES = 1 << 25  # codes below which sharing them out and merging costs more than it saves
_MAX_BLOCK = 128  # queries of one piece
_BLOCK_BYTES = 1 << 25  # what they may hold while they are scanned
_COUNT_BLOCK_ROWS = 1 << 17

_Piece = tuple[int, int, int, int]  # first query, past the last, which share of the rows, of how many


class DeviceScan(Protocol):
    """Codes in the memory of a device, which scans them; and vectors, where they fit."""

    def first_rows(
        self,
        number: int,
        shard: IndexShard,
        codes_QW: ByteArray,
        n: int,
        within: tuple[int, int] | Int32Array,
    ) -> tuple[Int32Array, IntArray]:
        """As `plain.first_rows`."""
        ...

    @property
    def has_vectors(self) -> bool:
        """Whether the vectors are there too: without them the next two are not for use."""
        ...

    def rough_distances(
        self, shards: Sequence[IndexShard], xq_QD: Float32Array, place_QC: IntArray
    ) -> Float32Array:
        """Float32 distances of candidates, infinite where there is none."""
        ...

    def near_rows(
        self, shard: IndexShard, xq_QD: Float32Array, n: int, bound_Q: Float32Array, slack: np.float32
    ) -> Iterator[tuple[IntArray, IntArray, Float32Array]]:
        """Queries, live rows and float32 distances less |q|^2, block by block, of all that can be near.

        That is within ``bound_Q``, which may fall between blocks, and within ``slack`` of a block's n-th.
        """
        ...


def nearest_codes(
    shards: Sequence[IndexShard],
    codes_QW: ByteArray,
    n_candidates: int,
    *,
    probes_QP: Int32Array | None = None,
    excluded_QE: IntArray | None = None,
    threads: int | None = None,
    device: DeviceScan | None = None,
) -> IntArray:
    """Places of the ``n_candidates`` nearest live rows of each query.

    Args:
        shards: of one snapshot, opened with one encoder.
        codes_QW: the queries' codes.
        n_candidates: C. With fewer live rows, all of them are candidates.
        probes_QP: the lists whose rows each query looks at, -1 for none; None for all rows.
        excluded_QE: places that must not be candidates of that query; -1 for none.
        threads: pieces scanned at a time; changes no result.
        device: what scans; None for the processor. Changes no result.

    Returns:
        int64 [Q, C], ascending by place in each row (so that reading vectors goes forward), padded with -1.
    """
    threads = 1 if device is not None else default_threads() if threads is None else threads
    n_asked = n_candidates + (0 if excluded_QE is None else excluded_QE.shape[1])
    pieces = _pieces(shards, codes_QW, n_asked, probes_QP, threads)
    codes_QW = np.ascontiguousarray(codes_QW)
    found = map_pieces(partial(_scan, shards, codes_QW, n_asked, probes_QP, device), pieces, threads)
    hamming_QM, place_QM = _side_by_side(pieces, found, (len(codes_QW), n_asked))
    if excluded_QE is not None and excluded_QE.size:
        excluded_QM = (place_QM[:, :, None] == excluded_QE[:, None, :]).any(axis=2)
        place_QM[excluded_QM], hamming_QM[excluded_QM] = NOWHERE, FAR
    if place_QM.shape[1] > n_candidates:
        place_QM = _compact(place_QM, _nearest(hamming_QM, place_QM, n_candidates, shards), n_candidates)
    place_QM.view(np.uint64).sort(axis=1)  # as unsigned numbers, so that -1 comes last
    return place_QM


def hamming_counts(
    shards: Sequence[IndexShard], codes_QW: ByteArray, *, threads: int | None = None
) -> IntArray:
    """How many live rows are at each Hamming distance from each query; int64 [Q, B + 1]."""
    threads = default_threads() if threads is None else threads
    codes_QW = np.ascontiguousarray(codes_QW)
    counts_QH = np.zeros((len(codes_QW), codes_QW.shape[1] * 8 + 1), dtype=np.int64)
    for q0, q1 in cut(len(codes_QW), -(-len(codes_QW) // plain.QUERY_BLOCK)):
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


def _pieces(
    shards: Sequence[IndexShard],
    codes_QW: ByteArray,
    n_asked: int,
    probes_QP: Int32Array | None,
    threads: int,
) -> list[_Piece]:
    """Query blocks by shares of the rows."""
    n_queries, width = codes_QW.shape
    at_most = max(1, min(_MAX_BLOCK, _BLOCK_BYTES // (24 * n_asked)))
    blocks = cut(n_queries, max(-(-n_queries // at_most), min(threads, n_queries)))
    scanned_bytes = sum(shard.n_rows for shard in shards) * width
    if probes_QP is not None:
        n_lists = max((len(s.offsets_L) - 1 for s in shards if s.offsets_L is not None), default=1)
        scanned_bytes = scanned_bytes * probes_QP.shape[1] // max(n_lists, 1)
    shares = min(-(-threads // max(1, len(blocks))), 1 + scanned_bytes // MIN_SLICE_BYTES)
    return [(q0, q1, share, shares) for share in range(shares) for q0, q1 in blocks]


def _scan(
    shards: Sequence[IndexShard],
    codes_QW: ByteArray,
    n_asked: int,
    probes_QP: Int32Array | None,
    device: DeviceScan | None,
    piece: _Piece,
) -> tuple[Int32Array, IntArray]:
    """Hamming distances and places of the first ``n_asked`` rows of one piece; -1 where it has fewer."""
    q0, q1, share, shares = piece
    queries = codes_QW[q0:q1]
    limit_Q = np.full(q1 - q0, codes_QW.shape[1] * 8, dtype=np.int64)
    found = []
    for number, shard in enumerate(shards):
        if shard.n_rows == 0:
            continue
        within: tuple[int, int] | Int32Array
        if probes_QP is not None and shard.offsets_L is not None:
            within = probes_QP[q0:q1, share::shares]
        else:
            spans = cut(shard.n_rows, shares, multiple=64)
            if share >= len(spans):
                continue
            within = spans[share]
        if device is not None:
            found.append(device.first_rows(number, shard, queries, n_asked, within))
        else:
            found.append(_first_rows(number, shard, queries, n_asked, within, limit_Q))
    if len(found) == 1:
        return found[0]
    empty = (np.empty((q1 - q0, 0), dtype=np.int32), np.empty((q1 - q0, 0), dtype=np.int64))
    hamming_QM, place_QM = (np.concatenate(columns, axis=1) for columns in zip(empty, *found, strict=True))
    keep_QM = _nearest(hamming_QM, place_QM, n_asked, shards)
    return _compact_both(hamming_QM, place_QM, keep_QM, n_asked)


def _first_rows(
    number: int,
    shard: IndexShard,
    codes_QW: ByteArray,
    n: int,
    within: tuple[int, int] | Int32Array,
    limit_Q: IntArray,
) -> tuple[Int32Array, IntArray]:
    codes_of(shard)
    if kernel.can_scan(shard, codes_QW.shape[1]):
        return kernel.first_rows(number, shard, codes_QW, n, within, limit_Q)
    return plain.first_rows(number, shard, codes_QW, n, within)


def _side_by_side(
    pieces: Sequence[_Piece], found: Sequence[tuple[Int32Array, IntArray]], shape: tuple[int, int]
) -> tuple[Int32Array, IntArray]:
    """The answers of all pieces as two [Q, M] matrices, one column range per share of the rows."""
    if len(found) == 1 and found[0][0].shape == shape:
        return found[0]
    n_queries, width = shape
    shares = pieces[0][3] if pieces else 1
    hamming_QM = np.empty((n_queries, width * shares), dtype=np.int32)
    place_QM = np.empty((n_queries, width * shares), dtype=np.int64)
    for (q0, q1, share, _), (hamming, place) in zip(pieces, found, strict=True):
        columns = slice(share * width, (share + 1) * width)
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
    return place_QC


def _compact_both(
    hamming_QM: Int32Array, place_QM: IntArray, keep_QM: BoolArray, n: int
) -> tuple[Int32Array, IntArray]:
    hamming_QC = np.full((len(place_QM), n), FAR, dtype=np.int32)
    query_M, column_M = np.nonzero(keep_QM)
    hamming_QC[query_M, position_in_query(query_M)] = hamming_QM[query_M, column_M]
    return hamming_QC, _compact(place_QM, keep_QM, n)


def _count(
    shards: Sequence[IndexShard], codes_QW: ByteArray, piece: tuple[int, int, int, int, int]
) -> IntArray:
    number, a, b, q0, q1 = piece
    if kernel.can_scan(shards[number], codes_QW.shape[1]):
        return kernel.count_distances(shards[number], codes_QW, np.arange(q0, q1), (a, b))
    import faiss

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
