"""The first stage's two passes over the codes on a CUDA device, in Triton.

A program compares one query with one piece of the rows that the query looks at. Programs of the same rows and
different queries have neighbouring numbers, so codes come once from memory and then from the cache. Words lie
word-major: what neighbouring threads load lies side by side. The popcount is written out; LLVM knows it and
makes it the processor's instruction.

Arguments: ``codes`` int32 [words, N]; ``queries`` int32 [Q, words]; ``live`` a bitmap of rows; ``spans``
int64 [Q or 1, S, 2], rows from and to. A program takes ``BLOCK`` rows at a time, ``N_BLOCKS`` times.
"""

import triton
import triton.language as tl
from triton import TritonError

__all__ = ["TritonError", "count", "keep"]


@triton.jit
def count(
    codes,
    queries,
    live,
    spans,
    counts,
    n_queries,
    n_rows,
    n_pieces,
    span_stride,
    N_WORDS: tl.constexpr,
    N_BINS: tl.constexpr,
    HAS_LIVE: tl.constexpr,
    BLOCK: tl.constexpr,
    N_BLOCKS: tl.constexpr,
):
    """Adds to ``counts`` int32 [Q, N_BINS] how many live rows are at each distance; the last bin is spare."""
    query, first, last = _piece(spans, n_queries, n_pieces, span_stride, BLOCK * N_BLOCKS)
    if first < last:
        counted_H = tl.zeros([N_BINS], dtype=tl.int32)
        for start in range(first, last, BLOCK):
            row_R = start + tl.arange(0, BLOCK)
            here_R = _alive(live, row_R, last, HAS_LIVE)
            hamming_R = _hamming(codes, queries + query * N_WORDS, row_R, here_R, n_rows, N_WORDS)
            counted_H += tl.histogram(tl.where(here_R, hamming_R, N_BINS - 1), N_BINS)
        bin_H = tl.arange(0, N_BINS)
        tl.atomic_add(counts + query * N_BINS + bin_H, counted_H, mask=counted_H > 0)


@triton.jit
def keep(
    codes,
    queries,
    live,
    spans,
    order,
    limits,
    used,
    kept,
    n_queries,
    n_rows,
    n_pieces,
    span_stride,
    room,
    N_WORDS: tl.constexpr,
    HAS_LIVE: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    BLOCK: tl.constexpr,
    N_BLOCKS: tl.constexpr,
):
    """Writes every live row within its query's limit into ``kept`` int64 [Q, room], in no order.

    A row is written as distance * 2**32 + rank of its id, so that numbers order as rows do.
    """
    query, first, last = _piece(spans, n_queries, n_pieces, span_stride, BLOCK * N_BLOCKS)
    if first < last:
        limit = tl.load(limits + query)
        for start in range(first, last, BLOCK):
            row_R = start + tl.arange(0, BLOCK)
            here_R = _alive(live, row_R, last, HAS_LIVE)
            hamming_R = _hamming(codes, queries + query * N_WORDS, row_R, here_R, n_rows, N_WORDS)
            near_R = here_R & (hamming_R <= limit)
            near_0_R = near_R.to(tl.int32)
            n_near = tl.sum(near_0_R, axis=0)
            if n_near > 0:
                rank_R = row_R
                if HAS_ORDER:
                    rank_R = tl.load(order + row_R, mask=near_R, other=0).to(tl.int64)
                at_R = tl.atomic_add(used + query, n_near) + tl.cumsum(near_0_R, axis=0) - 1
                tl.store(kept + query * room + at_R, (hamming_R.to(tl.int64) << 32) | rank_R, mask=near_R)


@triton.jit
def _piece(spans, n_queries, n_pieces, span_stride, n_rows: tl.constexpr):
    """The query of this program and the rows it compares, from and to; none where the span is shorter."""
    program = tl.program_id(0)
    query = (program % n_queries).to(tl.int64)
    number = program // n_queries
    span = spans + query * span_stride + (number // n_pieces) * 2
    first = tl.load(span) + (number % n_pieces).to(tl.int64) * n_rows
    return query, first, tl.minimum(tl.load(span + 1), first + n_rows)


@triton.jit
def _alive(live, row_R, last, HAS_LIVE: tl.constexpr):
    here_R = row_R < last
    if HAS_LIVE:
        byte_R = tl.load(live + (row_R >> 3), mask=here_R, other=0).to(tl.int32)
        here_R = here_R & (((byte_R >> (row_R & 7).to(tl.int32)) & 1) == 1)
    return here_R


@triton.jit
def _hamming(codes, query, row_R, here_R, n_rows, N_WORDS: tl.constexpr):
    hamming_R = tl.zeros_like(row_R).to(tl.int32)
    word_R = codes + row_R
    for word in range(N_WORDS):
        x_R = tl.load(word_R, mask=here_R, other=0) ^ tl.load(query + word)
        x_R = x_R.to(tl.uint32, bitcast=True)
        x_R = x_R - ((x_R >> 1) & 0x55555555)
        x_R = (x_R & 0x33333333) + ((x_R >> 2) & 0x33333333)
        x_R = (x_R + (x_R >> 4)) & 0x0F0F0F0F
        hamming_R += ((x_R * 0x01010101) >> 24).to(tl.int32)
        word_R += n_rows
    return hamming_R
