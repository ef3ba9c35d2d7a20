"""Finds how many candidates give the recall that was asked for, and measures the recall that is published.

1. Draw two disjoint seeded sets of live rows as queries, none of which the encoder was fitted on (or split
   the query vectors that were given). A catalog row is never its own neighbour: it is removed by id, and
   takes one of the C places.
2. Calibration set: recall at every C, and in lists form at every number of probes, from one pass (`recall`);
   the cheapest whose lower bound meets the target is taken (`choose`).
3. Verification set: the recall of the real `Searcher.search` against exact search. If chance was kinder to
   the first set and the lower bound falls short here, C and probes grow by a tenth and are measured again,
   up to the budget.
4. The published figure is the last measurement. If it falls short at the budget, the answer says so and how
   many bits to fit next; the caller fits, builds and calibrates again, at most three times.
5. The same search on 200 of those queries over a random half, tenth, hundredth and half hundredth of the
   rows, as a filter leaves them: C grows there until the recall is met, for such searches only.

Under 1,000 live rows nothing is measured: search is exact there and its recall is 1. The same holds up to
20,000 rows where the catalog has too few rows outside the fit sample to prove the target.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

import numpy as np

from pipeline.errors import DataCorrupt, UsageError
from pipeline.index.arrays import Float32Array, FloatArray, KeyArray, VectorArray
from pipeline.index.bootstrap import Bootstrap, Interval, queries_needed
from pipeline.index.calibration import GATHERED_ROWS, REPORTED_K, Calibration, FilteredPoint
from pipeline.index.choose import Asked, choose_flat, choose_lists
from pipeline.index.encoder import Encoder
from pipeline.index.exact import nearest
from pipeline.index.order import NOWHERE
from pipeline.index.queries import QuerySet, catalog_queries, given_queries, keys_of, share_of
from pipeline.index.sample import MAX_QUERIES
from pipeline.index.search import Searcher
from pipeline.index.shard import IndexShard

EXACT_BELOW = 1_000
CHEAP_BELOW = 20_000
"""Up to here exact search costs a millisecond or two: better than a recall nobody can prove."""
MAX_REFITS = 3
SELECTIVITIES = (0.5, 0.1, 0.01, 0.005)
_FILTERED_QUERIES = 200
_ALL_FOUND = Interval(mean=1.0, low=1.0, high=1.0)
_SELF_QUERIES = 8
_ALL_BUT_A_COPY = 1e-3
"""Squared distance, a cosine of .9995."""
_GROWTH = 1.1
_MOST_PROBES = 4
_Step = Callable[[], None]
Advance = Callable[[int], None]  # steps done


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
    advance: Advance | None = None,
) -> Calibration:
    """Calibrates a candidate snapshot. Deterministic; rows in other shards, or more threads, change nothing.

    Args:
        encoder: its seed draws queries and resamples; None only below 1,000 live rows.
        shards: all index shards of the candidate, with their live rows.
        settings: target, k, budget.
        queries: unit vectors of real queries instead of catalog rows. Every second one calibrates, the others
            verify; none of them is taken for a row of the catalog.
        threads: of the Hamming scans.
        advance: called after each of ``n_steps``: the choice, then each k and each filter that is measured.
    """
    settings = settings or CalibrationSettings()
    n_live = sum(shard.n_live for shard in shards)
    if n_live < EXACT_BELOW:
        few = f"{n_live} live rows are fewer than {EXACT_BELOW}: every search compares all of them"
        return _exact(encoder, settings, n_live, few, given=queries is not None)
    if encoder is None:
        raise UsageError(f"{n_live} live rows need an encoder to be calibrated, not exact search")
    keys = keys_of(shards, encoder.seed)
    max_queries = max(settings.max_queries, queries_needed(settings.target))
    calibration, verification = (
        catalog_queries(shards, keys, encoder.fit_threshold, max_queries)
        if queries is None
        else given_queries(encoder, queries)
    )
    unproven = _too_few_queries(settings.target, len(calibration), len(verification))
    draft = _exact(encoder, settings, n_live, unproven, given=queries is not None)
    if unproven and queries is None and n_live < CHEAP_BELOW:
        return draft
    draft = replace(
        draft, method="hamming", met=False, n_calibration=len(calibration), n_verification=len(verification)
    )
    if unproven:
        return _unmeasured(draft, encoder)
    asked = Asked(
        target=settings.target, limits={k: _limit(draft, k) for k in _ks(settings.k)}, n_live=n_live
    )
    choose = choose_flat if draft.form == "flat" else choose_lists
    bootstrap = Bootstrap(len(calibration), draft.seed)
    step = _stepping(advance)
    chosen = choose(asked, encoder, shards, calibration, bootstrap, threads=threads)
    step()
    draft = replace(draft, candidates=chosen.candidates, probes=chosen.probes, curve=chosen.curve)
    check_self_queries(Searcher(encoder, shards, draft, threads=threads), draft.budget)
    draft = _publish(draft, encoder, shards, verification, threads, step)
    return replace(draft, filtered=_filtered(draft, encoder, shards, keys, verification, threads, step))


def n_steps(settings: CalibrationSettings) -> int:
    """How many steps ``calibrate`` takes where it measures at all."""
    return 1 + len(_ks(settings.k)) + len(SELECTIVITIES)


def _stepping(advance: Advance | None) -> _Step:
    done = count(1)
    return lambda: advance(next(done)) if advance is not None else None


def check_self_queries(searcher: Searcher, budget: int) -> None:
    """Searches for a few stored vectors of every index shard: each must find itself.

    C is the whole budget. An image that is all but a copy may have the same code and a smaller id, and so
    take the place of the row: that counts too.

    Raises:
        DataCorrupt: one does not; codes, vectors and lists are not of one build.
    """
    for number, shard in enumerate(searcher.shards):
        rows = np.arange(shard.n_rows) if shard.alive_N is None else np.flatnonzero(shard.alive_N)
        rows = rows[np.unique(np.linspace(0, max(len(rows) - 1, 0), _SELF_QUERIES).astype(int))[: len(rows)]]
        if len(rows) == 0:
            continue
        found = searcher.search(shard.vectors_ND[rows], 1, candidates=budget)
        pairs = zip(rows.tolist(), found.distances, strict=True)
        lost = [row for row, near in pairs if not near or near[0] > _ALL_BUT_A_COPY]
        if lost:
            raise DataCorrupt(
                f"index shard {number}: {len(lost)} of {len(rows)} rows do not find themselves "
                f"(first: row {lost[0]}): its files are not of one build",
                fix="build the index shards anew with --refit",
            )


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
        filtered=(),
        ann_recall=dict.fromkeys(_ks(settings.k), _ALL_FOUND),
    )


def _too_few_queries(target: float, n_calibration: int, n_verification: int) -> str:
    needed = queries_needed(target)
    if min(n_calibration, n_verification) >= needed:
        return ""
    return (
        f"{n_calibration} calibration and {n_verification} verification queries cannot show a recall of "
        f"{target}: each set needs at least {needed}"
    )


def _unmeasured(draft: Calibration, encoder: Encoder) -> Calibration:
    """Recall counts as 0, and C is the whole budget, of all lists, so that a search still works."""
    return replace(
        draft,
        probes={} if encoder.n_lists is None else dict.fromkeys(_ks(draft.k), encoder.n_lists),
        candidates={k: max(draft.budget, k) for k in _ks(draft.k)},
        ann_recall={k: Interval(mean=0.0, low=0.0, high=1.0) for k in _ks(draft.k)},
    )


def _publish(
    draft: Calibration,
    encoder: Encoder,
    shards: Sequence[IndexShard],
    queries: QuerySet,
    threads: int | None,
    step: _Step,
) -> Calibration:
    """Measures the recall of the real search on queries that chose nothing; grows its cost until it suffices.

    Probes grow to at most four times those that were chosen: what they miss then, bits have to mend.
    """
    bound = nearest(shards, queries.xq_QD, max(_ks(draft.k)), excluded_QE=queries.excluded_QE).distance_QK
    bootstrap = Bootstrap(len(queries), draft.seed + 1)
    found: dict[int, Interval] = {}
    candidates, probes = dict(draft.candidates), dict(draft.probes)
    for k in _ks(draft.k):
        limit = _limit(draft, k)
        candidates[k] = max(candidates[k], *(candidates[smaller] for smaller in found), k)
        most = min(encoder.n_lists or 1, _MOST_PROBES * probes.get(k, 1))
        if probes:
            probes[k] = max(probes[k], *(probes[smaller] for smaller in found), 1)
        while True:
            point = replace(draft, candidates=candidates, probes=probes)
            searcher = Searcher(encoder, shards, point, threads=threads)
            found[k] = bootstrap.interval(search_recall(searcher, queries, k, bound[:, k - 1], candidates[k]))
            spent = candidates[k] >= limit and probes.get(k, most) >= most
            if found[k].low >= draft.target or spent:
                break
            candidates[k] = max(candidates[k], min(limit, int(candidates[k] * _GROWTH) + 1))
            if probes:
                probes[k] = max(probes[k], min(most, int(probes[k] * _GROWTH) + 1))
        step()
    met = found[draft.k].low >= draft.target
    return replace(
        draft,
        met=met,
        candidates=candidates,
        probes=probes,
        ann_recall=found,
        reason="" if met else _shortfall(replace(draft, probes=probes), found[draft.k]),
        next_bits=None if met else 2 * encoder.bits,
    )


def _filtered(
    point: Calibration,
    encoder: Encoder,
    shards: Sequence[IndexShard],
    keys: Sequence[KeyArray],
    queries: QuerySet,
    threads: int | None,
    step: _Step,
) -> tuple[FilteredPoint, ...]:
    """C and recall at k where a filter leaves a random share of the rows, through the real search.

    C starts from that of the larger share and doubles until the mean recall meets the target or C the budget;
    200 queries cannot prove a lower bound.
    """
    queries = queries.first(_FILTERED_QUERIES)
    bootstrap = Bootstrap(len(queries), point.seed + 2)
    n, found = point.candidates[point.k], []
    for share in SELECTIVITIES:
        fewer = share_of(shards, keys, share)
        n_left = sum(shard.n_live for shard in fewer)
        if n_left <= GATHERED_ROWS:
            found.append(FilteredPoint(share=share, candidates=None, recall=_ALL_FOUND))
            step()
            continue
        nearby = nearest(fewer, queries.xq_QD, point.k, excluded_QE=queries.excluded_QE)
        bound = nearby.distance_QK[:, point.k - 1]
        searcher = Searcher(encoder, fewer, point, threads=threads)
        while True:
            recall = bootstrap.interval(search_recall(searcher, queries, point.k, bound, n))
            if recall.mean >= point.target or n >= _limit(point, point.k):
                break
            n = min(2 * n, _limit(point, point.k))
        found.append(FilteredPoint(share=share, candidates=n, recall=recall))
        step()
    return tuple(found)


def _shortfall(draft: Calibration, measured: Interval) -> str:
    return (
        f"with {draft.bits} bits and the whole budget of {draft.budget} candidates"
        f"{f' from {draft.probes[draft.k]} lists' if draft.probes else ''}, recall@{draft.k} is "
        f"{measured.mean:.4f} with a lower bound of {measured.low:.4f}, below the target of {draft.target}"
    )


def search_recall(
    searcher: Searcher, queries: QuerySet, k: int, bound_Q: Float32Array, candidates: int
) -> FloatArray:
    """Share of the k results of each query that are at most as far as its exact k-th neighbour."""
    candidates = max(k, candidates - queries.own_places)
    found = searcher.search_places(
        queries.xq_QD, k, candidates=candidates, excluded_QE=queries.excluded_QE
    ).neighbours
    is_near_QK = (found.distance_QK <= bound_Q[:, None]) & (found.place_QK != NOWHERE)
    recall_Q: FloatArray = is_near_QK.sum(axis=1) / k
    return recall_Q


def _limit(draft: Calibration, k: int) -> int:
    """The largest C for ``k``: the budget, and beyond the k it was set for its share per result."""
    return min(draft.n_live, max(k, draft.budget, draft.budget * k // draft.k))


def _ks(k: int) -> tuple[int, ...]:
    """The k that are reported and the one that was asked for, ascending."""
    return tuple(sorted({*REPORTED_K, k}))
