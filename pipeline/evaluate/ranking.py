"""Exact ranks of all relevant items over the whole base.

The question: standing at a query, how many base items are closer than each item that it should find?
Legend: N base rows, Q queries, B queries at once, D dimensions, K neighbours kept, H hits.

1. Base rows are put into the order of their ids (UTF-8 byte order): a row's position now breaks ties.
2. For a block of queries the exact distances to all rows are computed. What is left out of a query's ranking
   is moved to infinity: its own row by its id, never by being the first hit, because duplicates exist; and
   junk.
3. At product level only the nearest row of each group stays.
4. The distances of each query are sorted, not the rows: a relevant item's rank is one more than the number of
   smaller distances, plus the number of equal ones at smaller positions.

Blocks of queries know nothing of each other: they may be ranked one after the other or by many workers. The
base is read a slice at a time for each block, and copied only if it is not in id order: from a mapped file
it need not fit in memory. Beside it a worker takes some hundred bytes for each id and about 200 MiB. Results
do not depend on the order of the base, of the queries, or on who ranked what.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.evaluate.distances import DistanceTable
from pipeline.evaluate.groups import Groups
from pipeline.evaluate.metrics import Floats, GradedRanks, Ints, RelevantRanks
from pipeline.evaluate.relevance import ByLabel, IdOrder, Relevance, Right

_DISTANCES_AT_ONCE = 1 << 25  # 128 MiB of float32: a quarter of it costs twice the time a query
_MOST_QUERIES_AT_ONCE = 32  # as fast as 512, and enough blocks for many workers
_CHECKED_AT_ONCE = 1 << 14
_LONGEST = 1e15  # squared distances stay within float32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledVectors:
    """Vectors x_ND (float32) with their ids (distinct) and labels; a label None means unknown.

    ``groups`` says which images show one product, None where one is unknown; absent if nothing is said.

    Raises:
        ValueError: on shapes that differ, or ids seen twice.
        UsageError: on numbers that are not finite.
    """

    x_ND: NDArray[np.float32]
    ids: Sequence[str]
    labels: Sequence[str | None]
    groups: Sequence[str | None] | None = None

    def __post_init__(self) -> None:
        if self.x_ND.ndim != 2 or self.x_ND.dtype != np.float32:
            raise ValueError(f"x_ND must be float32 of shape [N, D], got {self.x_ND.dtype} {self.x_ND.shape}")
        n_groups = len(self.ids) if self.groups is None else len(self.groups)
        if not len(self.x_ND) == len(self.ids) == len(self.labels) == n_groups:
            lengths = f"{len(self.x_ND)} vectors, {len(self.ids)} ids, {len(self.labels)} labels"
            raise ValueError(f"expected equal lengths, got {lengths}, {n_groups} groups")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError(f"ids must be distinct, got {len(self.ids) - len(set(self.ids))} more than once")
        bad_N = ~_ordinary(self.x_ND)
        if bad_N.any():
            first = self.ids[int(np.argmax(bad_N))]
            raise UsageError(
                f"{int(bad_N.sum())} of {len(bad_N)} vectors are not finite or have numbers beyond "
                f"{_LONGEST:g}, such as that of {first!r}",
                fix="embed these images again, or leave them out",
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """Where the relevant items of each judged query are, and what stands at the top.

    Attributes:
        found: Exact ranks of all relevant items of the Q judged queries.
        graded: The same with how good each is.
        query_rows_Q: Each judged query's row among the queries given, in the order of their ids.
        neighbours_QK: Rows of the base as given, best first; -1 where the base has fewer.
        distances_QK: Their squared L2 distances; infinity where there is none.
        right_QK: Whether they are what the query should find.
        n_queries_without_label: Queries given of which it is not known what they should find, not judged.
        n_queries_without_relevants: Queries for which the base holds nothing relevant, not judged.
    """

    found: RelevantRanks
    graded: GradedRanks
    query_rows_Q: Ints
    neighbours_QK: Ints
    distances_QK: NDArray[np.float32]
    right_QK: NDArray[np.bool_]
    n_queries_without_label: int
    n_queries_without_relevants: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranked:
    """The answer to one block of queries: ranks and gains of each, and the rows at the top."""

    ranks: list[Ints]
    gains: list[Floats]
    neighbours_BK: Ints
    distances_BK: NDArray[np.float32]
    right_BK: NDArray[np.bool_]


def leave_one_out_ranks(base: LabelledVectors, *, depth: int = 10) -> Ranking:
    """Every labelled row is a query against all the others.

    Rows without a label are no queries and nobody's relevant items, and still stand in everybody's way.
    """
    return query_set_ranks(base, base, depth=depth)


def query_set_ranks(
    queries: LabelledVectors, base: LabelledVectors, *, depth: int = 10, namesakes: Collection[str] = ()
) -> Ranking:
    """Queries against a base, relevant by label.

    A base row with the query's own id is left out of its ranking and of its relevant items, but for
    ``namesakes``: ids under which the base has another picture.

    Raises:
        ValueError: if dimensions differ or ``depth`` is below 1.
    """
    order = IdOrder.of(base.ids)
    relevance = ByLabel(queries.ids, queries.labels, base.labels, order, namesakes=namesakes)
    contest = Contest(queries, base, relevance, order, depth=depth)
    return contest.ranking(contest.rank(block) for block in contest.blocks())


class Contest:
    """Queries that are to be ranked against a base, block by block."""

    def __init__(
        self,
        queries: LabelledVectors,
        base: LabelledVectors,
        relevance: Relevance,
        order: IdOrder,
        *,
        depth: int,
        groups: Groups | None = None,
    ) -> None:
        """Finds out who is judged.

        Args:
            queries: Who asks.
            base: Who is asked.
            relevance: What each query should find; positions are those of ``order``.
            order: Of the ids of the base.
            depth: How many neighbours are kept.
            groups: Of the base, where a group counts once, at the place of its nearest image.

        Raises:
            ValueError: if dimensions differ or ``depth`` is below 1.
        """
        if queries.x_ND.shape[1] != base.x_ND.shape[1] or depth < 1:
            raise ValueError(
                f"expected queries of {base.x_ND.shape[1]} dimensions and a depth of at least 1, "
                f"got {queries.x_ND.shape[1]} and {depth}"
            )
        self._queries, self._base, self._order, self._groups = queries, base, order, groups
        self._relevance, self._depth = relevance, depth
        n_right_Q = np.array([_n_right(relevance.of(row)) for row in range(len(queries.ids))], dtype=np.int64)
        judged = np.flatnonzero(n_right_Q > 0).tolist()
        self.query_rows_Q: Ints = np.array(sorted(judged, key=queries.ids.__getitem__), dtype=np.int64)
        self._n_unknown, self._n_without = int((n_right_Q < 0).sum()), int((n_right_Q == 0).sum())
        self.n_not_drawn = 0
        self._table: DistanceTable | None = None

    def draw(self, n: int, seed: int) -> None:
        """Keeps ``n`` judged queries, those with the smallest sha256 of the seed and their id."""
        ids = self._queries.ids
        ordered = sorted(self.query_rows_Q.tolist(), key=lambda row: _drawn(seed, ids[row]))
        self.n_not_drawn = max(0, len(ordered) - n)
        self.query_rows_Q = np.array(sorted(ordered[:n], key=ids.__getitem__), dtype=np.int64)

    def blocks(self) -> list[range]:
        """Queries that are ranked at once, as ranges of ``query_rows_Q``."""
        most = max(1, _DISTANCES_AT_ONCE // max(len(self._base.ids), 1))
        step = min(_MOST_QUERIES_AT_ONCE, most)
        n_queries = len(self.query_rows_Q)
        return [range(start, min(start + step, n_queries)) for start in range(0, n_queries, step)]

    def rank(self, block: range) -> Ranked:
        """The answer to one block; asking twice gives the same."""
        if self._table is None:
            self._table = DistanceTable.of(self._order.ordered(self._base.x_ND))
        rows_B = self.query_rows_Q[block.start : block.stop]
        neighbours_BK = np.full((len(rows_B), self._depth), -1, dtype=np.int64)
        distances_BK = np.full((len(rows_B), self._depth), np.inf, dtype=np.float32)
        right_BK = np.zeros((len(rows_B), self._depth), dtype=np.bool_)
        ranks, gains = [], []
        d2_BN = self._table.squared_l2(self._queries.x_ND[rows_B])
        for q, (row, d2_N) in enumerate(zip(rows_B.tolist(), d2_BN, strict=True)):
            right = self._relevance.of(row)
            assert right is not None  # noqa: S101 - only judged queries are in blocks
            right = _take_out(d2_N, right, self._groups)
            ranks_q, gains_q, top = _rank_query(d2_N, right, self._depth)
            ranks.append(ranks_q)
            gains.append(gains_q)
            neighbours_BK[q, : len(top)] = self._order.rows_N[top]
            distances_BK[q, : len(top)] = d2_N[top]
            right_BK[q, : len(top)] = _among(right.positions_P, top)
        return Ranked(
            ranks=ranks,
            gains=gains,
            neighbours_BK=neighbours_BK,
            distances_BK=distances_BK,
            right_BK=right_BK,
        )

    def ranking(self, answers: Iterable[Ranked]) -> Ranking:
        """The answers to all blocks, in their order, as one."""
        parts = list(answers)
        found = _found([ranks for part in parts for ranks in part.ranks])
        nothing = np.zeros((0, self._depth))
        neighbours = [nothing.astype(np.int64), *(part.neighbours_BK for part in parts)]
        distances = [nothing.astype(np.float32), *(part.distances_BK for part in parts)]
        right = [nothing.astype(np.bool_), *(part.right_BK for part in parts)]
        gains_H = np.concatenate([np.zeros(0), *(gains for part in parts for gains in part.gains)])
        return Ranking(
            found=found,
            graded=GradedRanks(
                found=found, gains_H=gains_H, judged_J=gains_H, judged_offsets_Q1=found.offsets_Q1
            ),
            query_rows_Q=self.query_rows_Q,
            neighbours_QK=np.concatenate(neighbours),
            distances_QK=np.concatenate(distances),
            right_QK=np.concatenate(right),
            n_queries_without_label=self._n_unknown,
            n_queries_without_relevants=self._n_without,
        )


def _n_right(right: Right | None) -> int:
    """How many images a query should find; -1 if it was not judged."""
    return -1 if right is None else len(right.positions_P)


def _drawn(seed: int, image_id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{image_id}".encode(errors="surrogatepass")).digest()


def _take_out(d2_N: NDArray[np.float32], right: Right, groups: Groups | None) -> Right:
    """Moves to infinity what is not ranked; at product level the groups' nearest rows stand for them."""
    d2_N[right.left_out] = np.inf
    return right if groups is None else groups.collapse(d2_N, right)


