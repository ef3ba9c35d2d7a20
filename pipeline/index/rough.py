"""Between the stages, where a shard has 8-bit vectors in memory: the candidates worth a float vector.

Float vectors may lie on disk, where every candidate costs a random read. The 8-bit vectors of all candidates
are compared first, and only those as near as the hundredth (or the 2k-th) go on. The score |x|^2 - 2 x.q is
a sum of integers times the row's own scale: kernels and numpy, any batch and any sharding agree.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.index import kernel
from pipeline.index.arrays import Float32Array, FloatArray, IntArray
from pipeline.index.int8 import REFINED_AT_LEAST
from pipeline.index.order import NOWHERE, row_of, shard_of
from pipeline.index.shard import IndexShard

GRID = 2.0**14
"""Queries are rounded to multiples of 1 / GRID: int16."""


def worth_reading(shards: Sequence[IndexShard], xq_QD: Float32Array, place_QC: IntArray, k: int) -> IntArray:
    """The candidates that go on: int64 [Q, C], in their order, -1 after the last; rough ties go on too."""
    n = max(REFINED_AT_LEAST, 2 * k)
    if place_QC.shape[1] <= n or not shards or any(shard.int8_ND is None for shard in shards):
        return place_QC
    if kernel.available():
        return kernel.keep_nearest(tuple(shards), xq_QD, place_QC, n, GRID)
    score_QC = _scores(shards, xq_QD, place_QC)
    kept_QC = np.full_like(place_QC, NOWHERE)
    near_QC = (score_QC <= np.partition(score_QC, n - 1, axis=1)[:, n - 1 : n]) & (place_QC != NOWHERE)
    for query, near_C in enumerate(near_QC):
        kept_QC[query, : near_C.sum()] = place_QC[query, near_C]
    return kept_QC


def _scores(shards: Sequence[IndexShard], xq_QD: Float32Array, place_QC: IntArray) -> FloatArray:
    """Infinite where there is no candidate."""
    score_QC = np.full(place_QC.shape, np.inf)
    rounded_QD = np.rint(xq_QD * np.float32(GRID)).astype(np.int64)
    for query, place_C in enumerate(place_QC):
        for number, shard in enumerate(shards):
            assert shard.int8_ND is not None and shard.int8_scale_N is not None  # noqa: S101, PT018
            here = np.flatnonzero((place_C != NOWHERE) & (shard_of(place_C) == number))
            row_M = row_of(place_C[here])
            x_MD = shard.int8_ND[row_M].astype(np.int64)
            scale_M = shard.int8_scale_N[row_M].astype(np.float64)
            square_M, dot_M = (x_MD * x_MD).sum(axis=1), x_MD @ rounded_QD[query]
            score_QC[query, here] = (scale_M * square_M - 2.0 * dot_M / GRID) * scale_M
    return score_QC
