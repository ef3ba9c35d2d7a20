"""Chooses how many candidates, and in lists form how many probes, give the recall that is asked for.

In lists form many pairs of probes and candidates reach the target: few probes miss neighbours, which no
number of candidates mends; many make the scan long. For each k the pair is taken that costs least, where

    cost = codes scanned + 30 * C

in units of one code compared: 30 because re-ranking a candidate reads a whole vector at a random place, and
comparing a code reads a few words in sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.index.arrays import IntArray
from pipeline.index.bootstrap import Bootstrap
from pipeline.index.calibration import CurvePoint
from pipeline.index.encoder import Encoder
from pipeline.index.exact import nearest
from pipeline.index.levels import ProbeLevels
from pipeline.index.queries import QuerySet
from pipeline.index.recall import probed_ranks, recall_at, sieve_ranks
from pipeline.index.shard import IndexShard

RERANK_COST = 30.0
_GRID = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
_LEVELS_BEYOND = 4
"""Probes are tried up to so many times those at which few enough neighbours lie in lists not looked into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The target for the lower bound of recall, and the largest C for each k, ascending."""

    target: float
    limits: dict[int, int]
    n_live: int

    @property
    def ks(self) -> tuple[int, ...]:
        """The k that are calibrated."""
        return tuple(self.limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """C and probes (none in flat form) for each k, and the curve they were read from."""

    candidates: dict[int, int] = field(default_factory=dict)
    probes: dict[int, int] = field(default_factory=dict)
    curve: tuple[CurvePoint, ...] = ()


def choose_flat(
    asked: Asked,
    encoder: Encoder,
    shards: Sequence[IndexShard],
    queries: QuerySet,
    bootstrap: Bootstrap,
    *,
    threads: int | None = None,
) -> Chosen:
    """For every k the smallest C whose lower bound meets the target; the limit where none does."""
    ranks = sieve_ranks(shards, queries, encoder.encode(queries.xq_QD), asked.ks, threads=threads)
    candidates: dict[int, int] = {}
    for k in asked.ks:
        at_least = max(k, *candidates.values(), 1)
        candidates[k] = smallest(ranks[k], bootstrap, asked.target, at_least, asked.limits[k])
    curve = [_point(ranks, n, None) for n in _grid(asked, candidates)]
    return Chosen(candidates=candidates, curve=tuple(curve))


def choose_lists(
    asked: Asked,
    encoder: Encoder,
    shards: Sequence[IndexShard],
    queries: QuerySet,
    bootstrap: Bootstrap,
    *,
    threads: int | None = None,
) -> Chosen:
    """For every k the cheapest pair of probes (those of `levels`) and C whose lower bound meets the target.

    Neither falls with k. Where no pair within the limit does, the limit and the most probes that were tried.
    """
    assert encoder.centroids_LD is not None  # noqa: S101 (for the type checker)
    truth = nearest(shards, queries.xq_QD, max(asked.ks) + 1, excluded_QE=queries.excluded_QE)
    levels = ProbeLevels(queries.xq_QD, encoder.centroids_LD)
    enough = 1
    for k in asked.ks:
        level_QK = levels.reached(shards, truth, k)
        reaching = [
            probes
            for g, probes in enumerate(levels.probes)
            if bootstrap.interval((level_QK <= g).mean(axis=1)).low >= asked.target
        ]
        enough = max(enough, *reaching[:1], *([levels.probes[-1]] if not reaching else []))
    levels.up_to(_LEVELS_BEYOND * enough)
    codes_QW = encoder.encode(queries.xq_QD)
    ranks = probed_ranks(shards, queries, codes_QW, asked.ks, levels, truth=truth, threads=threads)
    mean_rows = levels.mean_rows(shards)
    candidates: dict[int, int] = {}
    probes: dict[int, int] = {}
    for k in asked.ks:
        least, limit = max(k, *candidates.values(), 1), asked.limits[k]
        best = None
        for g, n_probes in enumerate(levels.probes):
            if n_probes < max(probes.values(), default=1):
                continue
            if best is not None and mean_rows[g] + RERANK_COST * least >= best[0]:
                break
            if bootstrap.interval(recall_at(ranks[k][g], max(least, limit))).low < asked.target:
                continue
            n = smallest(ranks[k][g], bootstrap, asked.target, least, limit)
            cost = mean_rows[g] + RERANK_COST * n
            if best is None or cost < best[0]:
                best = (cost, n, n_probes)
        _, candidates[k], probes[k] = best or (0.0, max(least, limit), levels.probes[-1])
    curve = [
        _point({k: ranks[k][g] for k in asked.ks}, n, n_probes)
        for g, n_probes in enumerate(levels.probes)
        for n in _grid(asked, candidates)
    ]
    return Chosen(candidates=candidates, probes=probes, curve=tuple(curve))


def smallest(ranks_QK: IntArray, bootstrap: Bootstrap, target: float, low: int, limit: int) -> int:
    """Smallest C in [low, limit] whose lower bound meets the target; ``limit`` where none does."""
    high = max(low, limit)
    while low < high:
        middle = (low + high) // 2
        if bootstrap.interval(recall_at(ranks_QK, middle)).low >= target:
            high = middle
        else:
            low = middle + 1
    return low


def _grid(asked: Asked, candidates: dict[int, int]) -> list[int]:
    return sorted({n for n in _GRID if n <= asked.n_live} | set(candidates.values()))


def _point(ranks: Mapping[int, IntArray], n: int, n_probes: int | None) -> CurvePoint:
    recall = {k: round(float(recall_at(ranks_QK, n).mean()), 6) for k, ranks_QK in ranks.items()}
    return CurvePoint(candidates=n, probes=n_probes, recall=recall)
