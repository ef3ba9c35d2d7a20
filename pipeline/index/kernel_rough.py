"""The kernel of the rough look: which candidates are worth reading a float vector for, from 8-bit vectors.

Sums are integers and the score is computed in one written order, so it equals `rough` in numpy to the bit.
"""

from typing import Any, NamedTuple

import numpy as np

from pipeline.index.arrays import Float32Array, IntArray
from pipeline.index.kernel_jit import intrinsic, ir, jit, jit_any_order, types
from pipeline.index.kernel_sort import smallest_first


class Int8(NamedTuple):
    """8-bit vectors and their scales, of all index shards of a snapshot."""

    address_S: IntArray
    scale_address_S: IntArray
    row_bits: int
    grid: float


@jit
def keep_nearest(int8: Int8, xq_QD: Float32Array, place_QC: IntArray, n: int, kept_QC: IntArray) -> None:
    """Writes each query's candidates as near as the n-th, in their order, and -1 after them."""
    n_queries, n_candidates = place_QC.shape
    d = xq_QD.shape[1]
    rounded_D = np.empty(d, dtype=np.int16)
    score_C = np.empty(n_candidates, dtype=np.float64)
    sorted_C = np.empty(n_candidates, dtype=np.float64)
    for q in range(n_queries):
        for j in range(d):
            rounded_D[j] = np.int16(np.rint(xq_QD[q, j] * np.float32(int8.grid)))
        present = 0
        while present < n_candidates and place_QC[q, present] >= 0:
            place = place_QC[q, present]
            shard, row = place >> int8.row_bits, place & ((1 << int8.row_bits) - 1)
            dot, square = _products(int8.address_S[shard] + row * d, rounded_D)
            scale = np.float64(_float32(int8.scale_address_S[shard], row))
            score_C[present] = (scale * square - 2.0 * dot / int8.grid) * scale
            present += 1
        cut = np.inf
        if present > n:
            sorted_C[:present] = score_C[:present]
            smallest_first(sorted_C, present, n)
            cut = sorted_C[n - 1]
        used = 0
        for c in range(present):
            if score_C[c] <= cut:
                kept_QC[q, used] = place_QC[q, c]
                used += 1
        kept_QC[q, used:] = -1


@jit_any_order
def _products(address: int, rounded_D: Any) -> Any:
    """The row's product with the query, and with itself."""
    dot = square = np.int32(0)
    for j in range(len(rounded_D)):
        value = _int8(address, j)
        dot = _add_product(dot, value, rounded_D[j])
        square = _add_product(square, value, value)
    return dot, square


# Machine operations.


@intrinsic
def _int8(typing: Any, address: Any, j: Any) -> Any:
    """Element j of the int8 array at an address, as int16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.gep(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()), [arguments[1]])
        return builder.sext(builder.load(pointer, align=1), ir.IntType(16))

    return types.int16(types.int64, types.int64), generate


@intrinsic
def _float32(typing: Any, address: Any, i: Any) -> Any:
    """Element i of the float32 array at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.gep(builder.inttoptr(arguments[0], ir.FloatType().as_pointer()), [arguments[1]])
        return builder.load(pointer, align=4)

    return types.float32(types.int64, types.int64), generate


@intrinsic
def _add_product(typing: Any, total: Any, x: Any, y: Any) -> Any:
    """Total + x * y in 32 bits, without the 64 that numba would take."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        product = builder.mul(builder.sext(arguments[1], kind), builder.sext(arguments[2], kind))
        return builder.add(arguments[0], product)

    return types.int32(types.int32, types.int16, types.int16), generate
