"""Decides whether compiled kernels run, and calls them on arrays: the only door to the kernel_* files.

With the extra ``kernel`` (numba) the scan compares codes at about the speed of a bare popcount loop. Without
it `plain` does the same with Faiss and numpy: slower, and equal to the last tie.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from pipeline.index import compiled
from pipeline.index.arrays import BoolArray, ByteArray, Float32Array, FloatArray, Int32Array, IntArray
from pipeline.index.encoder import Encoder
from pipeline.index.lists import GRID
from pipeline.index.order import ROW_BITS
from pipeline.index.rotation import VECTOR_GRID
from pipeline.index.shard import IndexShard

_WORD = 8
_GROUP = 8  # codes compared at a time: the kernel reads no shard with fewer rows
_MAX_ROWS = 1 << 31
_KINDS = {"float32": np.empty(0, dtype=np.float32), "float16": np.empty(0, dtype=np.uint16)}


available = compiled.available


def can_scan(shard: IndexShard, width: int) -> bool:
    """Whether the scan kernel takes the codes of this shard: whole 64-bit words, row numbers of 31 bits."""
    return available() and width % _WORD == 0 and shard.n_rows < _MAX_ROWS


def first_rows(
    number: int,
    shard: IndexShard,
    codes_QW: ByteArray,
    n: int,
    within: tuple[int, int] | Int32Array,
    limit_Q: IntArray,
) -> tuple[Int32Array, IntArray]:
    """As `plain.first_rows`, without rows beyond ``limit_Q``; the limit falls to the n-th distance."""
    from pipeline.index import kernel_scan

    codes = _codes(shard, codes_QW.shape[1])
    place = number << ROW_BITS
    if isinstance(within, tuple):
        return kernel_scan.first_rows(codes, codes_QW, n, *within, limit_Q, place)
    assert shard.offsets_L is not None  # noqa: S101 (for the type checker)
    return kernel_scan.first_rows_of_lists(codes, codes_QW, n, shard.offsets_L, within, limit_Q, place)


def count_distances(
    shard: IndexShard, codes_QW: ByteArray, query_M: IntArray, rows: tuple[int, int]
) -> IntArray:
    """How many live rows from, to are at each distance from the queries ``query_M``: int64 [M, B + 1]."""
    from pipeline.index import kernel_scan

    counts_MH = np.zeros((len(query_M), codes_QW.shape[1] * 8 + 1), dtype=np.int64)
    codes = _codes(shard, codes_QW.shape[1])
    kernel_scan.count_distances(codes, np.ascontiguousarray(codes_QW), query_M, *rows, counts_MH)
    return counts_MH


def encode(encoder: Encoder, xq_QD: Float32Array) -> ByteArray:
    """`Encoder.encode`, bit for bit, without copies of the rotation; the encoder must have one."""
    from pipeline.index import kernel_encode

    assert encoder.rotation_BD is not None  # noqa: S101 (for the type checker)
    codes_QW = np.empty((len(xq_QD), encoder.bits // 8), dtype=np.uint8)
    kernel_encode.encode(_bits(encoder), xq_QD, codes_QW)
    return codes_QW


def choose_lists(
    encoder: Encoder, xq_QD: Float32Array, n_probes: int, live_L: IntArray, min_live: int
) -> Int32Array:
    """As `probes.choose`, in another order."""
    from pipeline.index import kernel_encode

    probes_QL = np.empty((len(xq_QD), len(live_L)), dtype=np.int32)
    lists = _lists(encoder, live_L)
    return probes_QL[:, : kernel_encode.choose(lists, xq_QD, n_probes, min_live, probes_QL)]


def keep_nearest(
    shards: tuple[IndexShard, ...], xq_QD: Float32Array, place_QC: IntArray, n: int, grid: float
) -> IntArray:
    """As `rough.worth_reading`, for shards that all have 8-bit vectors."""
    from pipeline.index import kernel_rough

    int8 = kernel_rough.Int8(
        np.array([_address(shard.int8_ND) for shard in shards]),
        np.array([_address(shard.int8_scale_N) for shard in shards]),
        ROW_BITS,
        grid,
    )
    kept_QC = np.empty_like(place_QC)
    kernel_rough.keep_nearest(int8, xq_QD, place_QC, n, kept_QC)
    return kept_QC


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
    vectors, ranks = _vectors(shards, d)
    place_QK = np.empty((n_queries, k), dtype=np.int64)
    distance_QK = np.empty((n_queries, k), dtype=np.float32)
    tied_Q = np.empty(n_queries, dtype=np.bool_)
    kernel_rank.rank(vectors, ranks, xq_QD, place_QC, margin, place_QK, distance_QK, tied_Q)
    return place_QK, distance_QK, tied_Q


def can_sieve(encoder: Encoder, shards: tuple[IndexShard, ...]) -> bool:
    """Whether both stages can be one call: one index shard that every kernel takes, no 8-bit vectors."""
    return (
        len(shards) == 1
        and encoder.rotation_BD is not None
        and shards[0].codes_NW is not None
        and (shards[0].offsets_L is None) == (encoder.centroids_LD is None)
        and shards[0].int8_ND is None
        and can_scan(shards[0], encoder.bits // 8)
        and can_rank(shards)
    )


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What both stages in one call read, gathered once for all searches of a snapshot."""

    search: Any
    whole_P: IntArray
    real_P: FloatArray
    kind: Any
    owners: tuple[Any, ...]
    """What the addresses point into."""


