"""The coarse quantiser of the lists form: which list a row belongs to, and which lists a query looks into.

Row x belongs to the list whose centroid c is nearest, that is, whose score x.c - |c|^2 / 2 is greatest; among
equal scores, to the list with the smallest number. For this choice vectors and centroids are rounded to
multiples of 2**-11, so products are multiples of 2**-22, half squares of 2**-23, and every partial sum is
below 2: float32 holds it without rounding (24 bits). Lists therefore do not depend on blocks, BLAS, threads
or machine, and cost no more than one float32 matrix product.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.index.arrays import Float32Array, Int32Array, IntArray, VectorArray
from pipeline.index.columns import COMPILED_FROM, best_columns, sums_of_lists
from pipeline.index.compiled import available

ITERATIONS = 3
"""Of k-means: two more find the same neighbours among 4 % fewer rows, and take two thirds more time."""
FLAT_BELOW = 100_000
"""Rows up to which a scan of every code costs less than finding and probing lists."""
ROWS_PER_LIST = 64
"""Of the fit sample, at least: below that, centroids follow single rows."""
GRID = 2.0**11
_BLOCK_ELEMENTS = 1 << 22  # float32 scores of one block: 16 MiB


def assign_lists(x_ND: VectorArray, centroids_LD: Float32Array) -> Int32Array:
    """The list of each row: its nearest centroid, the smallest number among equals; int32 [N]."""
    if len(x_ND) >= COMPILED_FROM and available():
        return best_columns(x_ND, centroids_LD, -_half_squares(centroids_LD), GRID)
    list_N = np.empty(len(x_ND), dtype=np.int32)
    for rows, scores_NL in _scores(x_ND, centroids_LD):
        list_N[rows] = scores_NL.argmax(axis=1)
    return list_N


def probe_order(xq_QD: VectorArray, centroids_LD: Float32Array) -> Int32Array:
    """The place of every list in each query's order, 0 for the nearest: int32 [Q, L].

    A search with P probes looks into the lists whose place is below P.
    """
    place_QL = np.empty((len(xq_QD), len(centroids_LD)), dtype=np.int32)
    nth_1L = np.arange(len(centroids_LD), dtype=np.int32)[None, :]
    for rows, scores_QL in _scores(xq_QD, centroids_LD):
        order_QL = np.argsort(-scores_QL, axis=1, kind="stable")
        np.put_along_axis(place_QL[rows], order_QL, nth_1L, axis=1)
    return place_QL


def fit_centroids(x_ND: VectorArray, n_lists: int) -> Float32Array:
    """Lloyd's k-means from the first ``n_lists`` distinct rows: float32 [L, D], multiples of 2**-11.

    Fewer lists come out where there are fewer distinct rows. ``x_ND`` is a sample in seeded order, so its
    first rows are a random draw. Sums are exact, so the centroids are the same on any machine.
    """
    x_ND = _on_grid(x_ND)
    centroids_LD = _first_distinct(x_ND, n_lists)
    for _ in range(ITERATIONS):
        centroids_LD = _means(x_ND, assign_lists(x_ND, centroids_LD), centroids_LD)
    return centroids_LD


def choose_lists(n_rows: int, n_sample: int) -> int:
    """Lists for so many rows: 4 sqrt(N), as a power of two that gives each list 64 rows of the sample.

    >>> choose_lists(1_000_000, 262_144)
    4096
    >>> choose_lists(1_000_000, 65_536)
    1024
    """
    wanted = 2 ** round(np.log2(4 * max(n_rows, 1) ** 0.5))
    possible = 2 ** int(np.log2(max(n_sample // ROWS_PER_LIST, 1)))
    return int(min(wanted, possible))


def list_imbalance(n_rows_L: IntArray) -> float:
    """Rows in the list of a random row, against lists of equal length: 1 is perfect (Faiss's factor)."""
    total = int(n_rows_L.sum())
    return float(len(n_rows_L) * np.sum(n_rows_L.astype(np.float64) ** 2) / total**2) if total else 1.0


def _scores(x_ND: VectorArray, centroids_LD: Float32Array) -> Iterator[tuple[slice, Float32Array]]:
    """x.c - |c|^2 / 2 in blocks of rows, exact: the half square is one more dimension of the product."""
    extended_LD = np.concatenate((centroids_LD, -_half_squares(centroids_LD)[:, None]), axis=1)
    step = max(1, _BLOCK_ELEMENTS // len(centroids_LD))
    for start in range(0, len(x_ND), step):
        rows = slice(start, min(start + step, len(x_ND)))
        block_ND = _on_grid(x_ND[rows])
        one_N1 = np.ones((len(block_ND), 1), dtype=np.float32)
        yield rows, np.concatenate((block_ND, one_N1), axis=1) @ extended_LD.T


def _half_squares(centroids_LD: Float32Array) -> Float32Array:
    half_L: Float32Array = np.einsum("ld,ld->l", centroids_LD, centroids_LD) / np.float32(2)
    return half_L


def _on_grid(x_ND: VectorArray) -> Float32Array:
    scaled_ND = np.array(x_ND, dtype=np.float32)
    scaled_ND *= np.float32(GRID)
    np.rint(scaled_ND, out=scaled_ND)
    scaled_ND /= np.float32(GRID)
    return scaled_ND


def _first_distinct(x_ND: Float32Array, n: int) -> Float32Array:
    first: dict[bytes, int] = {}
    for row, x_D in enumerate(x_ND):
        if len(first) == n:
            break
        first.setdefault(x_D.tobytes(), row)
    return x_ND[list(first.values())]


def _means(x_ND: Float32Array, list_N: Int32Array, centroids_LD: Float32Array) -> Float32Array:
    """The mean row of every list; a list without rows keeps its centroid."""
    n_lists = len(centroids_LD)
    n_rows_L = np.bincount(list_N, minlength=n_lists)
    filled_L = np.flatnonzero(n_rows_L)
    if len(x_ND) >= COMPILED_FROM and available():
        sum_LD = sums_of_lists(x_ND, list_N, n_lists)[filled_L]
    else:
        starts = (np.cumsum(n_rows_L) - n_rows_L)[filled_L]
        order_N = np.argsort(list_N, kind="stable")
        sum_LD = np.add.reduceat(x_ND[order_N], starts, axis=0, dtype=np.float64)
    means_LD = centroids_LD.copy()
    means_LD[filled_L] = _on_grid(sum_LD / n_rows_L[filled_L, None])
    return means_LD
