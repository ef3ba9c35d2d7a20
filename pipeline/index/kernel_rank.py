"""The second stage kernel: the k nearest of each query's candidates by exact distance.

1. Squared distances of all candidates in float32, each vector asked for a few candidates ahead.
2. Those within the proven margin of the k-th get their exact distance: `exact.pair_distances`, bit for bit
   (eight running sums in float64, no reordering).
3. The k best by (distance, rank of the id). Where equal distances meet in two index shards, only the ids can
   decide: such a query is marked, and the caller ranks it.
"""

from typing import Any, NamedTuple

import numpy as np

from pipeline.index.arrays import BoolArray, Float32Array, IntArray
from pipeline.index.kernel_jit import cgutils, intrinsic, ir, jit, jit_any_order, types
from pipeline.index.kernel_sort import smallest_first, sort_with

_AHEAD = 6  # candidates whose vectors are on their way while one is computed
_LINE_BYTES = 64


class Vectors(NamedTuple):
    """The second-stage vectors of all index shards of a snapshot, all of one type."""

    address_S: IntArray
    kind: Any
    """An empty array of the element type; float16 as the uint16 that holds its bits."""
    d: int


class Ranks(NamedTuple):
    """Ranks of row ids of each index shard; address 0 where the row number is the rank."""

    address_S: IntArray
    row_bits: int
    """A place is shard number << row_bits | row."""


@jit
def rank(
    vectors: Vectors,
    ranks: Ranks,
    xq_QD: Float32Array,
    place_QC: IntArray,
    margin: np.float32,
    place_QK: IntArray,
    distance_QK: Float32Array,
    tied_Q: BoolArray,
) -> None:
    """Fills the k best of each query, -1 and infinity after them, and whether ids must decide."""
    n_queries, n_candidates = place_QC.shape
    k = place_QK.shape[1]
    rough_C = np.empty(n_candidates, dtype=np.float32)
    sorted_C = np.empty(n_candidates, dtype=np.float32)
    key_C = np.empty(n_candidates, dtype=np.int64)
    near_C = np.empty(n_candidates, dtype=np.int64)
    for q in range(n_queries):
        n = _roughly(vectors, ranks.row_bits, xq_QD[q], place_QC[q], rough_C)
        cut = np.float32(np.inf)
        if n > k:
            sorted_C[:n] = rough_C[:n]
            smallest_first(sorted_C, n, k)
            cut = sorted_C[k - 1] + margin
        n_near = 0
        for c in range(n):
            if rough_C[c] <= cut:
                place = place_QC[q, c]
                shard, row = place >> ranks.row_bits, place & ((1 << ranks.row_bits) - 1)
                distance = np.float32(_exactly(vectors, shard, row, xq_QD[q]))
                position = _int32(ranks.address_S[shard], row) if ranks.address_S[shard] else row
                key_C[n_near] = (np.int64(_bits(distance)) << 32) | position
                near_C[n_near] = place
                n_near += 1
        sort_with(key_C, near_C, n_near)
        tied_Q[q] = _tied_across_shards(key_C, near_C, n_near, ranks.row_bits)
        for x in range(k):
            place_QK[q, x] = near_C[x] if x < n_near else -1
            distance_QK[q, x] = _float(np.uint32(key_C[x] >> 32)) if x < n_near else np.inf


@jit
def _roughly(
    vectors: Vectors, row_bits: int, query_D: Float32Array, place_C: IntArray, rough_C: Float32Array
) -> int:
    """Float32 distances of a query's candidates, in their order; returns how many there are."""
    n, row_bytes = 0, vectors.d * vectors.kind.itemsize
    while n < len(place_C) and place_C[n] >= 0:
        n += 1
    for c in range(n + _AHEAD):
        if c < n:
            place = place_C[c]
            address = vectors.address_S[place >> row_bits] + (place & ((1 << row_bits) - 1)) * row_bytes
            for offset in range(0, row_bytes, _LINE_BYTES):
                _prefetch(address + offset)
        if c >= _AHEAD:
            place = place_C[c - _AHEAD]
            address = vectors.address_S[place >> row_bits] + (place & ((1 << row_bits) - 1)) * row_bytes
            rough_C[c - _AHEAD] = _float32_distance(address, vectors.kind, query_D)
    return n


