"""Near duplicates by their bits: groups of images whose codes differ in few places.

Two codes within ``radius`` bits of each other agree exactly in at least one of radius + 1 pieces (Norouzi et
al., arXiv 1307.2982, section 3), so only codes that share a piece are compared:

1. Equal codes are one.
2. Codes are sorted by their first piece; those with the same piece are compared, and so on for every piece.
   Where pieces would be shorter than a byte everything is compared with everything.
3. Groups are what is connected by pairs within the radius: two of a group may lie farther apart.

The groups are exact, whatever the pieces. Legend: N rows, U distinct codes, P pairs, W bytes of a code.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from pipeline.errors import UsageError
from pipeline.index.arrays import ByteArray, IntArray, KeyArray

_SHORTEST_PIECE = 8
_LONGEST_PIECE = 64
_PAIRS_AT_ONCE = 1 << 20


def near_duplicate_groups(codes_NW: ByteArray, radius: int) -> IntArray:
    """The group of every row, int64 [N]: the largest is 0, among equals the one with the first row.

    Args:
        codes_NW: packed bits.
        radius: the most bits in which two that are connected differ.

    Raises:
        UsageError: a radius below 0, or of so many bits that random codes are connected.
    """
    bits = codes_NW.shape[1] * 8
    if not 0 <= radius <= bits // 4:
        raise UsageError(
            f"a radius is between 0 and a quarter of the {bits} bits of a code, got {radius}",
            fix="codes of images that have nothing in common differ in about half of their bits",
        )
    distinct_UW, code_N = _distinct(codes_NW)
    group_U = np.arange(len(distinct_UW))
    for key_U in _pieces(distinct_UW, radius):
        for pairs_2P in _gathered(_pairs_within(distinct_UW, key_U, radius)):
            group_U = _joined(group_U, pairs_2P)
    return _by_size(group_U[code_N])


def _distinct(codes_NW: ByteArray) -> tuple[ByteArray, IntArray]:
    rows_NW = np.ascontiguousarray(codes_NW)
    as_bytes_N = rows_NW.view(np.dtype((np.void, rows_NW.shape[1]))).reshape(len(rows_NW))
    _, first_U, code_N = np.unique(as_bytes_N, return_index=True, return_inverse=True)
    return rows_NW[first_U], code_N.astype(np.int64)


def _pieces(codes_UW: ByteArray, radius: int) -> Iterator[KeyArray]:
    """The pieces of all codes, one after the other; at most their first 64 bits."""
    bits = codes_UW.shape[1] * 8
    if bits // (radius + 1) < _SHORTEST_PIECE:
        yield np.zeros(len(codes_UW), dtype=np.uint64)
        return
    for piece in range(radius + 1):
        start, stop = bits * piece // (radius + 1), bits * (piece + 1) // (radius + 1)
        stop = min(stop, start + _LONGEST_PIECE)
        bits_UB = np.unpackbits(codes_UW[:, start // 8 : -(-stop // 8)], axis=1, bitorder="little")
        piece_UB = bits_UB[:, start % 8 : start % 8 + stop - start]
        packed_UW = np.packbits(piece_UB, axis=1, bitorder="little")
        key_U8 = np.zeros((len(codes_UW), 8), dtype=np.uint8)
        key_U8[:, : packed_UW.shape[1]] = packed_UW
        yield key_U8.view(np.uint64)[:, 0]


def _pairs_within(codes_UW: ByteArray, key_U: KeyArray, radius: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Pairs with the same key and at most ``radius`` differing bits, a piece at a time."""
    order_U = np.argsort(key_U, kind="stable")
    sorted_U = key_U[order_U]
    alive = np.arange(len(order_U))  # those that share the key with the one `step` places behind them
    for step in range(1, len(order_U)):
        alive = alive[: np.searchsorted(alive, len(order_U) - step)]
        alive = alive[sorted_U[alive] == sorted_U[alive + step]]
        if not len(alive):
            return
        for start in range(0, len(alive), _PAIRS_AT_ONCE):
            some = alive[start : start + _PAIRS_AT_ONCE]
            left_P, right_P = order_U[some], order_U[some + step]
            near_P = np.bitwise_count(codes_UW[left_P] ^ codes_UW[right_P]).sum(axis=1) <= radius
            if near_P.any():
                yield left_P[near_P], right_P[near_P]


def _gathered(pieces: Iterator[tuple[IntArray, IntArray]]) -> Iterator[IntArray]:
    """The pairs [2, P] in few large pieces: connecting them costs a pass over all codes."""
    held: list[IntArray] = []
    for left_P, right_P in pieces:
        held.append(np.stack([left_P, right_P]))
        if sum(pairs_2P.shape[1] for pairs_2P in held) >= _PAIRS_AT_ONCE:
            yield np.concatenate(held, axis=1)
            held = []
    if held:
        yield np.concatenate(held, axis=1)


def _joined(group_U: IntArray, pairs_2P: IntArray) -> IntArray:
    """The groups after these pairs are connected too."""
    left_P, right_P = group_U[pairs_2P]
    ones_P = np.ones(len(left_P), dtype=np.int8)
    pairs = sparse.coo_array((ones_P, (left_P, right_P)), (len(group_U), len(group_U)))
    new: IntArray = csgraph.connected_components(pairs, directed=False)[1].astype(np.int64)
    return new[group_U]


def _by_size(group_N: IntArray) -> IntArray:
    """The same groups, the largest first, among equals by their first row."""
    _, first_G, where_N, size_G = np.unique(
        group_N, return_index=True, return_inverse=True, return_counts=True
    )
    number_G = np.empty(len(first_G), dtype=np.int64)
    number_G[np.lexsort((first_G, -size_G))] = np.arange(len(first_G))
    numbered_N: IntArray = number_G[where_N]
    return numbered_N
