"""Exact ranks of all relevant items over the whole base, in bounded memory.

The question: standing at a query, how many base items are closer than each item that carries its label?
Legend: N base rows, Q queries, B queries at once, D dimensions, K neighbours kept, H hits.

1. Base rows are put into the order of their ids (UTF-8 byte order): a row's position now breaks ties.
2. For a block of queries the exact distances to all rows are computed. The row with the query's own id is
   moved to infinity: removed by id, never by being the first hit, because duplicates exist.
3. The distances of each query are sorted, not the rows: a relevant item's rank is one more than the number of
   smaller distances, plus the number of equal ones at smaller positions.

Memory is about 100 MiB plus the vectors and the ranks. Results do not depend on the order of the base
or of the queries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.distances import DistanceTable
from pipeline.evaluate.metrics import Ints, RelevantRanks

_DISTANCES_AT_ONCE = 1 << 23  # 32 MiB of float32, and as much again sorted
_MOST_QUERIES_AT_ONCE = 512
_LONGEST = 1e15  # squared distances stay within float32
_NOBODY: Ints = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """Where the relevant items of each judged query are, and what stands at the top.

    Attributes:
        found: Exact ranks of all relevant items of the Q judged queries.
        query_rows_Q: Each judged query's row among the queries given, in the order of their ids.
        neighbours_QK: Rows of the base as given, best first; -1 where the base has fewer.
        distances_QK: Their squared L2 distances; infinity where there is none.
        n_queries_without_label: Queries given without a label, not judged.
        n_queries_without_relevants: Queries whose label nothing else in the base carries, not judged.
    """

    found: RelevantRanks
    query_rows_Q: Ints
    neighbours_QK: Ints
    distances_QK: NDArray[np.float32]
    n_queries_without_label: int
    n_queries_without_relevants: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledVectors:
    """Vectors x_ND (float32) with their ids (distinct) and labels; a label None means unknown.

    Raises:
        ValueError: on shapes that differ, ids seen twice, or numbers that are not finite.
    """

    x_ND: NDArray[np.float32]
    ids: Sequence[str]
    labels: Sequence[str | None]

    def __post_init__(self) -> None:
        if self.x_ND.ndim != 2 or self.x_ND.dtype != np.float32:
            raise ValueError(f"x_ND must be float32 of shape [N, D], got {self.x_ND.dtype} {self.x_ND.shape}")
        if not len(self.x_ND) == len(self.ids) == len(self.labels):
            lengths = f"{len(self.x_ND)} vectors, {len(self.ids)} ids, {len(self.labels)} labels"
            raise ValueError(f"expected equal lengths, got {lengths}")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError(f"ids must be distinct, got {len(self.ids) - len(set(self.ids))} more than once")
        if not (np.abs(self.x_ND) < _LONGEST).all():
            raise ValueError(f"vectors must be finite, with every number below {_LONGEST:g}")


def leave_one_out_ranks(base: LabelledVectors, *, depth: int = 10) -> Ranking:
    """Every labelled row is a query against all the others.

    Rows without a label are no queries and nobody's relevant items, and still stand in everybody's way.
    """
    return query_set_ranks(base, base, depth=depth)


def query_set_ranks(queries: LabelledVectors, base: LabelledVectors, *, depth: int = 10) -> Ranking:
    """Queries against a base.

    A base row with the query's own id is left out of its ranking and of its relevant items.

    Raises:
        ValueError: if dimensions differ or ``depth`` is below 1.
    """
    if queries.x_ND.shape[1] != base.x_ND.shape[1] or depth < 1:
        raise ValueError(
            f"expected queries of {base.x_ND.shape[1]} dimensions and a depth of at least 1, "
            f"got {queries.x_ND.shape[1]} and {depth}"
        )
    order_N = np.array(
        sorted(range(len(base.ids)), key=base.ids.__getitem__), dtype=np.int64
    )  # as UTF-8 sorts
    plan = _plan(queries, base, order_N)
    table = DistanceTable.of(base.x_ND[order_N])
    ranks: list[Ints] = []
    neighbours_QK = np.full((len(plan.query_rows_Q), depth), -1, dtype=np.int64)
    distances_QK = np.full((len(plan.query_rows_Q), depth), np.inf, dtype=np.float32)
    for start, rows_B in _blocks(plan, len(base.ids)):
        d2_BN = table.squared_l2(queries.x_ND[rows_B])
        for q, (row, d2_N) in enumerate(zip(rows_B.tolist(), d2_BN, strict=True), start=start):
            ranks_q, top = _rank_query(d2_N, plan.relevant_positions(row), plan.own_position.get(row), depth)
            ranks.append(ranks_q)
            neighbours_QK[q, : len(top)] = order_N[top]
            distances_QK[q, : len(top)] = d2_N[top]
    return Ranking(
        found=_found(ranks),
        query_rows_Q=plan.query_rows_Q,
        neighbours_QK=neighbours_QK,
        distances_QK=distances_QK,
        n_queries_without_label=plan.n_without_label,
        n_queries_without_relevants=plan.n_without_relevants,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """Who is judged against what. Positions are rows of the base in id order."""

    query_rows_Q: Ints
    own_position: dict[int, int]  # query row -> position of the base row with the same id
    groups: dict[str, Ints]  # label -> positions that carry it, ascending
    labels: Sequence[str | None]  # of the queries
    n_without_label: int
    n_without_relevants: int

    def relevant_positions(self, row: int) -> Ints:
        """Positions of the rows that carry the label of a judged query, without itself."""
        label = self.labels[row]
        group = self.groups.get(label, _NOBODY) if label is not None else _NOBODY
        others: Ints = group[group != self.own_position.get(row, -1)]
        return others


def _plan(queries: LabelledVectors, base: LabelledVectors, order_N: Ints) -> _Plan:
    position_of = {base.ids[row]: position for position, row in enumerate(order_N.tolist())}
    own = {row: position_of[name] for row, name in enumerate(queries.ids) if name in position_of}
    members: dict[str, list[int]] = {}
    for position, row in enumerate(order_N.tolist()):
        label = base.labels[row]
        if label is not None:
            members.setdefault(label, []).append(position)
    groups = {label: np.array(positions, dtype=np.int64) for label, positions in members.items()}
    labelled = [(row, label) for row, label in enumerate(queries.labels) if label is not None]
    judged = [
        row
        for row, label in labelled
        if len(members.get(label, ())) > (row in own and base.labels[order_N[own[row]]] == label)
    ]
    return _Plan(
        query_rows_Q=np.array(sorted(judged, key=queries.ids.__getitem__), dtype=np.int64),
        own_position=own,
        groups=groups,
        labels=queries.labels,
        n_without_label=len(queries.labels) - len(labelled),
        n_without_relevants=len(labelled) - len(judged),
    )


def _blocks(plan: _Plan, n_base: int) -> Iterator[tuple[int, Ints]]:
    per_block = min(_MOST_QUERIES_AT_ONCE, max(1, _DISTANCES_AT_ONCE // max(n_base, 1)))
    for start in range(0, len(plan.query_rows_Q), per_block):
        yield start, plan.query_rows_Q[start : start + per_block]


def _rank_query(d2_N: NDArray[np.float32], relevant: Ints, own: int | None, depth: int) -> tuple[Ints, Ints]:
    """Ranks of the relevant positions, ascending, and positions of the first ``depth``; changes d2_N."""
    if own is not None:
        d2_N[own] = np.inf
    ascending_N = np.sort(d2_N)
    ranks = np.searchsorted(ascending_N, d2_N[relevant], side="left") + 1
    tied = np.searchsorted(ascending_N, d2_N[relevant], side="right") > ranks
    for i in np.flatnonzero(tied):
        ranks[i] += np.count_nonzero(d2_N[: relevant[i]] == d2_N[relevant[i]])
    n_top = min(depth, len(d2_N) - (own is not None))
    near = np.flatnonzero(d2_N <= ascending_N[n_top - 1]) if n_top else np.zeros(0, dtype=np.int64)
    top = near[np.argsort(d2_N[near], kind="stable")[:n_top]]
    return np.sort(ranks), top


def _found(ranks: list[Ints]) -> RelevantRanks:
    sizes = np.array([len(ranks_q) for ranks_q in ranks], dtype=np.int64)
    return RelevantRanks(
        ranks_H=np.concatenate([np.zeros(0, dtype=np.int64), *ranks]),
        offsets_Q1=np.concatenate([[0], np.cumsum(sizes)]),
        n_relevant_Q=sizes,
    )
