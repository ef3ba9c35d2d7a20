"""The k nearest products instead of the k nearest images: of each group only its best image.

The answer is the full ranking with every image dropped whose group came before; an image without a group
is a group of its own.

1. Ask for 4 k images, then four times as many, for those queries in which fewer than k groups came.
2. At 1,024 images leave out what was found and search among the rest: one product may have 100,000 images,
   and a catalog may have fewer than k products.
3. A search that returns less than it was asked for has seen everything.

Queries that found the same groups go on together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import pyarrow as pa

from pipeline.index.arrays import Float32Array
from pipeline.index.search import SearchResult
from pipeline.snapshot.selection import LeftOut, values_of

_MORE = 4
_LEAVE_OUT_FROM = 1_024


class Search(Protocol):
    """A search over the live rows of a snapshot, or over some of them."""

    def search(self, xq_QD: Float32Array, k: int, left_out: LeftOut | None = None) -> SearchResult:
        """The ``k`` nearest images of each query that are not left out."""
        ...


@dataclass(slots=True)
class _Found:
    """What one query has found: its best images, their groups, and how far it has looked."""

    ids: list[str] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    groups: set[Any] = field(default_factory=set)
    ungrouped: set[str] = field(default_factory=set)
    seen_all: bool = False

    def add(self, ids: Sequence[str], distances: Sequence[float], groups: Sequence[Any], k: int) -> None:
        for image_id, distance, group in zip(ids, distances, groups, strict=True):
            if len(self.ids) == k or group in self.groups or image_id in self.ungrouped:
                continue
            (self.ungrouped if group is None else self.groups).add(image_id if group is None else group)
            self.ids.append(image_id)
            self.distances.append(distance)


def distinct(search: Search, table: pa.Table, column: str, xq_QD: Float32Array, k: int) -> SearchResult:
    """The best image of each of the ``k`` nearest groups, for each query.

    Args:
        search: over the images that may be found.
        table: their attributes.
        column: the attribute that says which product an image shows.
        xq_QD: unit vectors, one query a row.
        k: how many groups; fewer if there are fewer.
    """
    found = [_Found() for _ in range(len(xq_QD))]
    everybody, fetch = list(range(len(xq_QD))), _MORE * k

    def look(queries: list[int], left_out: LeftOut | None) -> SearchResult:
        result = search.search(xq_QD[queries], fetch, left_out)
        _take(found, queries, result, _groups(table, column, result), k)
        for query, ids in zip(queries, result.ids, strict=True):
            found[query].seen_all |= len(ids) < fetch
        return result

    first = look(everybody, None)
    while (short := _short(found, k)) and _MORE * fetch <= _LEAVE_OUT_FROM:
        fetch *= _MORE
        look(short, None)
    fetch = _MORE * k
    while short := _short(found, k):
        for left_out, queries in _alike(found, short, column).items():
            look(queries, left_out)
    ids = tuple(tuple(one.ids) for one in found)
    return replace(first, ids=ids, distances=tuple(tuple(one.distances) for one in found))


def _short(found: Sequence[_Found], k: int) -> list[int]:
    """Queries that want more groups and can have them."""
    return [query for query, one in enumerate(found) if len(one.ids) < k and not one.seen_all]


def _alike(found: Sequence[_Found], queries: Sequence[int], column: str) -> dict[LeftOut, list[int]]:
    """The queries by what they have found and need not see again."""
    alike: dict[LeftOut, list[int]] = {}
    for query in queries:
        one = found[query]
        left_out = LeftOut(column=column, values=frozenset(one.groups), ids=frozenset(one.ungrouped))
        alike.setdefault(left_out, []).append(query)
    return alike


def _groups(table: pa.Table, column: str, result: SearchResult) -> list[Any]:
    """The group of every match, one query after the other."""
    ids = pa.array([image_id for row in result.ids for image_id in row], type=pa.string())
    groups: list[Any] = values_of(table, column, ids).to_pylist()
    return groups


def _take(
    found: Sequence[_Found], queries: Sequence[int], result: SearchResult, groups: Sequence[Any], k: int
) -> None:
    start = 0
    for query, ids, distances in zip(queries, result.ids, result.distances, strict=True):
        found[query].add(ids, distances, groups[start : start + len(ids)], k)
        start += len(ids)
