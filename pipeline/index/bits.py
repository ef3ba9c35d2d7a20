"""Chooses the bits of a code where nobody asked for a number: the cheapest offer, judged on the fit sample.

More bits make every comparison dearer and let fewer wrong rows through. For each offer:

1. Some rows of the sample ask for their exact neighbours among the others: for the tenth of ten in the
   catalog stands the second of two where the sample is a fifth of it, which is about as far away.
2. C is the smallest number of candidates that holds 99 % of these, pessimistic on ties, times the rows of the
   catalog for each of the sample.
3. cost = words compared + 120 * C, because re-ranking a candidate costs about what comparing 30 codes of 256
   bits does (`choose`).

This only picks where calibration begins: the recall is measured afterwards whatever the bits, and where it
falls short, twice the bits are fitted. Legend: N rows, Q queries, K neighbours, W words of 64 bits.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.index.arrays import IntArray, VectorArray
from pipeline.index.choose import RERANK_COST
from pipeline.index.encoder import default_bits, fit_encoder

SHARE_SCANNED = 0.15
"""Share of the rows that lie in probed lists, for the estimate."""
_K = 10
_HELD = 0.99
_QUERIES = 200
_QUERIES_AT_ONCE = 8
_MAX_ROWS = 65_536
_MAX_ELEMENTS = 10_000_000
_FEW = 500
_WORDS_OF_RERANK = 4 * RERANK_COST


def offered_bits(d: int) -> tuple[int, ...]:
    """What is tried, ascending: 256, 512, and one bit per dimension where that is more."""
    return tuple(sorted({256, 512, default_bits(d)}))


def cheapest_bits(
    x_ND: VectorArray, n_live: int, offers: Sequence[int], *, seed: int, share_scanned: float = 1.0
) -> int:
    """The offer whose estimated search costs least; the largest where the sample is too small to say.

    Args:
        x_ND: the fit sample, unit rows.
        n_live: rows of the whole catalog.
        offers: bits to choose among, each a multiple of 64; at least one.
        seed: of the rotations, the encoder's own.
        share_scanned: of the rows compared in a search.
    """
    base_ND = np.ascontiguousarray(x_ND[: min(_MAX_ROWS, _MAX_ELEMENTS // x_ND.shape[1])], dtype=np.float32)
    if len(base_ND) < _FEW or len(offers) == 1:
        return max(offers)
    asking = np.linspace(0, len(base_ND) - 1, _QUERIES).astype(np.int64)
    for_each = max(n_live / len(base_ND), 1.0)
    nearest_QK = _nearest(base_ND, asking, max(1, round(_K / for_each)))
    costs = {}
    for bits in offers:
        candidates = for_each * _candidates(base_ND, asking, nearest_QK, bits, seed)
        costs[bits] = share_scanned * n_live * bits / 64 + _WORDS_OF_RERANK * candidates
    return min(costs, key=lambda bits: (costs[bits], bits))


def _nearest(base_ND: VectorArray, asking: IntArray, k: int) -> IntArray:
    """Rows nearest to the asking ones, themselves left out, the nearest first; [Q, K]."""
    similarity_QN = base_ND[asking] @ base_ND.T
    query_Q = np.arange(len(asking))
    similarity_QN[query_Q, asking] = -np.inf
    found_QK = np.empty((len(asking), k), dtype=np.int64)
    for nth in range(k):
        found_QK[:, nth] = similarity_QN.argmax(axis=1)
        similarity_QN[query_Q, found_QK[:, nth]] = -np.inf
    return found_QK


def _candidates(base_ND: VectorArray, asking: IntArray, nearest_QK: IntArray, bits: int, seed: int) -> int:
    """The smallest number of candidates that holds the wanted share of the nearest rows."""
    import faiss

    codes_NW = fit_encoder(base_ND, bits=bits, seed=seed).encode(base_ND)
    rank_QK = np.empty(nearest_QK.shape, dtype=np.int64)
    for first in range(0, len(asking), _QUERIES_AT_ONCE):
        some = slice(first, first + _QUERIES_AT_ONCE)
        codes_QW = codes_NW[asking[some]]
        hamming_QN = np.empty((len(codes_QW), len(codes_NW)), dtype=np.int32)
        pointers = (faiss.swig_ptr(array) for array in (codes_QW, codes_NW))
        faiss.hammings(*pointers, *hamming_QN.shape, bits // 8, faiss.swig_ptr(hamming_QN))
        near_QK = np.take_along_axis(hamming_QN, nearest_QK[some], axis=1)
        for nth, hamming_Q in enumerate(near_QK.T):
            at_most_Q = np.count_nonzero(hamming_QN <= hamming_Q[:, None], axis=1)
            rank_QK[some, nth] = at_most_Q - 1  # itself is at distance 0
    needed = np.sort(rank_QK, axis=None)[int(np.ceil(_HELD * rank_QK.size)) - 1]
    return int(needed)
