"""The scan kernel: the first n live rows of each query by (Hamming distance, rank of the id), in one pass.

Eight codes at a time are compared with the query (XOR, popcount, add, compare: a few instructions with
AVX-512 VPOPCNTDQ, straight from the row-major file). Rows within the *limit* are kept, all others are never
looked at again, so no distances are stored.

Invariant of a `Kept` query: the n first rows seen so far are among the kept rows, all of them within
``limit``. As soon as n kept rows lie below the limit, it falls. When the buffer is full, rows beyond the
limit go; if more than n are left, they tie at the limit, and those with the largest ranks go.
"""

from typing import Any, NamedTuple

import numpy as np

from pipeline.index.arrays import ByteArray, Int32Array, IntArray
from pipeline.index.kernel_jit import cgutils, intrinsic, ir, jit, types
from pipeline.index.kernel_sort import smallest_first

_ANY_RANK = 1 << 62
_ROOM = 4  # kept rows per row asked for; below 2 the buffer would be cleaned up all the time
_BLOCK_BYTES = 1 << 18  # codes that stay in a core's cache while all queries of a piece pass over them


class Codes(NamedTuple):
    """What the kernel reads of one index shard; at least 8 rows."""

    address: int
    n_words: int
    n_rows: int
    order_address: int
    """Ranks of the rows' ids, int32; 0 where the row number is that rank."""
    live_address: int
    """Bitmap of live rows, little-endian, 8 bytes longer than needed; 0 where all are live."""


class Kept(NamedTuple):
    """The rows kept so far for each query of a piece."""

    n: int
    limit_Q: IntArray
    within_Q: IntArray
    """Kept rows within the limit."""
    used_Q: IntArray
    """Kept rows, those included that are beyond a limit which fell since."""
    last_rank_Q: IntArray
    """Rows at the limit must have a smaller rank than this to be among the first n."""
    counts_QH: Int32Array
    """Kept rows at each distance."""
    hamming_QX: Int32Array
    row_QX: Int32Array
    keys_X: IntArray
    near_8: IntArray
    """Scratch: distances of the eight codes compared last."""
    near_address: Any


@jit
def first_rows(
    codes: Codes, codes_QW: ByteArray, n: int, first: int, last: int, limit_Q: IntArray, place: int
) -> tuple[Int32Array, IntArray]:
    """The first n rows of [first, last) of every query, in no order: distances, and rows plus ``place``.

    Rows beyond ``limit_Q`` are left out; it falls to the n-th distance. -1 follows the last row. Codes come
    as an array, not as an address, which would not keep them alive.
    """
    kept = _nothing_kept(n, codes.n_words, limit_Q)
    _scan_range(codes, np.int64(codes_QW.ctypes.data), first, last, kept)
    return _finish(codes, kept, place)


@jit
def first_rows_of_lists(
    codes: Codes,
    codes_QW: ByteArray,
    n: int,
    offsets_L: IntArray,
    probes_QP: Int32Array,
    limit_Q: IntArray,
    place: int,
) -> tuple[Int32Array, IntArray]:
    """As `first_rows`, of the rows in the lists that each query probes."""
    kept = _nothing_kept(n, codes.n_words, limit_Q)
    _scan_lists(codes, np.int64(codes_QW.ctypes.data), offsets_L, probes_QP, kept)
    return _finish(codes, kept, place)


@jit
def count_distances(
    codes: Codes, codes_QW: ByteArray, query_M: Any, first: int, last: int, counts_MH: IntArray
) -> None:
    """Adds how many live rows of [first, last) are at each distance from each of the queries ``query_M``."""
    near_8 = np.empty(8, dtype=np.int64)
    near_address: Any = np.int64(near_8.ctypes.data)
    for m in range(len(query_M)):
        query_address: Any = np.int64(codes_QW.ctypes.data) + query_M[m] * codes.n_words * 8
        for i in range(first, last, 8):
            start = min(i, codes.n_rows - 8)
            address = codes.address + start * codes.n_words * 8
            _within(address, codes.n_words, query_address, 0, near_address)
            for lane in range(i - start, min(8, last - start)):
                row = start + lane
                if codes.live_address:
                    live = _word(codes.live_address + (row >> 3)) >> np.uint64(row & 7)
                    if not live & np.uint64(1):
                        continue
                counts_MH[m, near_8[lane]] += 1


