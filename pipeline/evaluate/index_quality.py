"""How good the index of a snapshot is: recall with its uncertainty, what it costs, and where it loses.

Everything is measured through the search that users call. A returned image counts if its exact distance is
at most that of the k-th exact neighbour, so that ties are nobody's loss.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.evaluate.index_facts import (
    BitFacts,
    ListFacts,
    MemoryFacts,
    bit_facts,
    list_facts,
    memory_facts,
)
from pipeline.evaluate.index_queries import FreshQueries
from pipeline.index.arrays import BoolArray, Float32Array, FloatArray
from pipeline.index.bootstrap import Bootstrap, Interval
from pipeline.index.search import Searcher
from pipeline.index.shard import IndexShard

CURVE = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
SELECTIVITIES = (0.5, 0.05, 0.005)
_FILTERED_QUERIES = 200
_SELF_QUERIES = 64
_BATCH = 1_000
_SINGLES = 100
_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallPoint:
    """Mean recall at each k with ``candidates`` candidates."""

    candidates: int
    recall: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePoint:
    """Mean recall at each k with ``probes`` lists looked into and the calibrated candidates."""

    probes: int
    recall: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Where recall at ``k`` goes: to the code and its C candidates, and to lists not looked into."""

    k: int
    code: float
    lists: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FilteredRecall:
    """Recall at ``k`` among a random share of the images, over queries that have ``k`` of them to find."""

    selectivity: float
    n_matching: int
    method: str
    k: int
    recall: Interval | None
    """None if no query has."""
    n_excluded: int
    """Queries that have fewer to find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Queries a second on this machine, best of three; a single query's latency at two quantiles."""

    batch_size: int
    batch_per_s: float
    single_per_s: float
    single_p50_ms: float
    single_p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfQueries:
    """How many of an index shard's own rows find themselves."""

    asked: int
    found: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexQuality:
    """Everything that `evaluate index` says; ``recall`` by k, but for those in ``too_few``."""

    n_vectors: int
    n_queries: int
    method: str
    candidates: Mapping[int, int | None]
    recall: Mapping[int, Interval]
    too_few: tuple[int, ...]
    """What was asked for as k and has not as many images to find."""
    curve: tuple[RecallPoint, ...]
    probe_curve: tuple[ProbePoint, ...]
    """Empty in flat form."""
    lost: tuple[Lost, ...]
    """Empty for exact search, which loses nothing."""
    filters: tuple[FilteredRecall, ...]
    self_queries: tuple[SelfQueries, ...]
    speed: Speed | None
    bits: BitFacts | None
    lists: ListFacts | None
    memory: MemoryFacts

    def to_json(self) -> dict[str, Any]:
        """As in docs/commands.md."""
        return {
            "n_vectors": self.n_vectors,
            "n_queries": self.n_queries,
            "method": self.method,
            "candidates": {str(k): n for k, n in self.candidates.items()},
            **{f"ann_recall@{k}": asdict(found) for k, found in self.recall.items()},
            "too_few": list(self.too_few),
            "curve": [
                {"candidates": point.candidates, **{f"ann_recall@{k}": r for k, r in point.recall.items()}}
                for point in self.curve
            ],
            "probe_curve": [
                {"probes": point.probes, **{f"ann_recall@{k}": r for k, r in point.recall.items()}}
                for point in self.probe_curve
            ],
            "lost": [asdict(one) for one in self.lost],
            "filters": [
                {
                    "selectivity": one.selectivity,
                    "n_matching": one.n_matching,
                    "method": one.method,
                    f"ann_recall@{one.k}": None if one.recall is None else asdict(one.recall),
                    "n_excluded": one.n_excluded,
                }
                for one in self.filters
            ],
            "self_queries": [asdict(one) for one in self.self_queries],
            "speed": None if self.speed is None else asdict(self.speed),
            "bits": None if self.bits is None else asdict(self.bits),
            "lists": None if self.lists is None else asdict(self.lists),
            "memory": asdict(self.memory),
        }


