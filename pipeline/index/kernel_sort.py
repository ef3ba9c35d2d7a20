"""Selecting and sorting for the other kernels: in place, without memory of their own."""

from typing import Any

from pipeline.index.arrays import IntArray
from pipeline.index.kernel_jit import jit


@jit
def smallest_first(values_X: Any, length: int, n: int) -> None:
    """Reorders the first ``length`` values so that the n smallest come first, the n-th of them last.

    Hoare's quickselect; any type that orders.
    """
    low, high = 0, length - 1
    while low < high:
        pivot = values_X[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values_X[i] < pivot:
                i += 1
            while values_X[j] > pivot:
                j -= 1
            if i <= j:
                values_X[i], values_X[j] = values_X[j], values_X[i]
                i += 1
                j -= 1
        if n - 1 <= j:
            high = j
        elif n - 1 >= i:
            low = i
        else:
            return


@jit
def sort_with(key_X: IntArray, companion_X: IntArray, length: int) -> None:
    """Sorts the first ``length`` keys ascending and carries the companions along (heapsort)."""
    for start in range(length // 2 - 1, -1, -1):
        _sift(key_X, companion_X, start, length)
    for last in range(length - 1, 0, -1):
        key_X[0], key_X[last] = key_X[last], key_X[0]
        companion_X[0], companion_X[last] = companion_X[last], companion_X[0]
        _sift(key_X, companion_X, 0, last)


@jit
def _sift(key_X: IntArray, companion_X: IntArray, root: int, length: int) -> None:
    key, companion = key_X[root], companion_X[root]
    child = 2 * root + 1
    while child < length:
        if child + 1 < length and key_X[child + 1] > key_X[child]:
            child += 1
        if key_X[child] <= key:
            break
        key_X[root], companion_X[root] = key_X[child], companion_X[child]
        root, child = child, 2 * child + 1
    key_X[root], companion_X[root] = key, companion