@jit
def _nothing_kept(n: int, n_words: int, limit_Q: IntArray) -> Kept:
    n_queries, room = len(limit_Q), _ROOM * n + 256
    near_8 = np.empty(8, dtype=np.int64)
    return Kept(
        n,
        limit_Q,
        np.zeros(n_queries, dtype=np.int64),
        np.zeros(n_queries, dtype=np.int64),
        np.full(n_queries, _ANY_RANK),
        np.zeros((n_queries, n_words * 64 + 1), dtype=np.int32),
        np.empty((n_queries, room), dtype=np.int32),
        np.empty((n_queries, room), dtype=np.int32),
        np.empty(room, dtype=np.int64),
        near_8,
        np.int64(near_8.ctypes.data),
    )


@jit
def _scan_range(codes: Codes, query_address: Any, first: int, last: int, kept: Kept) -> None:
    """Scans rows [first, last) for every query, a cache-sized block at a time."""
    ascending = codes.order_address == 0
    step = max(64, _BLOCK_BYTES // (codes.n_words * 8) // 64 * 64)
    first_1, last_1 = np.empty(1, dtype=np.int64), np.empty(1, dtype=np.int64)
    for a in range(first, last, step):
        first_1[0], last_1[0] = a, min(a + step, last)
        for q in range(len(kept.limit_Q)):
            _scan_spans(codes, query_address + q * codes.n_words * 8, first_1, last_1, 1, kept, q, ascending)


@jit
def _scan_lists(
    codes: Codes, query_address: Any, offsets_L: IntArray, probes_QP: Int32Array, kept: Kept
) -> None:
    """Scans for every query the lists it probes, in the order they are given; -1 for none."""
    n_probes = probes_QP.shape[1]
    first_P, last_P = np.empty(n_probes, dtype=np.int64), np.empty(n_probes, dtype=np.int64)
    for q in range(len(kept.limit_Q)):
        n = 0
        for number in probes_QP[q]:
            if number >= 0 and offsets_L[number] < offsets_L[number + 1]:
                first_P[n], last_P[n] = offsets_L[number], offsets_L[number + 1]
                n += 1
        _scan_spans(codes, query_address + q * codes.n_words * 8, first_P, last_P, n, kept, q, False)


@jit
def _finish(codes: Codes, kept: Kept, place: int) -> tuple[Int32Array, IntArray]:
    n_queries = len(kept.limit_Q)
    hamming_QC = np.empty((n_queries, kept.n), dtype=np.int32)
    place_QC = np.empty((n_queries, kept.n), dtype=np.int64)
    for q in range(n_queries):
        _compact(codes, kept, q)
        used = kept.used_Q[q]
        hamming_QC[q, :used] = kept.hamming_QX[q, :used]
        hamming_QC[q, used:] = np.iinfo(np.int32).max
        for x in range(used):
            place_QC[q, x] = place + kept.row_QX[q, x]
        place_QC[q, used:] = -1
    return hamming_QC, place_QC


@jit
def _scan_spans(
    codes: Codes,
    query_address: int,
    first_P: IntArray,
    last_P: IntArray,
    n_spans: int,
    kept: Kept,
    q: int,
    ascending: bool,
) -> None:
    """Some spans of rows for one query; ``ascending`` where a later row has a larger rank than all before."""
    n, n_words, near_8, near_address = kept.n, codes.n_words, kept.near_8, kept.near_address
    counts_H, hamming_X, row_X = kept.counts_QH[q], kept.hamming_QX[q], kept.row_QX[q]
    limit, within, used = kept.limit_Q[q], kept.within_Q[q], kept.used_Q[q]
    last_rank = kept.last_rank_Q[q]
    for span in range(n_spans):
        i, last = first_P[span], last_P[span]
        ahead = (first_P[span + 1] - i) * n_words * 8 if span + 1 < n_spans else 0
        stop = min(last, codes.n_rows) - 7
        while i < last:
            live = np.uint64(255)
            reach = limit - 1 if ascending and within >= n else limit
            if not codes.live_address:
                i = _first_group(codes.address, i, stop, n_words, query_address, reach, ahead)
                if i >= last:
                    break
            else:
                bits = _word(codes.live_address + (i >> 3)) >> np.uint64(i & 7)
                if bits & np.uint64(0x00FFFFFFFFFFFFFF) == 0:
                    i += 56
                    continue
                skip = _trailing_zeros(bits) & np.uint64(0xF8)
                i += np.int64(skip)
                if i >= last:
                    break
                live = (bits >> skip) & np.uint64(255)
                if ahead:
                    for line in range(n_words):
                        _prefetch(codes.address + i * n_words * 8 + ahead + 64 * line)
            start = min(i, codes.n_rows - 8)  # the last group of a shard overlaps the one before
            lift = i - start
            near = _within(codes.address + start * n_words * 8, n_words, query_address, reach, near_address)
            near = (near >> np.uint64(lift)) & live
            if i + 8 > last:
                near &= (np.uint64(1) << np.uint64(last - i)) - np.uint64(1)
            while near:
                lane = np.int64(_trailing_zeros(near))
                near &= near - np.uint64(1)
                distance, row = near_8[lane + lift], i + lane
                if used == len(row_X):
                    kept.limit_Q[q], kept.used_Q[q] = limit, used
                    _compact(codes, kept, q)
                    within, used, last_rank = kept.within_Q[q], kept.used_Q[q], kept.last_rank_Q[q]
                if distance > limit or (distance == limit and within >= n and ascending):
                    continue
                if distance == limit and last_rank < _ANY_RANK and _rank(codes, row) >= last_rank:
                    continue
                hamming_X[used] = distance
                row_X[used] = row
                counts_H[distance] += 1
                used += 1
                within += 1
                while within - counts_H[limit] >= n:
                    within -= counts_H[limit]
                    limit -= 1
                    last_rank = _ANY_RANK
            i += 8
    kept.limit_Q[q], kept.within_Q[q], kept.used_Q[q], kept.last_rank_Q[q] = limit, within, used, last_rank


@jit
def _compact(codes: Codes, kept: Kept, q: int) -> None:
    """Drops what is beyond the limit, and ties at the limit until n are left."""
    limit, n = kept.limit_Q[q], kept.n
    hamming_X, row_X, keys_X = kept.hamming_QX[q], kept.row_QX[q], kept.keys_X
    used = tied = 0
    for x in range(kept.used_Q[q]):
        if hamming_X[x] < limit:
            hamming_X[used], row_X[used] = hamming_X[x], row_X[x]
            used += 1
        elif hamming_X[x] == limit:
            keys_X[tied] = row_X[x]
            tied += 1
    room = min(n - used, tied)
    if room < tied:
        for x in range(tied):
            keys_X[x] |= _rank(codes, keys_X[x]) << 32
        smallest_first(keys_X, tied, room)
        kept.last_rank_Q[q] = keys_X[room - 1] >> 32
    for x in range(room):
        hamming_X[used], row_X[used] = limit, keys_X[x] & 0xFFFFFFFF
        used += 1
    kept.counts_QH[q, limit] = room
    kept.used_Q[q] = kept.within_Q[q] = used


@jit
def _rank(codes: Codes, row: int) -> Any:
    return _int32(codes.order_address, row) if codes.order_address else np.int64(row)


@jit
def _first_group(
    address: int, i: int, stop: int, n_words: int, query_address: int, limit: int, ahead: int
) -> int:
    """The first of i, i + 8, i + 16, … with a code within the limit, or the first past ``stop``."""
    if n_words == 4:
        while i + 8 < stop:
            for line in range(8):
                _prefetch(address + i * 32 + ahead + 64 * line)
            if _any_within_4(address + i * 32, query_address, limit):
                break
            i += 16
    elif n_words == 8:
        while i < stop:
            for line in range(8):
                _prefetch(address + i * 64 + ahead + 64 * line)
            if _any_within_8(address + i * 64, query_address, limit):
                break
            i += 8
    return i


@jit
def _within(address: int, n_words: int, query_address: int, limit: int, near_address: int) -> Any:
    """Bit j says whether code j of eight is within the limit; their distances go to ``near_8``."""
    if n_words == 4:
        return _within_4(address, query_address, limit, near_address)
    if n_words == 8:
        return _within_8(address, query_address, limit, near_address)
    return _within_any(address, n_words, query_address, limit, near_address)


# Machine operations. Vectors are eight 64-bit words; LLVM turns them into what the processor has.

_I64 = ir.IntType(64)
_VECTOR = ir.VectorType(_I64, 8)
_FOUR = ir.VectorType(_I64, 4)


def _lanes(numbers: list[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers)


def _load(builder: Any, address: Any, offset: Any, kind: Any = _VECTOR) -> Any:
    offset = ir.Constant(_I64, offset) if isinstance(offset, int) else offset
    pointer = builder.inttoptr(builder.add(address, offset), kind.as_pointer())
    return builder.load(pointer, align=1)


def _popcount(builder: Any, words: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.ctpop.v8i64"), [words])


def _splat(builder: Any, word: Any) -> Any:
    empty = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(empty, word, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, empty, _lanes([0] * 8))


def _add_pairs(builder: Any, x: Any, y: Any) -> Any:
    """The sums x0 + x1, y0 + y1, x2 + x3, y2 + y3 and so on."""
    even = builder.shuffle_vector(x, y, _lanes([0, 8, 2, 10, 4, 12, 6, 14]))
    odd = builder.shuffle_vector(x, y, _lanes([1, 9, 3, 11, 5, 13, 7, 15]))
    return builder.add(even, odd)


def _add_halves(builder: Any, x: Any, y: Any) -> Any:
    """The sums x0 + x2, x1 + x3, x4 + x6, x5 + x7, then the same of y."""
    first = builder.shuffle_vector(x, y, _lanes([0, 1, 4, 5, 8, 9, 12, 13]))
    second = builder.shuffle_vector(x, y, _lanes([2, 3, 6, 7, 10, 11, 14, 15]))
    return builder.add(first, second)


def _sum_each(builder: Any, v: list[Any]) -> Any:
    """The sums of eight vectors, in their order."""
    pairs = [_add_pairs(builder, v[i], v[i + 1]) for i in (0, 2, 4, 6)]
    fours = [_add_halves(builder, pairs[0], pairs[1]), _add_halves(builder, pairs[2], pairs[3])]
    return _add_halves(builder, fours[0], fours[1])


def _compare(builder: Any, sums: Any, limit: Any) -> Any:
    near = builder.icmp_signed("<=", sums, _splat(builder, limit))
    return builder.zext(builder.bitcast(near, ir.IntType(8)), _I64)


def _store_and_compare(builder: Any, sums: Any, limit: Any, target: Any) -> Any:
    builder.store(sums, builder.inttoptr(target, _VECTOR.as_pointer()), align=1)
    return _compare(builder, sums, limit)


def _distances_4(builder: Any, address: Any, query: Any, first: int = 0) -> Any:
    """Codes ``first`` to ``first`` + 7 of four words, as 0, 2, 1, 3, 4, 6, 5, 7: two codes fill a vector."""
    twice = _load(builder, query, 0, _FOUR)
    twice = builder.shuffle_vector(twice, twice, _lanes([0, 1, 2, 3] * 2))
    places = [32 * first + 64 * i for i in range(4)]
    v = [_popcount(builder, builder.xor(_load(builder, address, place), twice)) for place in places]
    return _add_halves(builder, _add_pairs(builder, v[0], v[1]), _add_pairs(builder, v[2], v[3]))


def _distances_8(builder: Any, address: Any, query: Any) -> Any:
    """Eight codes of eight words: one code fills a vector."""
    words = _load(builder, query, 0)
    v = [_popcount(builder, builder.xor(_load(builder, address, 64 * i), words)) for i in range(8)]
    return _sum_each(builder, v)


@intrinsic
def _any_within_4(typing: Any, address: Any, query: Any, limit: Any) -> Any:
    """Whether one of sixteen codes is within the limit: not zero if so."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, query, limit = arguments
        first, second = (_distances_4(builder, address, query, number) for number in (0, 8))
        smaller = builder.select(builder.icmp_signed("<", first, second), first, second)
        return _compare(builder, smaller, limit)

    return types.uint64(types.int64, types.int64, types.int64), generate


@intrinsic
def _any_within_8(typing: Any, address: Any, query: Any, limit: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, query, limit = arguments
        return _compare(builder, _distances_8(builder, address, query), limit)

    return types.uint64(types.int64, types.int64, types.int64), generate


@intrinsic
def _within_4(typing: Any, address: Any, query: Any, limit: Any, target: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, query, limit, target = arguments
        sums = _distances_4(builder, address, query)
        in_order = builder.shuffle_vector(sums, sums, _lanes([0, 2, 1, 3, 4, 6, 5, 7]))
        return _store_and_compare(builder, in_order, limit, target)

    return types.uint64(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def _within_8(typing: Any, address: Any, query: Any, limit: Any, target: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, query, limit, target = arguments
        return _store_and_compare(builder, _distances_8(builder, address, query), limit, target)

    return types.uint64(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def _within_any(typing: Any, address: Any, n_words: Any, query: Any, limit: Any, target: Any) -> Any:
    """Eight codes of any number of words: whole vectors first, then single words of all eight codes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, n_words, query, limit, target = arguments
        word = ir.Constant(_I64, 8)
        zero = ir.Constant(_VECTOR, [0] * 8)
        starts = [
            builder.add(address, builder.mul(ir.Constant(_I64, i), builder.mul(n_words, word)))
            for i in range(8)
        ]
        sums = [cgutils.alloca_once(builder, _VECTOR) for _ in range(8)]
        for pointer in sums:
            builder.store(zero, pointer)
        n_whole = builder.udiv(n_words, word)
        with cgutils.for_range(builder, n_whole) as loop:
            offset = builder.mul(loop.index, ir.Constant(_I64, 64))
            words = _load(builder, query, offset)
            for start, pointer in zip(starts, sums, strict=True):
                bits = _popcount(builder, builder.xor(_load(builder, start, offset), words))
                builder.store(builder.add(builder.load(pointer), bits), pointer)
        total = cgutils.alloca_once(builder, _VECTOR)
        builder.store(_sum_each(builder, [builder.load(pointer) for pointer in sums]), total)
        with cgutils.for_range(builder, builder.sub(n_words, builder.mul(n_whole, word))) as loop:
            offset = builder.mul(builder.add(builder.mul(n_whole, word), loop.index), word)
            words = zero
            for i, start in enumerate(starts):
                lane = ir.Constant(ir.IntType(32), i)
                words = builder.insert_element(words, _load(builder, start, offset, _I64), lane)
            differing = builder.xor(words, _splat(builder, _load(builder, query, offset, _I64)))
            builder.store(builder.add(builder.load(total), _popcount(builder, differing)), total)
        return _store_and_compare(builder, builder.load(total), limit, target)

    return types.uint64(types.int64, types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def _word(typing: Any, address: Any) -> Any:
    """The 64-bit word at an address, aligned or not."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], _I64.as_pointer()), align=1)

    return types.uint64(types.int64), generate


@intrinsic
def _int32(typing: Any, address: Any, i: Any) -> Any:
    """Element i of the int32 array at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.gep(builder.inttoptr(arguments[0], ir.IntType(32).as_pointer()), [arguments[1]])
        return builder.sext(builder.load(pointer, align=4), _I64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _trailing_zeros(typing: Any, word: Any) -> Any:
    """Zero bits below the lowest one; 64 for zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


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
