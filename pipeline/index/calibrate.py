"""Finds how many candidates give the recall that was asked for, and measures the recall that is published.

1. Draw two disjoint seeded sets of live rows as queries, none of which the encoder was fitted on (or split
   the query vectors that were given). A catalog row is never its own neighbour: it is removed by id.
2. Calibration set: recall at every C from one pass (`recall`); C is the smallest whose lower bound meets the
   target.
3. Verification set: the recall of the real `Searcher.search` against exact search. If chance was kinder to
   the first set and the lower bound falls short here, C grows by a quarter and is measured again, up to the
   budget.
4. The published figure is the last measurement. If it falls short at the budget, the answer says so and how
   many bits to fit next; the caller fits, builds and calibrates again, at most three times.

Under 1,000 live rows nothing is measured: search is exact there and its recall is 1. The same holds up to
20,000 rows where the catalog has too few rows outside the fit sample to prove the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pipeline.errors import UsageError
from pipeline.index.arrays import Float32Array, FloatArray, IntArray, VectorArray
from pipeline.index.bootstrap import Bootstrap, Interval, queries_needed
from pipeline.index.calibration import REPORTED_K, Calibration, CurvePoint
from pipeline.index.encoder import Encoder
from pipeline.index.exact import nearest
from pipeline.index.order import NOWHERE, ids_at, places_of, row_of, shard_of, to_place
from pipeline.index.recall import QuerySet, recall_at, sieve_ranks
from pipeline.index.sample import MAX_QUERIES, query_sample, seeded_order
from pipeline.index.search import Searcher, check_queries
from pipeline.index.shard import IndexShard

EXACT_BELOW = 1_000
CHEAP_BELOW = 20_000
"""Up to here exact search costs a millisecond or two: better than a recall nobody can prove."""
MAX_REFITS = 3
_GRID = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
_GROWTH = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSettings:
    """What recall is asked for, and what may be spent on it."""

    target: float = 0.99
    """For the lower bound of recall at k."""
    k: int = 10
    budget: int | None = None
    """Largest C allowed for k; None for a tenth of the live rows, at least 100 and at most 8,192."""
    max_queries: int = MAX_QUERIES
    """In each of the two sets; raised to what the target needs (3,688 queries for .999)."""

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise UsageError(f"the recall target must be between 0 and 1, got {self.target}")
        if not 1 <= self.k <= EXACT_BELOW // 2:
            raise UsageError(f"calibration needs a k from 1 to {EXACT_BELOW // 2}, got {self.k}")
        if self.budget is not None and self.budget < self.k:
            raise UsageError(f"a budget of {self.budget} candidates cannot give {self.k} results")


def calibrate(
    encoder: Encoder | None,
    shards: Sequence[IndexShard],
    settings: CalibrationSettings | None = None,
    *,
    queries: VectorArray | None = None,
    threads: int | None = None,
) -> Calibration:
    """Calibrates a candidate snapshot. Deterministic; rows in other shards, or more threads, change nothing.

    Args:
        encoder: its seed draws queries and resamples; None only below 1,000 live rows.
        shards: all index shards of the candidate, with their live rows.
        settings: target, k, budget.
        queries: unit vectors of real queries instead of catalog rows. Every second one calibrates, the others
            verify; none of them is taken for a row of the catalog.
        threads: of the Hamming scans.
    """
    settings = settings or CalibrationSettings()
    n_live = sum(shard.n_live for shard in shards)
    if n_live < EXACT_BELOW:
        few = f"{n_live} live rows are fewer than {EXACT_BELOW}: every search compares all of them"
        return _exact(encoder, settings, n_live, few, given=queries is not None)
    if encoder is None:
        raise UsageError(f"{n_live} live rows need an encoder to be calibrated, not exact search")
    calibration, verification = (
        _catalog_queries(encoder, shards, max(settings.max_queries, queries_needed(settings.target)))
        if queries is None
        else _given_queries(encoder, queries)
    )
    unproven = _too_few_queries(settings.target, len(calibration), len(verification))
    draft = _exact(encoder, settings, n_live, unproven, given=queries is not None)
    if unproven and queries is None and n_live < CHEAP_BELOW:
        return draft
    draft = replace(
        draft, method="hamming", met=False, n_calibration=len(calibration), n_verification=len(verification)
    )
    if unproven:
        return _unmeasured(draft)
    draft = _choose(draft, encoder, shards, calibration, threads)
    return _publish(draft, encoder, shards, verification, threads)


def default_budget(n_live: int) -> int:
    """The largest C a search may cost where nobody said: a tenth of the rows, from 100 to 8,192."""
    return min(max(n_live // 10, 100), 8_192)


def _exact(
    encoder: Encoder | None, settings: CalibrationSettings, n_live: int, reason: str, *, given: bool
) -> Calibration:
    source: Literal["catalog", "given"] = "given" if given else "catalog"
    return Calibration(
        method="exact",
        met=True,
        reason=reason,
        next_bits=None,
        target=settings.target,
        k=settings.k,
        bits=None if encoder is None else encoder.bits,
        n_live=n_live,
        n_calibration=0,
        n_verification=0,
        seed=0 if encoder is None else encoder.seed,
        budget=settings.budget or max(default_budget(n_live), settings.k),
        queries=source,
        candidates={},
        form="flat" if encoder is None or encoder.n_lists is None else "lists",
        probes={},
        curve=(),
        ann_recall={k: Interval(mean=1.0, low=1.0, high=1.0) for k in _ks(settings.k)},
    )


def _too_few_queries(target: float, n_calibration: int, n_verification: int) -> str:
    needed = queries_needed(target)
    if min(n_calibration, n_verification) >= needed:
        return ""
    return (
        f"{n_calibration} calibration and {n_verification} verification queries cannot show a recall of "
        f"{target}: each set needs at least {needed}"
    )


def _unmeasured(draft: Calibration) -> Calibration:
    """Recall counts as 0, and C is the whole budget, so that a search still works."""
    return replace(
        draft,
        candidates={k: max(draft.budget, k) for k in _ks(draft.k)},
        ann_recall={k: Interval(mean=0.0, low=0.0, high=1.0) for k in _ks(draft.k)},
    )


def _choose(
    draft: Calibration, encoder: Encoder, shards: Sequence[IndexShard], queries: QuerySet, threads: int | None
) -> Calibration:
    """Fills in the curve and, for every k, the smallest C whose lower bound meets the target."""
    ks = _ks(draft.k)
    ranks = sieve_ranks(shards, queries, encoder.encode(queries.xq_QD), ks, threads=threads)
    bootstrap = Bootstrap(len(queries), draft.seed)
    candidates: dict[int, int] = {}
    for k in ks:
        at_least = max(k, *candidates.values(), 1)
        candidates[k] = _smallest(ranks[k], bootstrap, draft.target, at_least, _limit(draft, k))
    grid = sorted({n for n in _GRID if n <= draft.n_live} | set(candidates.values()))
    curve = tuple(
        CurvePoint(
            candidates=n,
            probes=None,
            recall={k: round(float(recall_at(ranks[k], n).mean()), 6) for k in ks},
        )
        for n in grid
    )
    return replace(draft, candidates=candidates, curve=curve)


def _smallest(ranks_QK: IntArray, bootstrap: Bootstrap, target: float, low: int, limit: int) -> int:
    """Smallest C in [low, limit] whose lower bound meets the target; ``limit`` where none does."""
    high = max(low, limit)
    while low < high:
        middle = (low + high) // 2
        if bootstrap.interval(recall_at(ranks_QK, middle)).low >= target:
            high = middle
        else:
            low = middle + 1
    return low


def _publish(
    draft: Calibration, encoder: Encoder, shards: Sequence[IndexShard], queries: QuerySet, threads: int | None
) -> Calibration:
    """Measures the recall of the real search on queries that chose nothing; grows C while it falls short."""
    bound = nearest(shards, queries.xq_QD, max(_ks(draft.k)), excluded_QE=queries.excluded_QE).distance_QK
    bootstrap = Bootstrap(len(queries), draft.seed + 1)
    found: dict[int, Interval] = {}
    candidates = dict(draft.candidates)
    for k in _ks(draft.k):
        limit = _limit(draft, k)
        candidates[k] = max(candidates[k], *(candidates[smaller] for smaller in found), k)
        while True:
            searcher = Searcher(encoder, shards, replace(draft, candidates=candidates), threads=threads)
            found[k] = bootstrap.interval(_search_recall(searcher, queries, k, bound[:, k - 1]))
            if found[k].low >= draft.target or candidates[k] >= limit:
                break
            candidates[k] = min(limit, int(candidates[k] * _GROWTH) + 1)
    met = found[draft.k].low >= draft.target
    return replace(
        draft,
        met=met,
        candidates=candidates,
        ann_recall=found,
        reason="" if met else _shortfall(draft, found[draft.k]),
        next_bits=None if met else 2 * encoder.bits,
    )


def _shortfall(draft: Calibration, measured: Interval) -> str:
    return (
        f"with {draft.bits} bits and the whole budget of {draft.budget} candidates, recall@{draft.k} is "
        f"{measured.mean:.4f} with a lower bound of {measured.low:.4f}, below the target of {draft.target}"
    )


def _search_recall(searcher: Searcher, queries: QuerySet, k: int, bound_Q: Float32Array) -> FloatArray:
    """Share of the k results of each query that are at most as far as its exact k-th neighbour."""
    result = searcher.search(queries.xq_QD, k, exclude_ids=queries.exclude_ids)
    pairs = zip(result.distances, bound_Q.tolist(), strict=True)
    return np.array(
        [sum(distance <= bound for distance in row) / k for row, bound in pairs], dtype=np.float64
    )


def _catalog_queries(
    encoder: Encoder, shards: Sequence[IndexShard], max_queries: int
) -> tuple[QuerySet, QuerySet]:
    """Live rows that the encoder was not fitted on, by seeded order of ids: the same in any sharding."""
    live = [np.arange(s.n_rows) if s.alive_N is None else np.flatnonzero(s.alive_N) for s in shards]
    keys = [
        seeded_order(shard.ids if shard.alive_N is None else shard.ids.take(live[number]), encoder.seed)
        for number, shard in enumerate(shards)
    ]
    place_N = np.concatenate([to_place(number, rows) for number, rows in enumerate(live)])
    sample = query_sample(np.concatenate(keys), encoder.fit_threshold, max_queries=max_queries)
    return (
        _rows_as_queries(shards, place_N[sample.calibration_Q]),
        _rows_as_queries(shards, place_N[sample.verification_Q]),
    )


def _rows_as_queries(shards: Sequence[IndexShard], place_Q: IntArray) -> QuerySet:
    xq_QD = np.empty((len(place_Q), shards[0].vectors_ND.shape[1]), dtype=np.float32)
    for number, shard in enumerate(shards):
        here = np.flatnonzero((shard_of(place_Q) == number) & (place_Q != NOWHERE))
        xq_QD[here] = shard.vectors_ND[row_of(place_Q[here])]
    ids = tuple(ids_at(shards, place_Q).to_pylist())
    return QuerySet(xq_QD=xq_QD, excluded_QE=places_of(shards, ids), exclude_ids=ids)


def _given_queries(encoder: Encoder, queries: VectorArray) -> tuple[QuerySet, QuerySet]:
    check_queries(queries, encoder.d)
    calibration, verification = (
        QuerySet(
            xq_QD=np.ascontiguousarray(half, dtype=np.float32),
            excluded_QE=np.empty((len(half), 0), dtype=np.int64),
            exclude_ids=(None,) * len(half),
        )
        for half in (queries[0::2], queries[1::2])
    )
    return calibration, verification


def _limit(draft: Calibration, k: int) -> int:
    """The largest C for ``k``: the budget, and beyond the k it was set for its share per result."""
    return min(draft.n_live, max(k, draft.budget, draft.budget * k // draft.k))


def _ks(k: int) -> tuple[int, ...]:
    """The k that are reported and the one that was asked for, ascending."""
    return tuple(sorted({*REPORTED_K, k}))
