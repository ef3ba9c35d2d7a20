"""Multiplies many rows with the same columns and keeps only what is wanted: the best column, or each sign.

The door to `kernel_columns`, which computes sums in registers and never stores them. Answers are those of
`lists.assign_lists` and `Encoder.encode`, whose numpy does the work where nothing can be compiled.
"""

from collections.abc import Callable

import numpy as np

from pipeline.index.arrays import ByteArray, Float32Array, FloatArray, Int32Array, VectorArray
from pipeline.index.rotation import VECTOR_GRID
from pipeline.index.threads import cut, default_threads, map_pieces

COMPILED_FROM = 256
"""Rows below which it does not pay to load what is compiled."""
_PIECE_ROWS = 4_096


def best_columns(
    x_ND: VectorArray, columns_CD: Float32Array, start_C: Float32Array, grid: float
) -> Int32Array:
    """The column c with the greatest x.c + start for every row on a grid; the first of equals: int32 [N]."""
    from pipeline.index import kernel_columns

    best_N = np.empty(len(x_ND), dtype=np.int32)
    columns = kernel_columns.Columns(*_packed(columns_CD, start_C))

    def work(rows: slice) -> None:
        kernel_columns.best_columns(columns, _float32(x_ND[rows]), np.float32(grid), best_N[rows])

    _in_pieces(work, len(x_ND))
    return best_N


def sums_of_lists(x_ND: Float32Array, list_N: Int32Array, n_lists: int) -> FloatArray:
    """The sum of the rows of every list: float64 [L, D]."""
    from pipeline.index import kernel_columns

    sum_LD = np.zeros((n_lists, x_ND.shape[1]))
    kernel_columns.add_rows(x_ND, list_N, sum_LD)
    return sum_LD


def signs(
    x_ND: VectorArray,
    mean_D: FloatArray,
    rotation_BD: Float32Array,
    thresholds_B: FloatArray,
) -> ByteArray:
    """Bits of rotation @ (x - mean) > threshold: uint8 [N, B / 8]."""
    from pipeline.index import kernel_columns

    codes_NW = np.empty((len(x_ND), len(rotation_BD) // 8), dtype=np.uint8)
    columns = kernel_columns.Columns(*_packed(rotation_BD, -thresholds_B.astype(np.float32)))
    exact = kernel_columns.ExactBits(mean_D, rotation_BD, thresholds_B, VECTOR_GRID, _margin(x_ND.shape[1]))

    def work(rows: slice) -> None:
        kernel_columns.encode(columns, exact, _float32(x_ND[rows]), codes_NW[rows])

    _in_pieces(work, len(x_ND))
    return codes_NW


def _margin(d: int) -> np.float32:
    """The most that a float32 sum of d products, less a threshold, can be off (see `exact.float32_margin`).

    The centred vector is at most 4 long, the rotation's rows 1, and the threshold no greater than both.
    """
    return np.float32(2 * 4 * (d + 16) * 2.0**-24)


def _packed(columns_CD: Float32Array, start_C: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Groups of columns side by side, the last filled with columns whose sum is minus infinity."""
    from pipeline.index.kernel_columns import COLUMNS

    n, d = columns_CD.shape
    n_groups = -(-n // COLUMNS)
    padded_CD = np.zeros((n_groups * COLUMNS, d), dtype=np.float32)
    padded_CD[:n] = columns_CD
    start_GC = np.full((n_groups, COLUMNS), -np.inf, dtype=np.float32)
    start_GC.reshape(-1)[:n] = start_C
    packed_GDC = np.ascontiguousarray(padded_CD.reshape(n_groups, COLUMNS, d).transpose(0, 2, 1))
    return packed_GDC, start_GC


def _float32(x_ND: VectorArray) -> Float32Array:
    return np.ascontiguousarray(x_ND, dtype=np.float32)


def _in_pieces(work: Callable[[slice], None], n: int) -> None:
    pieces = [slice(a, b) for a, b in cut(n, -(-n // _PIECE_ROWS))]
    map_pieces(work, pieces, default_threads())
