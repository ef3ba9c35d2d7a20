"""The kernels of a query's way to the codes: its own code, and the lists it probes.

Sums may be taken in any order, because all of them are exact: bits in float64 on the encoder's grids, list
scores in integers on the grid of `lists`. So they equal `Encoder.encode` and `probes.choose` to the bit.
"""

from typing import Any, NamedTuple

import numpy as np

from pipeline.index.arrays import ByteArray, Float32Array, FloatArray, Int32Array, IntArray
from pipeline.index.kernel_jit import cgutils, intrinsic, ir, jit, jit_any_order, types
from pipeline.index.kernel_sort import smallest_first, sort_with

GROUP = 128
"""Lists that are scored at a time."""
_FIRST = 8  # lists, about, that come before the others


class Bits(NamedTuple):
    """What decides the bits of a vector: an `Encoder` with a rotation."""

    mean_D: FloatArray
    rotation_BD: Float32Array
    thresholds_B: FloatArray
    grid: float


class Lists(NamedTuple):
    """The coarse quantiser in integers: centroids times ``grid``, packed for `_scores`, and their squares."""

    packed_GPL2: Any
    """int16 [groups, pairs of dimensions, GROUP, 2]; lists and dimensions without meaning are zero."""
    square_L: Int32Array
    """Padded to whole groups."""
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


@jit
def choose(lists: Lists, xq_QD: Float32Array, n_probes: int, min_live: int, probes_QL: Int32Array) -> int:
    """Writes the lists each query probes, then -1; returns the most that any query probes.

    The ``n_probes`` nearest, and more until they hold ``min_live`` live rows. Among equally near lists those
    of smaller number count as nearer. The few nearest come first, so that the scan's limit falls early.
    """
    n_lists, d = len(lists.live_L), xq_QD.shape[1]
    n_groups, n_pairs = lists.packed_GPL2.shape[:2]
    widest = 0
    score_L = np.empty(len(lists.square_L), dtype=np.int32)
    key_L = np.empty(n_lists, dtype=np.int64)
    rounded_D = np.zeros(2 * n_pairs, dtype=np.int16)
    for q in range(len(xq_QD)):
        for j in range(d):
            rounded_D[j] = np.int16(np.rint(xq_QD[q, j] * np.float32(lists.grid)))
        for group in range(n_groups):
            _scores(
                lists.packed_GPL2.ctypes.data + group * n_pairs * 4 * GROUP,
                rounded_D.ctypes.data,
                n_pairs,
                lists.square_L.ctypes.data + group * 4 * GROUP,
                score_L.ctypes.data + group * 4 * GROUP,
            )
        n = _nearest(score_L[:n_lists], min(n_probes, n_lists), key_L, probes_QL[q])
        live = 0
        for x in range(n):
            live += lists.live_L[probes_QL[q, x]]
        if live < min_live:
            n = _until(lists.live_L, score_L[:n_lists], min_live, key_L, probes_QL[q])
        probes_QL[q, n:] = -1
        widest = max(widest, n)
    return widest


@jit
def _nearest(score_L: Int32Array, n: int, key_L: IntArray, probes_L: Int32Array) -> int:
    """The n lists of smallest (score, number); those in the first few of 256 ranges of scores come first."""
    least = most = score_L[0]
    for score in score_L:
        least, most = min(least, score), max(most, score)
    shift = 0
    while (most - least) >> shift > 255:
        shift += 1
    counts_R = np.zeros(256, dtype=np.int32)
    for score in score_L:
        counts_R[(score - least) >> shift] += 1
    early = last = below = n_first = 0
    while below + counts_R[last] < n:
        below += counts_R[last]
        last += 1
        if below < _FIRST:
            early, n_first = last, below
    n_first += counts_R[early] if early < last else n - below
    tied = 0
    for number in range(len(score_L)):
        if (score_L[number] - least) >> shift == last:
            key_L[tied] = np.int64(score_L[number]) << 32 | number
            tied += 1
    smallest_first(key_L, tied, n - below)
    farthest = key_L[n - below - 1]
    first, rest = 0, n_first
    for number in range(len(score_L)):  # no branch: its outcome could not be foretold
        near = np.int64(score_L[number]) << 32 | number <= farthest
        is_first = near & ((score_L[number] - least) >> shift <= early)
        probes_L[first if is_first else rest] = number
        first += is_first
        rest += near & ~is_first
    return n


@jit
def _until(
    live_L: IntArray, score_L: Int32Array, min_live: int, key_L: IntArray, probes_L: Int32Array
) -> int:
    """Lists from the nearest on until they hold so many live rows."""
    list_L = np.arange(len(score_L))
    for number in range(len(score_L)):
        key_L[number] = np.int64(score_L[number]) << 32 | number
    sort_with(key_L, list_L, len(score_L))
    n = live = 0
    while n < len(score_L) and live < min_live:
        probes_L[n] = list_L[n]
        live += live_L[list_L[n]]
        n += 1
    return n


# Machine operations.

_I64, _I32, _I16 = ir.IntType(64), ir.IntType(32), ir.IntType(16)
_LANES = 16
_SCORES = ir.VectorType(_I32, _LANES)
_PAIRS = ir.VectorType(_I16, 2 * _LANES)


def _pointer(builder: Any, address: Any, kind: Any, offset: int = 0) -> Any:
    return builder.inttoptr(builder.add(address, ir.Constant(_I64, offset)), kind.as_pointer())


def _lanes(numbers: Any) -> Any:
    return ir.Constant(ir.VectorType(_I32, len(numbers)), list(numbers))


def _dot_pairs(context: Any, builder: Any, x: Any, y: Any) -> Any:
    """x0 * y0 + x1 * y1, x2 * y2 + x3 * y3 and so on, in 32 bits: one instruction where there is one."""
    if "+avx512bw" in context.codegen().magic_tuple()[2]:
        kind, name = ir.FunctionType(_SCORES, [_PAIRS, _PAIRS]), "llvm.x86.avx512.pmaddw.d.512"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [x, y])
    products = []
    for first in (0, 1):
        every_other = _lanes(range(first, 2 * _LANES, 2))
        wide = [builder.sext(builder.shuffle_vector(v, v, every_other), _SCORES) for v in (x, y)]
        products.append(builder.mul(*wide))
    return builder.add(*products)


@intrinsic
def _scores(typing: Any, lists: Any, query: Any, n_pairs: Any, squares: Any, scores: Any) -> Any:
    """Writes square - 2 * centroid . query of a group of lists."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lists, query, n_pairs, squares, scores = arguments
        vectors = range(GROUP // _LANES)
        dots = [cgutils.alloca_once(builder, _SCORES) for _ in vectors]
        for dot in dots:
            builder.store(ir.Constant(_SCORES, [0] * _LANES), dot)
        with cgutils.for_range(builder, n_pairs) as loop:
            offset = builder.mul(loop.index, ir.Constant(_I64, 4))
            pair = builder.load(_pointer(builder, builder.add(query, offset), _I32), align=4)
            first = builder.insert_element(ir.Constant(_SCORES, ir.Undefined), pair, ir.Constant(_I32, 0))
            asked = builder.bitcast(builder.shuffle_vector(first, first, _lanes([0] * _LANES)), _PAIRS)
            row = builder.add(lists, builder.mul(loop.index, ir.Constant(_I64, 4 * GROUP)))
            for number, dot in zip(vectors, dots, strict=True):
                found = builder.load(_pointer(builder, row, _PAIRS, 64 * number), align=2)
                total = builder.add(builder.load(dot), _dot_pairs(context, builder, found, asked))
                builder.store(total, dot)
        for number, dot in zip(vectors, dots, strict=True):
            square = builder.load(_pointer(builder, squares, _SCORES, 64 * number), align=4)
            twice = builder.shl(builder.load(dot), ir.Constant(_SCORES, [1] * _LANES))
            target = _pointer(builder, scores, _SCORES, 64 * number)
            builder.store(builder.sub(square, twice), target, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, types.int64), generate
