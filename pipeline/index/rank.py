"""Second stage: the k nearest of each query's candidates by exact distance, then image id.

Where 8-bit vectors are in memory, they decide which candidates go on (`rough`). Those are ranked in float32;
the ones that can be among the k best get their exact distance (`exact`). `kernel` does both in one pass over
the vectors; without it Faiss and numpy do the same in two.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.index import kernel
from pipeline.index.arrays import Float32Array, IntArray, VectorArray
from pipeline.index.exact import float32_margin, place_distances
from pipeline.index.hamming import DeviceScan
from pipeline.index.order import NOWHERE, Neighbours, row_of, shard_of, to_neighbours
from pipeline.index.rough import worth_reading
from pipeline.index.shard import IndexShard


def rank_candidates(
    shards: Sequence[IndexShard],
    xq_QD: Float32Array,
    place_QC: IntArray,
    k: int,
    device: DeviceScan | None = None,
) -> Neighbours:
    """The ``k`` nearest of each query's candidates; int64 [Q, C], -1 after the last.

    Ties are decided by ids. Where two index shards tie, ids have to be read: that is left to numpy. A device
    that has the vectors ranks in float32; which are the nearest is still decided here.
    """
    place_QC = worth_reading(shards, xq_QD, place_QC, k)
    if device is not None and device.has_vectors:
        return _nearest(shards, xq_QD, place_QC, k, device.rough_distances(shards, xq_QD, place_QC))
    if not shards or not kernel.can_rank(tuple(shards)):
        return _rank_plainly(shards, xq_QD, place_QC, k)
    margin = margin_of(xq_QD.shape[1])
    place_QK, distance_QK, tied_Q = kernel.rank(tuple(shards), xq_QD, place_QC, k, margin)
    tied = np.flatnonzero(tied_Q)
    if len(tied):
        again = _rank_plainly(shards, xq_QD[tied], place_QC[tied], k)
        place_QK[tied], distance_QK[tied] = again.place_QK, again.distance_QK
    return Neighbours(place_QK=place_QK, distance_QK=distance_QK)


def margin_of(d: int) -> np.float32:
    """How far beyond the k-th float32 distance a row can be among the k nearest: both may be off."""
    return np.float32(2 * float32_margin(d))


def _rank_plainly(
    shards: Sequence[IndexShard], xq_QD: Float32Array, place_QC: IntArray, k: int
) -> Neighbours:
    return _nearest(shards, xq_QD, place_QC, k, _rough_distances(shards, xq_QD, place_QC))


def _nearest(
    shards: Sequence[IndexShard], xq_QD: Float32Array, place_QC: IntArray, k: int, rough_QC: Float32Array
) -> Neighbours:
    """Exact distances of all that can be among the k nearest, given float32 ones."""
    margin = margin_of(xq_QD.shape[1])
    if place_QC.shape[1] > k:
        near_QC = rough_QC <= np.partition(rough_QC, k - 1, axis=1)[:, k - 1 : k] + margin
    else:
        near_QC = np.ones(place_QC.shape, dtype=np.bool_)
    query_M, column_M = np.nonzero(near_QC & (place_QC != NOWHERE))
    place_M = place_QC[query_M, column_M]
    distance_M = place_distances(shards, xq_QD, query_M, place_M)
    return to_neighbours(query_M, distance_M, place_M, shards, (len(xq_QD), k))


def _rough_distances(shards: Sequence[IndexShard], xq_QD: Float32Array, place_QC: IntArray) -> Float32Array:
    """Float32 distances of candidates, infinite where there is none; reads each shard's vectors in place."""
    rough_QC = np.full(place_QC.shape, np.inf, dtype=np.float32)
    for number, shard in enumerate(shards):
        here_QC = (place_QC != NOWHERE) & (shard_of(place_QC) == number)
        if not here_QC.any():
            continue
        row_QC = np.where(here_QC, row_of(place_QC), -1)
        if shard.vectors_ND.dtype == np.float32:
            mine_QC = _float32_distances(shard.vectors_ND, xq_QD, row_QC)
            rough_QC[here_QC] = mine_QC[here_QC]
        else:
            query_M, column_M = np.nonzero(here_QC)
            rough_QC[here_QC] = place_distances(shards, xq_QD, query_M, place_QC[query_M, column_M])
    return rough_QC


def _float32_distances(x_ND: VectorArray, xq_QD: Float32Array, row_QC: IntArray) -> Float32Array:
    """Faiss reads the rows from the mapping without gathering them; infinite where the row is -1."""
    import faiss

    distance_QC = np.empty(row_QC.shape, dtype=np.float32)
    faiss.fvec_L2sqr_by_idx(
        faiss.swig_ptr(distance_QC),
        faiss.swig_ptr(xq_QD),
        faiss.swig_ptr(x_ND),
        faiss.swig_ptr(row_QC),
        xq_QD.shape[1],
        *row_QC.shape,
    )
    return distance_QC