def evaluate_index(
    searcher: Searcher,
    queries: FreshQueries,
    truth_QK: Float32Array,
    ks: Sequence[int],
    narrow: Callable[[Searcher, Callable[[IndexShard], BoolArray]], Searcher],
    clock: Callable[[], float] = time.perf_counter,
) -> IndexQuality:
    """Measures an opened index.

    Args:
        searcher: with the calibration it was published with.
        queries: fresh ones, rows of the index.
        truth_QK: distances of their exact neighbours, at least max(ks) of them.
        ks: for which recall is wanted, ascending; of fewer images than k there is no recall, nor without
            queries.
        narrow: the search over the rows that a function of a shard keeps, as a filter makes it.
        clock: seconds, for the speed.
    """
    bootstrap = Bootstrap(len(queries), 0 if searcher.encoder is None else searcher.encoder.seed)
    recall, candidates, method = {}, {}, "exact"
    too_few = tuple(k for k in ks if k >= searcher.n_live)  # a query is no neighbour of its own
    ks = [k for k in ks if k not in too_few]
    for k in ks if len(queries) else ():
        result = searcher.search(queries.xq_QD, k, exclude_ids=queries.ids)
        recall[k] = bootstrap.interval(_recall(result.distances, truth_QK, k))
        candidates[k] = result.candidates
        method = result.method if result.method != "exact" else method
    return IndexQuality(
        n_vectors=searcher.n_live,
        n_queries=len(queries),
        method=method,
        candidates=candidates,
        recall=recall,
        too_few=too_few,
        curve=_curve(searcher, queries, truth_QK, ks, candidates),
        probe_curve=_probe_curve(searcher, queries, truth_QK, ks),
        lost=_lost(searcher, queries, truth_QK, candidates),
        filters=tuple(
            _filtered(searcher, queries, share, narrow) for share in (SELECTIVITIES if len(queries) else ())
        ),
        self_queries=tuple(_finds_itself(searcher, number) for number in range(len(searcher.shards))),
        speed=_speed(searcher, queries, clock),
        bits=bit_facts(searcher),
        lists=list_facts(searcher),
        memory=memory_facts(searcher),
    )


def _recall(distances: Sequence[Sequence[float]], truth_QK: Float32Array, k: int) -> FloatArray:
    """Share of the k nearest that each query found; there are k to find."""
    found_Q = [
        sum(distance <= truth_K[k - 1] for distance in found)
        for found, truth_K in zip(distances, truth_QK, strict=True)
    ]
    return np.minimum(np.array(found_Q, dtype=np.float64) / k, 1.0)


def _curve(
    searcher: Searcher,
    queries: FreshQueries,
    truth_QK: Float32Array,
    ks: Sequence[int],
    chosen: Mapping[int, int | None],
) -> tuple[RecallPoint, ...]:
    """Mean recall with more and fewer candidates than were chosen; nothing for exact search."""
    in_use = {n for n in chosen.values() if n is not None}
    if searcher.encoder is None or not in_use:
        return ()
    most = min(searcher.n_live, 4 * max(in_use))
    points = []
    for n in sorted({n for n in CURVE if n <= most} | in_use):
        recall = {}
        for k in (k for k in ks if k <= n):
            found = searcher.search(queries.xq_QD, k, candidates=n, exclude_ids=queries.ids)
            recall[k] = round(float(_recall(found.distances, truth_QK, k).mean()), 6)
        points.append(RecallPoint(candidates=n, recall=recall))
    return tuple(points)


def _probe_curve(
    searcher: Searcher, queries: FreshQueries, truth_QK: Float32Array, ks: Sequence[int]
) -> tuple[ProbePoint, ...]:
    """Mean recall with fewer and more lists than were chosen."""
    n_lists = _n_lists(searcher)
    chosen = {0 if searcher.calibration is None else searcher.calibration.probes_for(k) or 0 for k in ks} - {
        0
    }
    if not n_lists or not chosen or not len(queries):
        return ()
    points = []
    for n in sorted({2**i for i in range(n_lists.bit_length())} | chosen | {n_lists}):
        if n <= n_lists and n <= 8 * max(chosen):
            found = {k: searcher.search(queries.xq_QD, k, probes=n, exclude_ids=queries.ids) for k in ks}
            recall = {
                k: round(float(_recall(one.distances, truth_QK, k).mean()), 6) for k, one in found.items()
            }
            points.append(ProbePoint(probes=n, recall=recall))
    return tuple(points)


