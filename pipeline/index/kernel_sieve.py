"""Both stages in one call, for a snapshot of one index shard: a single query pays for one call, not for five.

The kernels of the stages are called as they are, so the answer is that of `sieve` stage by stage.
"""

from typing import Any

import numpy as np

from pipeline.index.arrays import Float32Array, IntArray
from pipeline.index.kernel_encode import Bits, Lists, choose, encode
from pipeline.index.kernel_jit import jit
from pipeline.index.kernel_rank import Ranks, Vectors, rank
from pipeline.index.kernel_scan import Codes, first_rows, first_rows_of_lists


@jit
def search(
    bits: Bits,
    lists: Lists,
    codes: Codes,
    vectors: Vectors,
    ranks: Ranks,
    offsets_L: IntArray,
    xq_QD: Float32Array,
    n_probes: int,
    min_live: int,
    n: int,
    k: int,
    margin: np.float32,
) -> Any:
    """As `kernel_rank.rank`: places, distances, and where ids must decide. 0 probes scans all rows."""
    n_queries = len(xq_QD)
    codes_QW = np.empty((n_queries, codes.n_words * 8), dtype=np.uint8)
    encode(bits, xq_QD, codes_QW)
    limit_Q = np.full(n_queries, codes.n_words * 64)
    if n_probes > 0:
        probes_QL = np.empty((n_queries, len(lists.live_L)), dtype=np.int32)
        widest = choose(lists, xq_QD, n_probes, min_live, probes_QL)
        found = first_rows_of_lists(codes, codes_QW, n, offsets_L, probes_QL[:, :widest], limit_Q, 0)
    else:
        found = first_rows(codes, codes_QW, n, 0, codes.n_rows, limit_Q, 0)
    place_QK = np.empty((n_queries, k), dtype=np.int64)
    distance_QK = np.empty((n_queries, k), dtype=np.float32)
    tied_Q = np.empty(n_queries, dtype=np.bool_)
    rank(vectors, ranks, xq_QD, found[1], margin, place_QK, distance_QK, tied_Q)
    return place_QK, distance_QK, tied_Q
