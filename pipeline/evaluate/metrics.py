"""Retrieval measures per query, from the ranks at which relevant items were found.

Which of the many definitions is meant matters more than the arithmetic, so each function states its own. All
agree with trec_eval to six digits where trec_eval has the measure. Legend: Q queries, K returned ids, H hits
over all queries, R relevant items known for a query (found or not).

1. A ranking becomes ``RelevantRanks``: the 1-based ranks of the relevant items found, after ties were
   resolved (distance, then id in UTF-8 byte order) and junk was removed (``ranked_ids`` does this for
   ready-made rankings). ``GradedRanks`` says besides how good each of them is.
2. Every measure is a function of these ranks and of R. A query with R = 0 has no value: NaN. ``aggregate``
   decides what to do with it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RelevantRanks:
    """The 1-based ranks of the relevant items found, query after query.

    Relevant items that were not returned are absent from ``ranks_H`` and still counted in ``n_relevant_Q``.

    Attributes:
        ranks_H: Strictly ascending within each query.
        offsets_Q1: Query q owns ``ranks_H[offsets_Q1[q] : offsets_Q1[q + 1]]``; length Q + 1.
        n_relevant_Q: R, how many relevant items exist for each query.
        depth: How many places were looked at; None for all of them. No measure looks deeper.
    """

    ranks_H: Ints
    offsets_Q1: Ints
    n_relevant_Q: Ints
    depth: int | None = None

    def __post_init__(self) -> None:
        for name in ("ranks_H", "offsets_Q1", "n_relevant_Q"):
            array = np.array(getattr(self, name), dtype=np.int64)
            if array.ndim != 1:
                raise ValueError(f"{name} must have one dimension, got shape {array.shape}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        self._check()

    def _check(self) -> None:
        sizes_Q = np.diff(self.offsets_Q1)
        if len(self.offsets_Q1) != self.n_queries + 1:
            raise ValueError(f"expected {self.n_queries + 1} offsets, got {len(self.offsets_Q1)}")
        if self.offsets_Q1[0] != 0 or self.offsets_Q1[-1] != len(self.ranks_H) or (sizes_Q < 0).any():
            raise ValueError(f"offsets must rise from 0 to {len(self.ranks_H)}")
        if (sizes_Q > self.n_relevant_Q).any():
            raise ValueError("a query has more ranks than relevant items")
        steps = np.diff(self.ranks_H, prepend=0)
        first = self.offsets_Q1[:-1][sizes_Q > 0]
        steps[first] = self.ranks_H[first]
        if (steps < 1).any():
            raise ValueError("ranks must start at 1 or later and rise strictly within a query")
        if self.depth is not None and self.ranks_H.max(initial=0) > self.depth:
            raise ValueError(f"a rank is {self.ranks_H.max()}, beyond the depth of {self.depth}")

    @property
    def n_queries(self) -> int:
        """Q."""
        return len(self.n_relevant_Q)

    @property
    def query_of_hit(self) -> Ints:
        """The query each hit belongs to."""
        return np.repeat(np.arange(self.n_queries), np.diff(self.offsets_Q1))

    @property
    def nth_of_query(self) -> Ints:
        """Each hit's place among its query's hits, from 1."""
        return np.arange(1, len(self.ranks_H) + 1) - np.repeat(self.offsets_Q1[:-1], np.diff(self.offsets_Q1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GradedRanks:
    """Relevant items found, with how good each is. Legend: J judged items over all queries.

    Attributes:
        found: Where they are.
        gains_H: The gain of each, in the order of ``found.ranks_H``.
        judged_J: Gains of all judged items of each query, returned or not, in any order: the ideal ranking.
        judged_offsets_Q1: Query q owns ``judged_J[judged_offsets_Q1[q] : judged_offsets_Q1[q + 1]]``.

    Raises:
        ValueError: on lengths that differ, or gains that are negative or not finite.
    """

    found: RelevantRanks
    gains_H: Floats
    judged_J: Floats
    judged_offsets_Q1: Ints

    def __post_init__(self) -> None:
        n_hits, n_judged = len(self.found.ranks_H), int(self.judged_offsets_Q1[-1])
        if len(self.gains_H) != n_hits or len(self.judged_J) != n_judged:
            got = f"{len(self.gains_H)} and {len(self.judged_J)}"
            raise ValueError(f"expected {n_hits} gains of hits and {n_judged} of judged items, got {got}")
        if len(self.judged_offsets_Q1) != self.found.n_queries + 1:
            raise ValueError(
                f"expected {self.found.n_queries + 1} offsets, got {len(self.judged_offsets_Q1)}"
            )
        gains = np.concatenate([self.gains_H, self.judged_J])
        if not np.isfinite(gains).all() or (gains < 0).any():
            raise ValueError("gains must be finite numbers that are not negative")


def precision_at(found: RelevantRanks, k: int) -> Floats:
    """Share of the first k places that hold a relevant item; the divisor is k even if fewer were returned."""
    return _defined(found, _hits_at(found, k) / k)


def success_at(found: RelevantRanks, k: int) -> Floats:
    """1 if any of the first k is relevant, else 0.

    Metric-learning papers call this Recall@k, others hit rate or CMC.
    """
    return _defined(found, (_hits_at(found, k) > 0).astype(np.float64))


def recall_at(found: RelevantRanks, k: int) -> Floats:
    """Relevant items in the first k, divided by R."""
    return _per_relevant(found, _hits_at(found, k))


def r_precision(found: RelevantRanks) -> Floats:
    """Precision at R, with the true R of each query."""
    return _per_relevant(found, _sum_over_hits(found, found.ranks_H <= _r_of_hits(found)))


def average_precision(found: RelevantRanks) -> Floats:
    """Sum over the whole list of precision at each relevant item, divided by R (never by the hits found)."""
    return _per_relevant(found, _sum_over_hits(found, _precision_at_hits(found)))


def average_precision_at(found: RelevantRanks, k: int) -> Floats:
    """Average precision where only the first k count, divided by R (trec_eval's map_cut)."""
    _check_k(found, k)
    return _per_relevant(found, _sum_over_hits(found, _precision_at_hits(found) * (found.ranks_H <= k)))


def map_at_r(found: RelevantRanks) -> Floats:
    """Average precision where only the first R count (Musgrave et al. 2020, MAP@R)."""
    return _per_relevant(
        found, _sum_over_hits(found, _precision_at_hits(found) * (found.ranks_H <= _r_of_hits(found)))
    )


def average_precision_trapezoid(found: RelevantRanks) -> Floats:
    """Average precision by the trapezoid rule, as the Revisited Oxford and Paris benchmarks compute it."""
    before_H = np.where(found.ranks_H == 1, 1.0, (found.nth_of_query - 1) / np.maximum(found.ranks_H - 1, 1))
    return _per_relevant(found, _sum_over_hits(found, (before_H + _precision_at_hits(found)) / 2))


def reciprocal_rank(found: RelevantRanks) -> Floats:
    """1 divided by the rank of the first relevant item; 0 if none was found."""
    return _defined(found, _sum_over_hits(found, (found.nth_of_query == 1) / found.ranks_H))


def ndcg_at(found: RelevantRanks, k: int | None = None) -> Floats:
    """Discounted gain (1 / log2(rank + 1)) of the first k, divided by that of a perfect ranking of all R.

    ``k`` None means the whole list.
    """
    if k is not None:
        _check_k(found, k)
    within_H = np.ones(len(found.ranks_H), dtype=bool) if k is None else found.ranks_H <= k
    dcg_Q = _sum_over_hits(found, within_H / np.log2(found.ranks_H + 1.0))
    n_ideal_Q = found.n_relevant_Q if k is None else np.minimum(found.n_relevant_Q, k)
    ideal = np.concatenate([[0.0], np.cumsum(_discount(int(n_ideal_Q.max(initial=0))))])
    return _divide(dcg_Q, ideal[n_ideal_Q])


def ndcg_graded(
    graded: GradedRanks, k: int | None = None, gain: Literal["linear", "exp"] = "linear"
) -> Floats:
    """Discounted gain of the first k, divided by that of the ideal order of all judged items.

    Args:
        graded: Hits with their gains; an item without judgement has gain 0 and is no hit.
        k: Places that count; None means all.
        gain: ``linear`` uses the gain itself, ``exp`` uses 2**gain - 1.
    """
    found = graded.found
    if k is not None:
        _check_k(found, k)
    got_H, judged_J = (_gain(values, gain) for values in (graded.gains_H, graded.judged_J))
    within_H = np.ones(len(found.ranks_H), dtype=bool) if k is None else found.ranks_H <= k
    dcg_Q = _sum_over_hits(found, within_H * got_H / np.log2(found.ranks_H + 1.0))
    sizes_Q = np.diff(graded.judged_offsets_Q1)
    query_J = np.repeat(np.arange(found.n_queries), sizes_Q)
    ideal_J = judged_J[np.lexsort((-judged_J, query_J))]
    place_J = np.arange(len(judged_J)) - np.repeat(graded.judged_offsets_Q1[:-1], sizes_Q)
    counts_J = place_J < (len(judged_J) if k is None else k)
    ideal_Q = np.bincount(
        query_J, weights=counts_J * ideal_J / np.log2(place_J + 2.0), minlength=found.n_queries
    )
    return _divide(dcg_Q, ideal_Q.astype(np.float64))


def _gain(values: Floats, gain: Literal["linear", "exp"]) -> Floats:
    return values if gain == "linear" else np.exp2(values) - 1


def _discount(n: int) -> Floats:
    discounts: Floats = 1.0 / np.log2(np.arange(2.0, n + 2))
    return discounts


def _check_k(found: RelevantRanks, k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if found.depth is not None and k > found.depth:
        raise ValueError(f"a measure at {k} needs as many places, but only {found.depth} were looked at")


def _hits_at(found: RelevantRanks, k: int) -> Floats:
    _check_k(found, k)
    return _sum_over_hits(found, found.ranks_H <= k)


def _sum_over_hits(found: RelevantRanks, values_H: NDArray[np.generic]) -> Floats:
    sums: Floats = np.bincount(
        found.query_of_hit, weights=values_H.astype(np.float64), minlength=found.n_queries
    ).astype(np.float64)
    return sums


def _precision_at_hits(found: RelevantRanks) -> Floats:
    precision: Floats = found.nth_of_query / found.ranks_H
    return precision


def _r_of_hits(found: RelevantRanks) -> Ints:
    return found.n_relevant_Q[found.query_of_hit]


def _per_relevant(found: RelevantRanks, values_Q: Floats) -> Floats:
    return _divide(values_Q, found.n_relevant_Q.astype(np.float64))


def _defined(found: RelevantRanks, values_Q: Floats) -> Floats:
    return np.where(found.n_relevant_Q > 0, values_Q, np.nan)


def _divide(values_Q: Floats, divisors_Q: Floats) -> Floats:
    quotients: Floats = np.divide(
        values_Q, divisors_Q, out=np.full(len(values_Q), np.nan), where=divisors_Q > 0
    )
    return quotients
