"""Decides whether compiled kernels run, and calls them on arrays: the only door to the kernel_* files.

With the extra ``kernel`` (numba) the scan compares codes at about the speed of a bare popcount loop. Without
it `plain` does the same with Faiss and numpy: slower, and equal to the last tie.
"""

import sys
from functools import cache, lru_cache
from typing import Any

import numpy as np

from pipeline.index.arrays import BoolArray, ByteArray, Float32Array, Int32Array, IntArray
from pipeline.index.encoder import Encoder
from pipeline.index.lists import GRID
from pipeline.index.order import ROW_BITS
from pipeline.index.rotation import VECTOR_GRID
from pipeline.index.shard import IndexShard

_WORD = 8
_GROUP = 8  # codes compared at a time: the kernel reads no shard with fewer rows
_ROOM = 4  # kept rows per row asked for; below 2 the buffer would be cleaned up all the time
_MAX_ROWS = 1 << 31
_KINDS = {"float32": np.dtype(np.float32), "float16": np.dtype(np.uint16)}


@cache
def available() -> bool:
    """Whether kernels can be compiled here: numba is installed and the processor little-endian."""
    try:
        import pipeline.index.kernel_jit  # noqa: F401
    except ImportError:
        return False
    return sys.byteorder == "little"


def can_scan(shard: IndexShard, width: int) -> bool:
    """Whether the scan kernel takes the codes of this shard: whole 64-bit words, row numbers of 31 bits."""
    return available() and width % _WORD == 0 and shard.n_rows < _MAX_ROWS


def first_rows(
    shard: IndexShard,
    codes_QW: ByteArray,
    n: int,
    within: tuple[int, int] | Int32Array,
    limit_Q: IntArray,
) -> tuple[Int32Array, IntArray]:
    """As `plain.first_rows`, without rows beyond ``limit_Q``; the limit falls to the n-th distance."""
    from pipeline.index import kernel_scan

    assert shard.codes_NW is not None  # noqa: S101 (for the type checker)
    n_queries, width = codes_QW.shape
    codes_NW, live = _padded(shard)
    near_8 = np.empty(_GROUP, dtype=np.int64)
    codes = kernel_scan.Codes(
        address=codes_NW.ctypes.data,
        n_words=width // _WORD,
        n_rows=len(codes_NW),
        order_N=np.empty(0, dtype=np.int32) if shard.order_N is None else shard.order_N,
        live_address=0 if live is None else live.ctypes.data,
    )
    room = _ROOM * n + 256
    kept = kernel_scan.Kept(
        n=n,
        limit_Q=limit_Q,
        within_Q=np.zeros(n_queries, dtype=np.int64),
        used_Q=np.zeros(n_queries, dtype=np.int64),
        last_rank_Q=np.full(n_queries, kernel_scan.ANY_RANK),
        counts_QH=np.zeros((n_queries, width * 8 + 1), dtype=np.int32),
        hamming_QX=np.empty((n_queries, room), dtype=np.int32),
        row_QX=np.empty((n_queries, room), dtype=np.int32),
        keys_X=np.empty(room, dtype=np.int64),
        near_8=near_8,
        near_address=near_8.ctypes.data,
    )
    if isinstance(within, tuple):
        kernel_scan.scan_range(codes, codes_QW.ctypes.data, *within, kept)
    else:
        assert shard.offsets_L is not None  # noqa: S101 (for the type checker)
        kernel_scan.scan_lists(codes, codes_QW.ctypes.data, shard.offsets_L, within, kept)
    hamming_QC = np.empty((n_queries, n), dtype=np.int32)
    row_QC = np.empty((n_queries, n), dtype=np.int64)
    kernel_scan.finish(codes, kept, hamming_QC, row_QC)
    return hamming_QC, row_QC


def encode(encoder: Encoder, xq_QD: Float32Array) -> ByteArray:
    """`Encoder.encode`, bit for bit, without copies of the rotation; the encoder must have one."""
    from pipeline.index import kernel_encode

    assert encoder.rotation_BD is not None  # noqa: S101 (for the type checker)
    codes_QW = np.empty((len(xq_QD), encoder.bits // 8), dtype=np.uint8)
    bits = kernel_encode.Bits(encoder.mean_D, encoder.rotation_BD, encoder.thresholds_B, VECTOR_GRID)
    kernel_encode.encode(bits, xq_QD, codes_QW)
    return codes_QW


def choose_lists(
    encoder: Encoder, xq_QD: Float32Array, n_probes: int, live_L: IntArray, min_live: int
) -> Int32Array:
    """As `probes.choose`, nearest list first."""
    from pipeline.index import kernel_encode

    centroids_LD, square_L = _integer_centroids(encoder)
    lists = kernel_encode.Lists(centroids_LD, square_L, live_L, GRID)
    probes_QL = np.empty((len(xq_QD), len(centroids_LD)), dtype=np.int32)
    return probes_QL[:, : kernel_encode.choose(lists, xq_QD, n_probes, min_live, probes_QL)]


def can_rank(shards: tuple[IndexShard, ...]) -> bool:
    """Whether the second stage kernel takes these vectors: one type, rows one after the other."""
    return available() and all(
        shard.vectors_ND.dtype.name in _KINDS
        and shard.vectors_ND.dtype == shards[0].vectors_ND.dtype
        and shard.vectors_ND.flags.c_contiguous
        for shard in shards
    )


def rank(
    shards: tuple[IndexShard, ...], xq_QD: Float32Array, place_QC: IntArray, k: int, margin: np.float32
) -> tuple[IntArray, Float32Array, BoolArray]:
    """The k nearest candidates of each query: places, distances, and where only ids can decide the order."""
    from pipeline.index import kernel_rank

    n_queries, d = xq_QD.shape
    kind = shards[0].vectors_ND.dtype.name
    vectors = kernel_rank.Vectors(_addresses(shards, "vectors_ND"), np.empty(0, dtype=_KINDS[kind]), d)
    ranks = kernel_rank.Ranks(_addresses(shards, "order_N"), ROW_BITS)
    place_QK = np.empty((n_queries, k), dtype=np.int64)
    distance_QK = np.empty((n_queries, k), dtype=np.float32)
    tied_Q = np.empty(n_queries, dtype=np.bool_)
    kernel_rank.rank(vectors, ranks, xq_QD, place_QC, margin, place_QK, distance_QK, tied_Q)
    return place_QK, distance_QK, tied_Q


def _addresses(shards: tuple[IndexShard, ...], name: str) -> IntArray:
    """Where each shard's array begins; 0 for none."""
    arrays = [getattr(shard, name) for shard in shards]
    return np.array([0 if array is None else array.ctypes.data for array in arrays], dtype=np.int64)


@lru_cache(maxsize=8)
def _integer_centroids(encoder: Encoder) -> tuple[Any, IntArray]:
    assert encoder.centroids_LD is not None  # noqa: S101 (for the type checker)
    centroids_LD = np.rint(encoder.centroids_LD * np.float32(GRID)).astype(np.int16)
    return centroids_LD, np.square(centroids_LD, dtype=np.int64).sum(axis=1)


def _padded(shard: IndexShard) -> tuple[ByteArray, ByteArray | None]:
    """Codes of at least eight rows, and the bitmap of live rows with eight bytes to spare."""
    assert shard.codes_NW is not None  # noqa: S101 (for the type checker)
    if shard.n_rows >= _GROUP:
        return shard.codes_NW, shard.live_bitmap
    codes_NW = np.zeros((_GROUP, shard.codes_NW.shape[1]), dtype=np.uint8)
    codes_NW[: shard.n_rows] = shard.codes_NW
    alive_N = np.ones(shard.n_rows, dtype=np.bool_) if shard.alive_N is None else shard.alive_N
    return codes_NW, np.pad(np.packbits(alive_N, bitorder="little"), (0, _GROUP))