def _lost(
    searcher: Searcher,
    queries: FreshQueries,
    truth_QK: Float32Array,
    candidates: Mapping[int, int | None],
) -> tuple[Lost, ...]:
    """What is missing with all lists looked into is the code's loss, what else is missing the lists'."""
    n_lists, lost = _n_lists(searcher), []
    for k in (k for k, n in candidates.items() if n is not None):
        as_it_is = searcher.search(queries.xq_QD, k, exclude_ids=queries.ids)
        everywhere = as_it_is
        if n_lists:
            everywhere = searcher.search(queries.xq_QD, k, probes=n_lists, exclude_ids=queries.ids)
        recall, full = (float(_recall(r.distances, truth_QK, k).mean()) for r in (as_it_is, everywhere))
        lost.append(Lost(k=k, code=round(1 - full, 6), lists=round(full - recall, 6)))
    return tuple(lost)


def _n_lists(searcher: Searcher) -> int:
    return 0 if searcher.encoder is None else searcher.encoder.n_lists or 0


def _filtered(
    searcher: Searcher,
    queries: FreshQueries,
    selectivity: float,
    narrow: Callable[[Searcher, Callable[[IndexShard], BoolArray]], Searcher],
    k: int = 10,
) -> FilteredRecall:
    """Recall among a random share of the rows; the same rows every time."""
    n = min(len(queries), _FILTERED_QUERIES)
    xq_QD, ids = queries.xq_QD[:n], queries.ids[:n]
    numbers = {id(shard): number for number, shard in enumerate(searcher.shards)}

    def keep(shard: IndexShard) -> BoolArray:
        rng = np.random.default_rng([numbers[id(shard)], int(selectivity * 1_000)])
        return rng.random(shard.n_rows) < selectivity

    some = narrow(searcher, keep)
    result = some.search(xq_QD, k, exclude_ids=ids)
    truth = some.search(xq_QD, k, exact=True, exclude_ids=ids).distances
    full = [query for query in range(n) if len(truth[query]) == k]
    recall = None
    if full:
        truth_QK = np.array([truth[query] for query in full], dtype=np.float32)
        recall_Q = _recall([result.distances[query] for query in full], truth_QK, k)
        recall = Bootstrap(len(full), 0).interval(recall_Q)
    return FilteredRecall(
        selectivity=selectivity,
        n_matching=some.n_live,
        method=result.method,
        k=k,
        recall=recall,
        n_excluded=n - len(full),
    )


def _finds_itself(searcher: Searcher, number: int) -> SelfQueries:
    """Rows spread over a shard as queries: each finds itself, or a copy of itself, at distance zero."""
    shard = searcher.shards[number]
    rows = np.arange(shard.n_rows) if shard.alive_N is None else np.flatnonzero(shard.alive_N)
    rows = rows[np.unique(np.linspace(0, max(len(rows) - 1, 0), _SELF_QUERIES).astype(np.int64))[: len(rows)]]
    xq_QD = shard.vectors_ND[rows].astype(np.float32)
    ids = shard.ids.take(pa.array(rows)).to_pylist()
    result = searcher.search(xq_QD, 1)
    matches = zip(ids, result.ids, result.distances, strict=True)
    found = sum(bool(got) and (image_id in got or far[0] == 0) for image_id, got, far in matches)
    return SelfQueries(asked=len(rows), found=found)


def _speed(
    searcher: Searcher, queries: FreshQueries, clock: Callable[[], float], k: int = 10
) -> Speed | None:
    """None where there is nothing to ask."""
    if len(queries) == 0:
        return None
    xq_QD = np.resize(queries.xq_QD, (_BATCH, queries.xq_QD.shape[1]))
    batch_s = []
    for _ in range(_ROUNDS):
        begun = clock()
        searcher.search(xq_QD, k)
        batch_s.append(clock() - begun)
    single_s = []
    for query in range(_SINGLES):
        begun = clock()
        searcher.search(xq_QD[query : query + 1], k)
        single_s.append(clock() - begun)
    p50_s, p99_s = np.quantile(single_s, [0.5, 0.99])
    return Speed(
        batch_size=_BATCH,
        batch_per_s=round(_BATCH / min(batch_s), 1),
        single_per_s=round(_SINGLES / sum(single_s), 1),
        single_p50_ms=round(1_000 * float(p50_s), 3),
        single_p99_ms=round(1_000 * float(p99_s), 3),
    )