@jit_any_order
def _float32_distance(address: int, kind: Any, query_D: Float32Array) -> Any:
    total = np.float32(0)
    for j in range(len(query_D)):
        difference = _component(kind, address, j) - query_D[j]
        total += difference * difference
    return total


@jit
def _exactly(vectors: Vectors, shard: int, row: int, query_D: Float32Array) -> Any:
    """Component j adds to running sum j % 8; the eight are added in pairs."""
    address = vectors.address_S[shard] + row * vectors.d * vectors.kind.itemsize
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = vectors.d // 8 * 8
    for j in range(0, whole, 8):
        s0 += _square(vectors.kind, address, query_D, j)
        s1 += _square(vectors.kind, address, query_D, j + 1)
        s2 += _square(vectors.kind, address, query_D, j + 2)
        s3 += _square(vectors.kind, address, query_D, j + 3)
        s4 += _square(vectors.kind, address, query_D, j + 4)
        s5 += _square(vectors.kind, address, query_D, j + 5)
        s6 += _square(vectors.kind, address, query_D, j + 6)
        s7 += _square(vectors.kind, address, query_D, j + 7)
    left = vectors.d - whole
    s0 += _square(vectors.kind, address, query_D, whole) if left > 0 else 0.0
    s1 += _square(vectors.kind, address, query_D, whole + 1) if left > 1 else 0.0
    s2 += _square(vectors.kind, address, query_D, whole + 2) if left > 2 else 0.0
    s3 += _square(vectors.kind, address, query_D, whole + 3) if left > 3 else 0.0
    s4 += _square(vectors.kind, address, query_D, whole + 4) if left > 4 else 0.0
    s5 += _square(vectors.kind, address, query_D, whole + 5) if left > 5 else 0.0
    s6 += _square(vectors.kind, address, query_D, whole + 6) if left > 6 else 0.0
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@jit
def _square(kind: Any, address: int, query_D: Float32Array, j: int) -> Any:
    difference = np.float64(_component(kind, address, j)) - np.float64(query_D[j])
    return difference * difference


@jit
def _tied_across_shards(key_X: IntArray, place_X: IntArray, length: int, row_bits: int) -> bool:
    for x in range(1, length):
        if key_X[x] >> 32 == key_X[x - 1] >> 32 and place_X[x] >> row_bits != place_X[x - 1] >> row_bits:
            return True
    return False


# Machine operations.

_I64 = ir.IntType(64)
_F32 = ir.FloatType()


@intrinsic
def _component(typing: Any, kind: Any, address: Any, j: Any) -> Any:
    """Element j of the vector at an address, as float32."""
    stored = {types.float32: _F32, types.uint16: ir.IntType(16)}[kind.dtype]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.gep(builder.inttoptr(arguments[1], stored.as_pointer()), [arguments[2]])
        value = builder.load(pointer, align=2)
        if stored is _F32:
            return value
        return builder.fpext(builder.bitcast(value, ir.HalfType()), _F32)

    return types.float32(kind, types.int64, types.int64), generate


@intrinsic
def _int32(typing: Any, address: Any, i: Any) -> Any:
    """Element i of the int32 array at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.gep(builder.inttoptr(arguments[0], ir.IntType(32).as_pointer()), [arguments[1]])
        return builder.sext(builder.load(pointer, align=4), _I64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _prefetch(typing: Any, address: Any) -> Any:
    """Asks for the cache line at an address; never fails."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, keep, data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(function, [builder.inttoptr(arguments[0], pointer), read, keep, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def _bits(typing: Any, value: Any) -> Any:
    """The bits of a float32; they order like the value where it is not negative."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def _float(typing: Any, bits: Any) -> Any:
    """The float32 with these bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], _F32)

    return types.float32(types.uint32), generate
