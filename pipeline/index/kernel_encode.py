"""The kernels of a query's way to the codes: its own code, and the lists it probes.

Sums may be taken in any order, because all of them are exact: bits in float64 on the encoder's grids, list
scores in integers on the grid of `lists`. So they equal `Encoder.encode` and `probes.choose` to the bit.
"""

from typing import Any, NamedTuple

import numpy as np

from pipeline.index.arrays import ByteArray, Float32Array, FloatArray, Int32Array, IntArray
from pipeline.index.kernel_jit import intrinsic, jit_any_order, types
from pipeline.index.kernel_sort import smallest_first, sort_with

_FIRST = 8  # lists that come before the others


class Bits(NamedTuple):
    """What decides the bits of a vector: an `Encoder` with a rotation."""

    mean_D: FloatArray
    rotation_BD: Float32Array
    thresholds_B: FloatArray
    grid: float


class Lists(NamedTuple):
    """The coarse quantiser in integers: centroids times ``grid``, and their squares."""

    centroids_LD: Any
    """int16 [L, D]."""
    square_L: IntArray
    live_L: IntArray
    """Live rows of each list, over all index shards."""
    grid: float


@jit_any_order
def encode(bits: Bits, xq_QD: Float32Array, codes_QW: ByteArray) -> None:
    """Writes the codes of the queries; eight rows of the rotation at a time meet all of them."""
    n_queries, d = xq_QD.shape
    centred_QD = np.empty((n_queries, d), dtype=np.float64)
    for q in range(n_queries):
        for j in range(d):
            centred_QD[q, j] = np.rint(np.float64(xq_QD[q, j]) * bits.grid) / bits.grid - bits.mean_D[j]
    for w in range(codes_QW.shape[1]):
        for q in range(n_queries):
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
            for j in range(d):
                value = centred_QD[q, j]
                s0 += bits.rotation_BD[8 * w, j] * value
                s1 += bits.rotation_BD[8 * w + 1, j] * value
                s2 += bits.rotation_BD[8 * w + 2, j] * value
                s3 += bits.rotation_BD[8 * w + 3, j] * value
                s4 += bits.rotation_BD[8 * w + 4, j] * value
                s5 += bits.rotation_BD[8 * w + 5, j] * value
                s6 += bits.rotation_BD[8 * w + 6, j] * value
                s7 += bits.rotation_BD[8 * w + 7, j] * value
            byte = np.int64(0)
            for i, total in enumerate((s0, s1, s2, s3, s4, s5, s6, s7)):
                byte |= np.int64(total > bits.thresholds_B[8 * w + i]) << i
            codes_QW[q, w] = byte


@jit_any_order
def choose(lists: Lists, xq_QD: Float32Array, n_probes: int, min_live: int, probes_QL: Int32Array) -> int:
    """Writes the lists each query probes, then -1; returns the most that any query probes.

    The ``n_probes`` nearest, and more until they hold ``min_live`` live rows. Among equally near lists those
    of smaller number count as nearer. The few nearest come first, so that the scan's limit falls early.
    """
    n_lists, d = lists.centroids_LD.shape
    widest = 0
    key_L = np.empty(n_lists, dtype=np.int64)
    list_L = np.empty(n_lists, dtype=np.int64)
    rounded_D = np.empty(d, dtype=np.int16)
    for q in range(len(xq_QD)):
        for j in range(d):
            rounded_D[j] = np.int16(np.rint(xq_QD[q, j] * np.float32(lists.grid)))
        for number in range(n_lists):
            dot = np.int32(0)
            for j in range(d):
                dot = _add_product(dot, lists.centroids_LD[number, j], rounded_D[j])
            key_L[number] = ((lists.square_L[number] - 2 * np.int64(dot)) << 32) | number
        n = min(n_probes, n_lists)
        smallest_first(key_L, n_lists, n)
        live = 0
        for x in range(n):
            live += lists.live_L[key_L[x] & 0xFFFFFFFF]
        if live < min_live:
            sort_with(key_L, list_L, n_lists)
            while n < n_lists and live < min_live:
                live += lists.live_L[key_L[n] & 0xFFFFFFFF]
                n += 1
        else:
            smallest_first(key_L, n, min(n, _FIRST))
        for x in range(n):
            probes_QL[q, x] = key_L[x] & 0xFFFFFFFF
        probes_QL[q, n:] = -1
        widest = max(widest, n)
    return widest


@intrinsic
def _add_product(typing: Any, total: Any, x: Any, y: Any) -> Any:
    """Total + x * y in 32 bits, without the 64 that numba would take."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        product = builder.mul(builder.sext(arguments[1], kind), builder.sext(arguments[2], kind))
        return builder.add(arguments[0], product)

    return types.int32(types.int32, types.int16, types.int16), generate
