"""The kernels of the build: the list and the code of each of many rows.

Eight rows meet thirty-two columns (centroids, or rows of the rotation) at a time; their sums stay in
registers. Rows are taken in pieces that fit into a core's nearest cache, beside the columns of one group.

Scores of lists are exact in float32, in any order (`lists`). Bits are decided in float32 where the sum is
farther from the threshold than it can be wrong, and in float64 elsewhere, where it is exact (`encoder`).
"""

from typing import Any, NamedTuple

import numpy as np

from pipeline.index.arrays import ByteArray, Float32Array, FloatArray, Int32Array
from pipeline.index.kernel_jit import cgutils, intrinsic, ir, jit, types

ROWS = 8
COLUMNS = 32
_TILES = 8  # of rows, in a piece


class Columns(NamedTuple):
    """What every row is multiplied with, packed in groups; columns without meaning fill the last group."""

    packed_GDC: Float32Array
    start_GC: Float32Array
    """What each sum begins with."""


class ExactBits(NamedTuple):
    """What decides a bit where float32 cannot: an `Encoder` with a rotation."""

    mean_D: FloatArray
    rotation_BD: Float32Array
    thresholds_B: FloatArray
    grid: float
    margin: np.float32
    """The most that a float32 sum can be wrong."""


@jit
def best_columns(columns: Columns, x_ND: Float32Array, grid: np.float32, best_N: Int32Array) -> None:
    """The column of the greatest sum for every row, on multiples of 1 / ``grid``; the first of equals."""
    n, d = x_ND.shape
    packed_TDR = np.empty((_TILES, d, ROWS), dtype=np.float32)
    sums_RC = np.empty((ROWS, COLUMNS), dtype=np.float32)
    most_TRC = np.empty((_TILES, ROWS, COLUMNS), dtype=np.float32)
    column_TRC = np.empty((_TILES, ROWS, COLUMNS), dtype=np.int32)
    for first in range(0, n, _TILES * ROWS):
        n_rows = min(_TILES * ROWS, n - first)
        for r in range(n_rows):
            for j in range(d):
                packed_TDR[r // ROWS, j, r % ROWS] = np.rint(x_ND[first + r, j] * grid) / grid
        most_TRC[:] = -np.inf
        column_TRC[:] = 0
        for group in range(len(columns.packed_GDC)):
            for tile in range(-(-n_rows // ROWS)):
                _multiply(columns, group, packed_TDR, tile, sums_RC)
                _keep_best(
                    sums_RC.ctypes.data,
                    most_TRC.ctypes.data + tile * ROWS * COLUMNS * 4,
                    column_TRC.ctypes.data + tile * ROWS * COLUMNS * 4,
                    group * COLUMNS,
                )
        for r in range(n_rows):
            most_C, column_C = most_TRC[r // ROWS, r % ROWS], column_TRC[r // ROWS, r % ROWS]
            best = 0
            for c in range(1, COLUMNS):
                if most_C[c] > most_C[best] or (most_C[c] == most_C[best] and column_C[c] < column_C[best]):
                    best = c
            best_N[first + r] = column_C[best]


@jit
def encode(columns: Columns, exact: ExactBits, x_ND: Float32Array, codes_NW: ByteArray) -> None:
    """Writes the code of every row."""
    n, d = x_ND.shape
    n_bits = codes_NW.shape[1] * 8
    packed_TDR = np.empty((_TILES, d, ROWS), dtype=np.float32)
    sums_RC = np.empty((ROWS, COLUMNS), dtype=np.float32)
    for first in range(0, n, _TILES * ROWS):
        n_rows = min(_TILES * ROWS, n - first)
        for r in range(n_rows):
            for j in range(d):
                packed_TDR[r // ROWS, j, r % ROWS] = _centred(exact, x_ND[first + r, j], j)
        for group in range(len(columns.packed_GDC)):
            n_here = min(COLUMNS, n_bits - group * COLUMNS)
            for tile in range(-(-n_rows // ROWS)):
                _multiply(columns, group, packed_TDR, tile, sums_RC)
                for r in range(min(ROWS, n_rows - tile * ROWS)):
                    row = first + tile * ROWS + r
                    address = sums_RC.ctypes.data + r * COLUMNS * 4
                    ones = _above(address, np.float32(0))
                    unsure = _above(address, -exact.margin) & ~_above(address, exact.margin)
                    while unsure:
                        c = np.int64(_trailing_zeros(unsure))
                        unsure &= unsure - np.uint64(1)
                        if c < n_here:
                            ones &= ~(np.uint64(1) << np.uint64(c))
                            ones |= np.uint64(_exact_bit(exact, x_ND, row, group * COLUMNS + c)) << np.uint64(
                                c
                            )
                    for byte in range(n_here // 8):
                        codes_NW[row, group * (COLUMNS // 8) + byte] = (
                            ones >> np.uint64(8 * byte)
                        ) & np.uint64(255)


@jit
def add_rows(x_ND: Float32Array, list_N: Int32Array, sum_LD: FloatArray) -> None:
    """Adds every row to the sum of its list."""
    for row in range(len(x_ND)):
        for j in range(x_ND.shape[1]):
            sum_LD[list_N[row], j] += x_ND[row, j]


@jit
def _centred(exact: ExactBits, value: np.float32, j: int) -> Any:
    return np.rint(np.float64(value) * exact.grid) / exact.grid - exact.mean_D[j]


@jit
def _exact_bit(exact: ExactBits, x_ND: Float32Array, row: int, bit: Any) -> Any:
    total = 0.0
    for j in range(x_ND.shape[1]):
        total += np.float64(exact.rotation_BD[bit, j]) * _centred(exact, x_ND[row, j], j)
    return total > exact.thresholds_B[bit]


@jit
def _multiply(
    columns: Columns, group: int, packed_TDR: Float32Array, tile: int, sums_RC: Float32Array
) -> None:
    d = packed_TDR.shape[1]
    _products(
        packed_TDR.ctypes.data + tile * d * ROWS * 4,
        columns.packed_GDC.ctypes.data + group * d * COLUMNS * 4,
        columns.start_GC.ctypes.data + group * COLUMNS * 4,
        d,
        sums_RC.ctypes.data,
    )


# Machine operations.

_I64, _I32 = ir.IntType(64), ir.IntType(32)
_F32 = ir.FloatType()
_LANES = 16
_FLOATS = ir.VectorType(_F32, _LANES)
_ROW_OF_SUMS = ir.VectorType(_F32, COLUMNS)
_ALL_SUMS = ir.VectorType(_F32, ROWS * COLUMNS)


def _pointer(builder: Any, address: Any, kind: Any, offset: Any = 0) -> Any:
    offset = ir.Constant(_I64, offset) if isinstance(offset, int) else offset
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def _splat(builder: Any, value: Any, n: int) -> Any:
    kind = ir.VectorType(value.type, n)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, n), [0] * n))


@intrinsic
def _products(typing: Any, rows: Any, columns: Any, start: Any, d: Any, sums: Any) -> Any:
    """The sums of eight rows and a group of columns; multiplying and adding may round once or twice."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, columns, start, d, sums = arguments
        halves = range(COLUMNS // _LANES)
        first = [builder.load(_pointer(builder, start, _FLOATS, 64 * half), align=4) for half in halves]
        totals = [[cgutils.alloca_once(builder, _FLOATS) for _ in halves] for _ in range(ROWS)]
        for row in totals:
            for half in halves:
                builder.store(first[half], row[half])
        with cgutils.for_range(builder, d) as loop:
            column = builder.mul(loop.index, ir.Constant(_I64, 4 * COLUMNS))
            found = [
                builder.load(_pointer(builder, builder.add(columns, column), _FLOATS, 64 * half), align=4)
                for half in halves
            ]
            values = builder.add(rows, builder.mul(loop.index, ir.Constant(_I64, 4 * ROWS)))
            for number, row in enumerate(totals):
                value = _splat(builder, builder.load(_pointer(builder, values, _F32, 4 * number)), _LANES)
                for half in halves:
                    product = builder.fmul(found[half], value, flags=("contract",))
                    total = builder.fadd(builder.load(row[half]), product, flags=("contract",))
                    builder.store(total, row[half])
        for number, row in enumerate(totals):
            for half in halves:
                target = _pointer(builder, sums, _FLOATS, 4 * COLUMNS * number + 64 * half)
                builder.store(builder.load(row[half]), target, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def _keep_best(typing: Any, sums: Any, most: Any, column: Any, first: Any) -> Any:
    """Where a sum is greater than the most so far, it is the most, and its column ``first`` + its place."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, most, column, first = arguments
        kind = ir.VectorType(_I32, COLUMNS)
        places = ir.Constant(kind, list(range(COLUMNS)))
        numbers = builder.add(_splat(builder, builder.trunc(first, _I32), COLUMNS), places)
        for row in range(ROWS):
            offset = 4 * COLUMNS * row
            found = builder.load(_pointer(builder, sums, _ROW_OF_SUMS, offset), align=4)
            most_at = _pointer(builder, most, _ROW_OF_SUMS, offset)
            column_at = _pointer(builder, column, kind, offset)
            before, number = builder.load(most_at, align=4), builder.load(column_at, align=4)
            better = builder.fcmp_ordered(">", found, before)
            builder.store(builder.select(better, found, before), most_at, align=4)
            builder.store(builder.select(better, numbers, number), column_at, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def _above(typing: Any, sums: Any, value: Any) -> Any:
    """Bit c says whether sum c of a row is greater than ``value``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, value = arguments
        found = builder.load(_pointer(builder, sums, _ROW_OF_SUMS), align=4)
        above = builder.fcmp_ordered(">", found, _splat(builder, value, COLUMNS))
        return builder.zext(builder.bitcast(above, _I32), _I64)

    return types.uint64(types.int64, types.float32), generate


@intrinsic
def _trailing_zeros(typing: Any, word: Any) -> Any:
    """Zero bits below the lowest one; 64 for zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate
