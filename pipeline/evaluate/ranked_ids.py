"""Ranks of the relevant items in ready-made rankings, as another engine returns them.

Legend: Q queries, B of them at once, K places, N numbers, P judged pairs.

1. Ids become numbers from 0; where nothing was returned stands -1.
2. For a block of queries a table says what each number is to each query: nothing, junk, or which of its
   relevant pairs.
3. Looking the returned numbers up in it is one gather; the places of what is relevant, less the junk before
   them, are the ranks.
"""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.metrics import Floats, GradedRanks, Ints, RelevantRanks

_CELLS_AT_ONCE = 1 << 23  # of a table of 4 bytes each
_HIGHEST = 1 << 22  # above it ids are numbered anew
_NOBODY, _JUNK = -1, -2  # in the table; from 0 it holds relevant pairs
_NOTHING: Ints = np.zeros(0, dtype=np.int64)

AnyInts = NDArray[np.int64] | NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Pairs of a query, as its row in the ranking, and an id from 0; each once. Without gains all have 1."""

    query_P: AnyInts
    id_P: AnyInts
    gain_P: Floats | None = None

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
    return ranks_of_pairs(np.array(numbers, dtype=np.int64).reshape(ids_QK.shape), wanted, dropped).found


def ranks_of_pairs(numbers_QK: AnyInts, relevant: Pairs, junk: Pairs | None = None) -> GradedRanks:
    """Ranks of the relevant ids in rankings of whole numbers, best first.

    Args:
        numbers_QK: Returned ids from 0; short rows are padded at the end with -1.
        relevant: What each query should find.
        junk: Neither right nor wrong: removed from ``relevant`` and from the ranking, which closes up.

    Raises:
        ValueError: if an id is returned twice for a query.
    """
    n_queries, depth = numbers_QK.shape
    known = np.unique(relevant.id_P if junk is None else np.concatenate([relevant.id_P, junk.id_P]))
    if len(known) and known[-1] >= _HIGHEST:
        numbers_QK = _numbered_anew(numbers_QK, known)
        relevant, junk = _renumbered(relevant, known), None if junk is None else _renumbered(junk, known)
        known = np.arange(len(known))
    n_numbers = 2 + int(known.max(initial=0))  # one more, which nobody judged
    relevant, junk = _by_query(relevant), None if junk is None else _by_query(junk)
    pairs, places, queries, judged = [_NOTHING], [_NOTHING], [_NOTHING], [_NOTHING]
    step = min(max(1, _CELLS_AT_ONCE // n_numbers), max(n_queries, 1))
    table = np.full(step * n_numbers, _NOBODY, dtype=np.int32)
    for start in range(0, n_queries, step):
        numbers_BK = numbers_QK[start : start + step]
        _check_once(numbers_BK, start)
        right, first = _cells(relevant, start, len(numbers_BK), n_numbers)
        dropped = _NOTHING if junk is None else _cells(junk, start, len(numbers_BK), n_numbers)[0]
        table[right] = np.arange(first, first + len(right))
        table[dropped] = _JUNK  # overrules
        judged.append(table[right][table[right] >= 0].astype(np.int64))
        unsigned_BK = numbers_BK.view(np.uint64 if numbers_BK.itemsize == 8 else np.uint32)
        columns_BK = np.minimum(unsigned_BK, n_numbers - 1).astype(np.int64)  # -1 is the largest
        columns_BK += np.arange(len(numbers_BK))[:, None] * n_numbers
        pair_BK = table[columns_BK]
        hit = np.flatnonzero(pair_BK >= 0)
        place = hit % depth + 1
        if len(dropped):
            place -= np.cumsum(pair_BK == _JUNK, axis=1).ravel()[hit]
        pairs.append(pair_BK.ravel()[hit].astype(np.int64))
        places.append(place)
        queries.append(start + hit // depth)
        table[right], table[dropped] = _NOBODY, _NOBODY
    judged_J = np.concatenate(judged)
    gain_P = np.ones(len(relevant.id_P)) if relevant.gain_P is None else relevant.gain_P
    n_relevant_Q = np.bincount(relevant.query_P[judged_J], minlength=n_queries)
    found = RelevantRanks(
        ranks_H=np.concatenate(places),
        offsets_Q1=_offsets(np.bincount(np.concatenate(queries), minlength=n_queries)),
        n_relevant_Q=n_relevant_Q,
        depth=depth,
    )
    return GradedRanks(
        found=found,
        gains_H=gain_P[np.concatenate(pairs)],
        judged_J=gain_P[judged_J],
        judged_offsets_Q1=_offsets(n_relevant_Q),
    )


def _offsets(sizes_Q: Ints) -> Ints:
    offsets: Ints = np.concatenate([[0], np.cumsum(sizes_Q)])
    return offsets


def _by_query(pairs: Pairs) -> Pairs:
    order = np.argsort(pairs.query_P, kind="stable")
    gain_P = None if pairs.gain_P is None else pairs.gain_P[order]
    return Pairs(query_P=pairs.query_P[order], id_P=pairs.id_P[order], gain_P=gain_P)


def _cells(pairs: Pairs, start: int, n_block: int, n_numbers: int) -> tuple[Ints, int]:
    """Where the pairs of some queries are in the table, and the number of the first of them."""
    first, last = np.searchsorted(pairs.query_P, [start, start + n_block])
    query_P = pairs.query_P[first:last].astype(np.int64) - start
    return query_P * n_numbers + pairs.id_P[first:last], int(first)


def _numbered_anew(numbers_QK: AnyInts, known: AnyInts) -> AnyInts:
    """Judged ids by their place among them; those that nobody judged stay apart, behind all of them."""
    place_QK = np.minimum(np.searchsorted(known, numbers_QK), len(known) - 1)
    judged_QK = known[place_QK] == numbers_QK
    anew_QK: AnyInts = np.where(judged_QK | (numbers_QK < 0), place_QK, numbers_QK + len(known))
    anew_QK[numbers_QK < 0] = -1
    return anew_QK


def _renumbered(pairs: Pairs, known: AnyInts) -> Pairs:
    return Pairs(query_P=pairs.query_P, id_P=np.searchsorted(known, pairs.id_P), gain_P=pairs.gain_P)


def _check_once(numbers_BK: AnyInts, start: int) -> None:
    ascending_BK = numbers_BK.copy()
    ascending_BK.sort(axis=1)
    twice_BK = (ascending_BK[:, 1:] == ascending_BK[:, :-1]) & (ascending_BK[:, 1:] >= 0)
    if twice_BK.any():
        query = int(np.argmax(twice_BK.any(axis=1)))
        raise ValueError(f"an id was returned twice for one query, number {start + query}")


def _is_padding(item: Hashable) -> bool:
    return item is None or item == "" or (isinstance(item, int) and item < 0)