def prepare(encoder: Encoder, shard: IndexShard, live_L: IntArray, margin: np.float32) -> Prepared:
    """For a snapshot that `can_sieve`; ``live_L``: live rows of each list, ``margin`` as for `rank`."""
    from pipeline.index import kernel_sieve

    assert encoder.rotation_BD is not None  # noqa: S101 (for the type checker)
    view, (packed_GPL2, square_L) = _view(shard), _integer_centroids(encoder)
    bits = [np.ascontiguousarray(a) for a in (encoder.mean_D, encoder.rotation_BD, encoder.thresholds_B)]
    whole = kernel_sieve.Wholes(
        d=encoder.d,
        n_words=encoder.bits // 8 // _WORD,
        mean=_address(bits[0]),
        rotation=_address(bits[1]),
        thresholds=_address(bits[2]),
        n_lists=len(live_L),
        packed=_address(packed_GPL2),
        squares=_address(square_L),
        live_of_lists=_address(live_L),
        offsets=_address(shard.offsets_L),
        codes=view.codes,
        n_rows=view.n_rows,
        order=view.order,
        live=view.live,
        vectors=view.vectors,
        row_bits=ROW_BITS,
    )
    real = kernel_sieve.Reals(vector_grid=VECTOR_GRID, list_grid=GRID, margin=float(margin))
    return Prepared(
        search=kernel_sieve.search,
        whole_P=np.array(whole, dtype=np.int64),
        real_P=np.array(real, dtype=np.float64),
        kind=_KINDS[shard.vectors_ND.dtype.name],
        owners=(shard, view, *bits, packed_GPL2, square_L, live_L),
    )


def sieve(
    given: Prepared, xq_QD: Float32Array, probed: tuple[int, int], n: int, k: int
) -> tuple[IntArray, Float32Array]:
    """Both stages: places and distances as `rank`.

    ``probed``: lists to look into (0 scans all rows) and the least live rows in them.
    """
    place_QK = np.empty((len(xq_QD), k), dtype=np.int64)
    distance_QK = np.empty((len(xq_QD), k), dtype=np.float32)
    given.search(given.whole_P, given.real_P, given.kind, xq_QD, *probed, n, place_QK, distance_QK)
    return place_QK, distance_QK


def _bits(encoder: Encoder) -> Any:
    from pipeline.index import kernel_encode

    assert encoder.rotation_BD is not None  # noqa: S101 (for the type checker)
    return kernel_encode.Bits(encoder.mean_D, encoder.rotation_BD, encoder.thresholds_B, VECTOR_GRID)


def _lists(encoder: Encoder, live_L: IntArray) -> Any:
    from pipeline.index import kernel_encode

    return kernel_encode.Lists(*_integer_centroids(encoder), live_L, GRID)


def _codes(shard: IndexShard, width: int) -> Any:
    from pipeline.index import kernel_scan

    view = _view(shard)
    return kernel_scan.Codes(view.codes, width // _WORD, view.n_rows, view.order, view.live)


def _vectors(shards: tuple[IndexShard, ...], d: int) -> tuple[Any, Any]:
    from pipeline.index import kernel_rank

    views = [_view(shard) for shard in shards]
    kind = _KINDS[shards[0].vectors_ND.dtype.name]
    vectors = kernel_rank.Vectors(np.array([view.vectors for view in views]), kind, d)
    return vectors, kernel_rank.Ranks(np.array([view.order for view in views]), ROW_BITS)


@lru_cache(maxsize=8)
def _integer_centroids(encoder: Encoder) -> tuple[Any, Int32Array]:
    """Centroids in integers, packed in groups of lists and pairs of dimensions, and their squares."""
    from pipeline.index.kernel_encode import GROUP

    given_LD = np.empty((0, encoder.d), np.float32) if encoder.centroids_LD is None else encoder.centroids_LD
    n_lists, d = given_LD.shape
    n_groups, n_pairs = -(-n_lists // GROUP), -(-d // 2)
    padded_LD = np.zeros((n_groups * GROUP, 2 * n_pairs), dtype=np.int16)
    padded_LD[:n_lists, :d] = np.rint(given_LD * np.float32(GRID))
    packed_GPL2 = padded_LD.reshape(n_groups, GROUP, n_pairs, 2).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(packed_GPL2), np.square(padded_LD, dtype=np.int32).sum(axis=1, dtype=np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """Where the arrays of an index shard begin, 0 for none; computed once, for a query costs no more."""

    codes: int
    n_rows: int
    """At least eight; rows beyond those of the shard are not alive."""
    live: int
    order: int
    vectors: int
    owners: tuple[Any, ...]
    """Arrays made for the view. The shard's own live as long as the shard, by which the view is found."""


_views: WeakKeyDictionary[IndexShard, _View] = WeakKeyDictionary()


def _view(shard: IndexShard) -> _View:
    found = _views.get(shard)
    if found is None:
        codes_NW, live = shard.codes_NW, shard.live_bitmap
        if codes_NW is not None and shard.n_rows < _GROUP:
            codes_NW = np.pad(codes_NW, ((0, _GROUP - shard.n_rows), (0, 0)))
            alive_N = np.ones(shard.n_rows, dtype=np.bool_) if shard.alive_N is None else shard.alive_N
            live = np.pad(np.packbits(alive_N, bitorder="little"), (0, _GROUP))
        found = _View(
            codes=_address(codes_NW),
            n_rows=max(shard.n_rows, _GROUP),
            live=_address(live),
            order=_address(shard.order_N),
            vectors=_address(shard.vectors_ND),
            owners=(codes_NW, live),
        )
        _views[shard] = found
    return found


def _address(array: Any) -> int:
    return 0 if array is None else int(array.__array_interface__["data"][0])
