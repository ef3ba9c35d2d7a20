"""Ranks of the relevant items in ready-made rankings, as another engine returns them.

Legend: Q queries, B of them at once, K places, N numbers, P judged pairs.

1. Ids become numbers from 0; where nothing was returned stands -1.
2. For a block of queries a table says what each number is to each query: nothing, relevant or junk.
3. Looking the returned numbers up in it is one gather; the places of what is relevant, less the junk before
   them, are the ranks.
"""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.metrics import Ints, RelevantRanks

_CELLS_AT_ONCE = 1 << 25  # of a table of bytes
_HIGHEST = 1 << 22  # above it ids are numbered anew
_RELEVANT, _JUNK = 1, 2
_NOTHING: Ints = np.zeros(0, dtype=np.int64)

AnyInts = NDArray[np.int64] | NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Pairs of a query, as its row in the ranking, and an id from 0; each pair once."""

    query_P: AnyInts
    id_P: AnyInts

    @classmethod
    def of(cls, ids_of_query: Sequence[Collection[int]]) -> "Pairs":
        """From the ids of each query."""
        sizes_Q = [len(ids) for ids in ids_of_query]
        flat = (number for ids in ids_of_query for number in ids)
        return cls(
            query_P=np.repeat(np.arange(len(sizes_Q)), sizes_Q),
            id_P=np.fromiter(flat, dtype=np.int64, count=sum(sizes_Q)),
        )


def from_ranked_ids(
    ids_QK: NDArray[np.int64] | NDArray[np.str_] | NDArray[np.object_],
    relevant: Sequence[Collection[Hashable]],
    junk: Sequence[Collection[Hashable]] | None = None,
) -> RelevantRanks:
    """Ranks of the relevant ids in rankings of ids of any kind, best first.

    Args:
        ids_QK: Returned ids; short rows are padded at the end with a negative number, ``""`` or None.
        relevant: The relevant ids of each query.
        junk: Ids neither right nor wrong, removed from ``relevant`` and from the ranking, which closes up.

    Raises:
        ValueError: if lengths differ or an id is returned twice for a query.
    """
    if ids_QK.ndim != 2:
        raise ValueError(f"ids_QK must have shape [Q, K], got {ids_QK.shape}")
    n_queries = len(ids_QK)
    junk = [()] * n_queries if junk is None else junk
    if len(relevant) != n_queries or len(junk) != n_queries:
        raise ValueError(
            f"expected {n_queries} sets, got {len(relevant)} of relevant and {len(junk)} of junk ids"
        )
    table: dict[Hashable, int] = {}
    numbers = [
        -1 if _is_padding(item) else table.setdefault(item, len(table)) for item in ids_QK.ravel().tolist()
    ]
    wanted, dropped = (
        Pairs.of([{table.setdefault(item, len(table)) for item in ids} for ids in sets])
        for sets in (relevant, junk)
    )
    return ranks_of_pairs(np.array(numbers, dtype=np.int64).reshape(ids_QK.shape), wanted, dropped)


def ranks_of_pairs(numbers_QK: AnyInts, relevant: Pairs, junk: Pairs | None = None) -> RelevantRanks:
    """Ranks of the relevant ids in rankings of whole numbers, best first.

    Args:
        numbers_QK: Returned ids from 0; short rows are padded at the end with -1.
        relevant: What each query should find.
        junk: Neither right nor wrong: removed from ``relevant`` and from the ranking, which closes up.

    Raises:
        ValueError: if an id is returned twice for a query.
    """
    n_queries, depth = numbers_QK.shape
    judged = relevant.id_P if junk is None else np.concatenate([relevant.id_P, junk.id_P])
    known = np.unique(judged)
    if len(known) and known[-1] >= _HIGHEST:
        numbers_QK = _numbered_anew(numbers_QK, known)
        relevant, junk = _renumbered(relevant, known), None if junk is None else _renumbered(junk, known)
    n_numbers = 2 + int(max(relevant.id_P.max(initial=0), 0 if junk is None else junk.id_P.max(initial=0)))
    step = min(max(1, _CELLS_AT_ONCE // n_numbers), max(n_queries, 1))
    table = np.zeros(step * n_numbers, dtype=np.uint8)
    relevant, junk = _by_query(relevant), None if junk is None else _by_query(junk)
    ranks, queries, n_relevant = [_NOTHING], [_NOTHING], [_NOTHING]
    for start in range(0, n_queries, step):
        numbers_BK = numbers_QK[start : start + step]
        _check_once(numbers_BK, start)
        n_block = len(numbers_BK)
        right = _cells(relevant, start, n_block, n_numbers)
        dropped = _NOTHING if junk is None else _cells(junk, start, n_block, n_numbers)
        table[right], table[dropped] = _RELEVANT, _JUNK  # junk overrules
        n_relevant.append(np.bincount(right[table[right] == _RELEVANT] // n_numbers, minlength=n_block))
        unsigned_BK = numbers_BK.view(np.uint64 if numbers_BK.itemsize == 8 else np.uint32)
        columns_BK = np.minimum(unsigned_BK, n_numbers - 1).astype(np.int64)  # -1 is the largest
        role_BK = table[columns_BK + np.arange(n_block)[:, None] * n_numbers]
        hit = np.flatnonzero(role_BK == _RELEVANT)
        place = hit % depth + 1
        if len(dropped):
            place -= np.cumsum(role_BK == _JUNK, axis=1).ravel()[hit]
        ranks.append(place)
        queries.append(start + hit // depth)
        table[right], table[dropped] = 0, 0
    hits_Q = np.bincount(np.concatenate(queries), minlength=n_queries)
    return RelevantRanks(
        ranks_H=np.concatenate(ranks),
        offsets_Q1=np.concatenate([[0], np.cumsum(hits_Q)]),
        n_relevant_Q=np.concatenate(n_relevant),
        depth=depth,
    )


def _by_query(pairs: Pairs) -> Pairs:
    order = np.argsort(pairs.query_P, kind="stable")
    return Pairs(query_P=pairs.query_P[order], id_P=pairs.id_P[order])


def _cells(pairs: Pairs, start: int, n_block: int, n_numbers: int) -> Ints:
    """Where the pairs of some queries are in the table."""
    first, last = np.searchsorted(pairs.query_P, [start, start + n_block])
    query_P = pairs.query_P[first:last].astype(np.int64) - start
    cells: Ints = query_P * n_numbers + pairs.id_P[first:last]
    return cells


def _numbered_anew(numbers_QK: AnyInts, known: AnyInts) -> AnyInts:
    """Judged ids by their place among them; those that nobody judged stay apart, behind all of them."""
    place_QK = np.minimum(np.searchsorted(known, numbers_QK), len(known) - 1)
    judged_QK = known[place_QK] == numbers_QK
    anew_QK: AnyInts = np.where(judged_QK | (numbers_QK < 0), place_QK, numbers_QK + len(known))
    anew_QK[numbers_QK < 0] = -1
    return anew_QK


def _renumbered(pairs: Pairs, known: AnyInts) -> Pairs:
    return Pairs(query_P=pairs.query_P, id_P=np.searchsorted(known, pairs.id_P))


def _check_once(numbers_BK: AnyInts, start: int) -> None:
    ascending_BK = numbers_BK.copy()
    ascending_BK.sort(axis=1)
    twice_BK = (ascending_BK[:, 1:] == ascending_BK[:, :-1]) & (ascending_BK[:, 1:] >= 0)
    if twice_BK.any():
        query = int(np.argmax(twice_BK.any(axis=1)))
        raise ValueError(f"an id was returned twice for one query, number {start + query}")


def _is_padding(item: Hashable) -> bool:
    return item is None or item == "" or (isinstance(item, int) and item < 0)