def _rank_query(d2_N: NDArray[np.float32], right: Right, depth: int) -> tuple[Ints, Floats, Ints]:
    """Ranks of the relevant positions, ascending, their gains, and positions of the first ``depth``."""
    relevant = right.positions_P
    ascending_N = np.sort(d2_N)
    ranks = np.searchsorted(ascending_N, d2_N[relevant], side="left") + 1
    tied = np.searchsorted(ascending_N, d2_N[relevant], side="right") > ranks
    for i in np.flatnonzero(tied):
        ranks[i] += np.count_nonzero(d2_N[: relevant[i]] == d2_N[relevant[i]])
    n_top = min(depth, int(np.searchsorted(ascending_N, np.inf, side="left")))
    near = np.flatnonzero(d2_N <= ascending_N[n_top - 1]) if n_top else np.zeros(0, dtype=np.int64)
    top = near[np.argsort(d2_N[near], kind="stable")[:n_top]]
    best_first = np.argsort(ranks)
    return ranks[best_first], right.gains_P[best_first], top


def _ordinary(x_ND: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which vectors are finite and not absurdly long, a slice at a time."""
    starts = range(0, len(x_ND), _CHECKED_AT_ONCE)
    slices = (x_ND[start : start + _CHECKED_AT_ONCE] for start in starts)
    parts = [np.all(np.abs(some_SD) < _LONGEST, axis=1) for some_SD in slices]
    return np.concatenate([np.zeros(0, dtype=np.bool_), *parts])


def _among(ascending_P: Ints, wanted: Ints) -> NDArray[np.bool_]:
    """Which of ``wanted`` are in an ascending array."""
    if not len(ascending_P):
        return np.zeros(len(wanted), dtype=np.bool_)
    at = np.minimum(np.searchsorted(ascending_P, wanted), len(ascending_P) - 1)
    return np.asarray(ascending_P[at] == wanted)


def _found(ranks: list[Ints]) -> RelevantRanks:
    sizes = np.array([len(ranks_q) for ranks_q in ranks], dtype=np.int64)
    return RelevantRanks(
        ranks_H=np.concatenate([np.zeros(0, dtype=np.int64), *ranks]),
        offsets_Q1=np.concatenate([[0], np.cumsum(sizes)]),
        n_relevant_Q=sizes,
    )
