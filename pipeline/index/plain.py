"""The first stage without compiled kernels: Faiss where it can, numpy where it cannot.

Faiss keeps the smallest row numbers among ties (a property test holds it to that), so it serves where row
order is id order. Rows in list order are compared by numpy.
"""

from typing import Any

import numpy as np

from pipeline.index.arrays import ByteArray, Int32Array, IntArray
from pipeline.index.order import FAR, NOWHERE, to_place
from pipeline.index.shard import IndexShard
from pipeline.index.threads import cut

QUERY_BLOCK = 32  # Faiss's own block; its codes block is 65,536 rows
_COUNTING_BYTES = 1 << 28  # Faiss's counting variant allocates queries * (bits + 1) * k * 8 bytes


def first_rows(
    number: int, shard: IndexShard, codes_QW: ByteArray, n: int, within: tuple[int, int] | Int32Array
) -> tuple[Int32Array, IntArray]:
    """Distances and places of the first n live rows of each query by (Hamming, image id), in any order.

    Args:
        number: of the index shard in its snapshot.
        shard: opened with its codes.
        codes_QW: the queries' codes.
        n: fewer rows are followed by distance 2**31 - 1 and place -1.
        within: rows from, to (the first a multiple of 8); or for each query the lists to look into, int32
            [Q, P], -1 for none.
    """
    hamming_QC = np.full((len(codes_QW), n), FAR, dtype=np.int32)
    row_QC = np.full((len(codes_QW), n), -1, dtype=np.int64)
    if isinstance(within, tuple) and shard.order_N is None:
        a, b = within
        assert shard.codes_NW is not None  # noqa: S101 (for the type checker)
        few = min(n, b - a)
        hamming_QC[:, :few], row_QC[:, :few] = _faiss_nearest(
            shard.codes_NW[a:b], codes_QW, few, _selector(shard, a, b)
        )
        row_QC[row_QC >= 0] += a
        return hamming_QC, _places(number, row_QC)
    for query, code_W in enumerate(codes_QW):
        row_M = _live_rows(shard, within if isinstance(within, tuple) else within[query])
        hamming_M, row_M = _numpy_nearest(shard, code_W, row_M, n)
        hamming_QC[query, : len(row_M)], row_QC[query, : len(row_M)] = hamming_M, row_M
    return hamming_QC, _places(number, row_QC)


def _places(number: int, row_QC: IntArray) -> IntArray:
    return np.where(row_QC < 0, NOWHERE, to_place(number, row_QC))


def _live_rows(shard: IndexShard, within: tuple[int, int] | Int32Array) -> IntArray:
    if isinstance(within, tuple):
        row_M = np.arange(*within, dtype=np.int64)
    else:
        assert shard.offsets_L is not None  # noqa: S101 (for the type checker)
        spans = [(shard.offsets_L[i], shard.offsets_L[i + 1]) for i in within.tolist() if i >= 0]
        row_M = np.concatenate([np.empty(0, np.int64), *(np.arange(a, b, dtype=np.int64) for a, b in spans)])
    return row_M if shard.alive_N is None else row_M[shard.alive_N[row_M]]


def _numpy_nearest(
    shard: IndexShard, code_W: ByteArray, row_M: IntArray, n: int
) -> tuple[Int32Array, IntArray]:
    assert shard.codes_NW is not None  # noqa: S101 (for the type checker)
    hamming_M = np.bitwise_count(shard.codes_NW[row_M] ^ code_W).sum(axis=1, dtype=np.int32)
    if len(row_M) > n:
        near = np.flatnonzero(hamming_M <= np.partition(hamming_M, n - 1)[n - 1])
        rank = row_M[near] if shard.order_N is None else shard.order_N[row_M[near]]
        kept = near[np.lexsort((rank, hamming_M[near]))[:n]]
        hamming_M, row_M = hamming_M[kept], row_M[kept]
    return hamming_M, row_M


def _selector(shard: IndexShard, a: int, b: int) -> Any:
    """Faiss's selector of the live rows in [a, b), numbered from a, a multiple of 8; None if all are."""
    if shard.live_bitmap is None:
        return None
    import faiss

    return faiss.IDSelectorBitmap(shard.live_bitmap[a // 8 : -(-b // 8)])


def _faiss_nearest(
    codes_NW: ByteArray, codes_QW: ByteArray, k: int, selector: Any
) -> tuple[Int32Array, IntArray]:
    import faiss

    n_queries, width = codes_QW.shape
    hamming_QK = np.empty((n_queries, k), dtype=np.int32)
    row_QK = np.empty((n_queries, k), dtype=np.int64)
    at_once = _COUNTING_BYTES // ((width * 8 + 1) * k * 8)
    for q0, q1 in cut(n_queries, -(-n_queries // max(1, min(at_once, QUERY_BLOCK)))):
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
