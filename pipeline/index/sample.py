"""Chooses, by image id alone, which rows fit the encoder and which rows measure the index.

Every row has a key, the first 64 bits of sha256(seed, image_id). The rows with the smallest keys fit the
encoder; the largest key among them is stored with the encoder as its ``fit_threshold``. On any later night,
whatever was added or removed, a row with a key above it was not fitted on, and the next smallest keys make
the calibration queries and after them the verification queries. No list of ids is kept, and the input order
never matters.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from pipeline.index.arrays import IntArray, KeyArray

FIT_ROWS = 65_536
MAX_FIT_ROWS = 1 << 20
MAX_QUERIES = 1_000
NOTHING_FITTED = ""
"""The fit threshold of an encoder that saw no row: every row's key is above it."""

Ids: TypeAlias = "pa.StringArray | pa.LargeStringArray | pa.ChunkedArray | Sequence[str]"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitSample:
    """Positions of the rows to fit on, smallest key first, and the largest key among them in hex."""

    rows_N: IntArray
    fit_threshold: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuerySample:
    """Positions of two disjoint sets of query rows, smallest key first; no fit row is in either."""

    calibration_Q: IntArray
    verification_Q: IntArray


def seeded_order(ids: Ids, seed: int) -> KeyArray:
    """The key of every id, uint64 [N] in input order; sorting by it is the seeded order.

    The key is the first 8 bytes, big-endian, of sha256 over the seed in decimal, a NUL, and the id in UTF-8.

    >>> [f"{key:016x}" for key in seeded_order(["cat", "dog"], 7)]
    ['a11b274849bead3e', '821001214f37fdce']
    """
    start = hashlib.sha256(f"{seed}\0".encode())
    keys = bytearray()
    for image_id in _as_strings(ids):
        state = start.copy()
        state.update(image_id.encode())
        keys += state.digest()[:8]
    return np.frombuffer(bytes(keys), dtype=">u8").astype(np.uint64)


def fit_sample(keys_N: KeyArray) -> FitSample:
    """The rows to fit a new encoder on: those with the smallest keys.

    A quarter of all rows, at most 65,536, or one in 64 where that is more (list centroids need them), at most
    1,048,576.
    """
    n_fit = min(len(keys_N) // 4, max(FIT_ROWS, min(len(keys_N) // 64, MAX_FIT_ROWS)))
    rows_N = _smallest(keys_N, n_fit)
    threshold = f"{int(keys_N[rows_N[-1]]):016x}" if n_fit else NOTHING_FITTED
    return FitSample(rows_N=rows_N, fit_threshold=threshold)


def query_sample(keys_N: KeyArray, fit_threshold: str, *, max_queries: int = MAX_QUERIES) -> QuerySample:
    """Two query sets among the rows above ``fit_threshold``.

    Calibration gets min(max_queries, half of those rows), verification min(max_queries, what then remains).
    """
    free_N = np.flatnonzero(~was_fitted(keys_N, fit_threshold))
    n_calibration = min(max_queries, len(free_N) // 2)
    n_verification = min(max_queries, len(free_N) - n_calibration)
    chosen = free_N[_smallest(keys_N[free_N], n_calibration + n_verification)]
    return QuerySample(calibration_Q=chosen[:n_calibration], verification_Q=chosen[n_calibration:])


def was_fitted(keys_N: KeyArray, fit_threshold: str) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Whether each row belongs to the fit sample that ended at ``fit_threshold``; bool [N]."""
    if fit_threshold == NOTHING_FITTED:
        return np.zeros(len(keys_N), dtype=np.bool_)
    return keys_N <= np.uint64(int(fit_threshold, 16))


def _smallest(keys_N: KeyArray, n: int) -> IntArray:
    """Positions of the ``n`` smallest keys, ascending; without a full sort, N may be tens of millions."""
    if n < len(keys_N):
        cut = np.partition(keys_N, n)[n]
        within = np.flatnonzero(keys_N <= cut)
    else:
        within = np.arange(len(keys_N))
    return within[np.argsort(keys_N[within], kind="stable")][:n].astype(np.int64)


def _as_strings(ids: Ids) -> Sequence[str]:
    if isinstance(ids, pa.Array | pa.ChunkedArray):
        strings: list[str] = ids.to_pylist()
        return strings
    return ids
