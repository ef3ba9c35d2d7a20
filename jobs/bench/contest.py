"""Ours, the ceiling and the peers on the same images and model, in rounds that follow each other closely.

1. Try each peer's settings on a few tars; the best of them races.
2. Race: in each round everybody runs once, so that a busy minute of the machine hits all of them.
3. One more run of each with memory sampled (sampling costs time, so its speed does not count), whose vectors
   are compared: a contender that does other work is not a peer.
4. If asked for, one more run of ours with its workers under cProfile.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.bench.agreement import compare_vectors
from jobs.bench.contender import Contender, Outcome, run
from jobs.bench.grid import Settings, ceiling_grid, dataloader_grid, ray_data_grid
from jobs.bench.image_sets import BenchModel, ImageSet
from jobs.bench.machine import load
from jobs.bench.peers_environment import PeersEnvironment
from jobs.bench.where import where_time_goes
from jobs.output import say

OURS, RAY_DATA, DATALOADER = "ours", "ray_data", "dataloader"
_PEERS = "jobs.bench.peers"
_TUNING_RUNS = 2  # the faster one counts: other work on the machine only ever slows down


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What is compared and how thoroughly; ``tune`` False takes the first settings of each grid."""

    images: ImageSet
    model: BenchModel
    cores: int
    rounds: int
    tuning_tars: int
    tune: bool
    profile: bool
    peers: PeersEnvironment
    work: Path
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Entry:
    """One contender with its settings and what its runs gave."""

    contender: Contender | None
    settings: Settings | None
    tried: list[dict[str, Any]]
    outcomes: list[Outcome] = field(default_factory=list)
    measured: Outcome | None = None
    failure: str = ""

    def rates(self) -> list[float | None]:
        return [outcome.images_per_s for outcome in self.outcomes]


def run_contest(contest: Contest) -> dict[str, Any]:
    """Runs it; the figures for the JSON object. A contender without a figure says why in ``failure``."""
    entries = _entries(contest)
    for number in range(1, contest.rounds + 1):
        for name, entry in entries.items():
            if entry.contender is not None:
                outcome = run(entry.contender, contest.work)
                entry.outcomes.append(outcome)
                _tell(f"round {number} of {contest.rounds}", name, outcome)
    kept = contest.work / "vectors"
    for name, entry in entries.items():
        if entry.contender is not None:
            entry.measured = run(_keeping(entry.contender, kept / name), contest.work, with_memory=True)
            _tell("memory", name, entry.measured)
    bare = [entries[name] for name in ceiling_grid(contest.cores)]
    ceiling = _best_of([entry.rates() for entry in bare])
    ours = entries[OURS].rates()
    return {
        "ratio_to_ceiling": _ratio(ours, ceiling),
        "ratio_to_ray_data": _ratio(ours, entries[RAY_DATA].rates()),
        "ratio_to_dataloader": _ratio(ours, entries[DATALOADER].rates()),
        "memory_ratio_to_ray_data": _memory_ratio(entries[OURS], entries[RAY_DATA]),
        "contenders": {name: _figures(entry) for name, entry in entries.items()},
        "where_time_goes": where_time_goes(
            entries[OURS].outcomes, [entry.outcomes for entry in bare], contest.cores
        ),
        "profile": _profile(contest) if contest.profile else None,
        "agreement": compare_vectors(kept, OURS, (RAY_DATA, DATALOADER)),
        "load_at_end": load(),
    }


def _entries(contest: Contest) -> dict[str, _Entry]:
    entries = {OURS: _Entry(contender=_ours(contest), settings={}, tried=[])}
    grids = {
        **{name: ("ceiling", grid) for name, grid in ceiling_grid(contest.cores).items()},
        RAY_DATA: ("ray_data", ray_data_grid(contest.cores)),
        DATALOADER: ("dataloader", dataloader_grid(contest.cores)),
    }
    for name, (script, grid) in grids.items():
        entries[name] = _tuned(contest, name, script, grid)
    return entries


def _profile(contest: Contest) -> list[dict[str, Any]]:
    """The functions of our workers that took the most time of their own."""
    outcome = run(_ours(contest, profile=True), contest.work)
    _tell("profile", OURS, outcome)
    found: list[dict[str, Any]] = outcome.report.get("profile", [])
    return found


def _ours(contest: Contest, *, profile: bool = False) -> Contender:
    config = {
        **contest.config,
        "source": contest.images.source,
        "model": str(contest.model.path),
        "read": contest.images.read,
    }
    environment = {"BITSIEVE_CACHE": str(contest.work / "cache")}
    settings = {"config": config, "profile": profile}
    return Contender(name=OURS, module="jobs.bench.ours", settings=settings, environment=environment)


def _tuned(contest: Contest, name: str, script: str, grid: Sequence[Settings]) -> _Entry:
    """The contender with the best settings of its grid."""
    is_peer = script != "ceiling"
    if is_peer and contest.peers.python is None:
        return _Entry(contender=None, settings=None, tried=[], failure=contest.peers.failure)
    tried: list[dict[str, Any]] = []
    part = contest.images.first(contest.tuning_tars)
    for settings in grid if contest.tune else ():
        contender = _peer(contest, name, script, part, settings)
        outcomes = [run(contender, contest.work) for _ in range(_TUNING_RUNS)]
        best_run = max(outcomes, key=lambda outcome: outcome.images_per_s or 0.0)
        _tell("settings", f"{name} {dict(settings)}", best_run)
        tried.append(
            {"settings": settings, "images_per_s": best_run.images_per_s, "failure": best_run.failure}
        )
    best: Settings = max(tried, key=_rate_of)["settings"] if tried else grid[0]
    contender = _peer(contest, name, script, contest.images, best)
    return _Entry(contender=contender, settings=best, tried=tried)


def _rate_of(tried: Mapping[str, Any]) -> float:
    return tried["images_per_s"] or 0.0


def _peer(contest: Contest, name: str, script: str, images: ImageSet, settings: Settings) -> Contender:
    task = {
        **contest.model.for_peers(),
        **settings,
        "tars": [str(tar) for tar in images.tars],
        "n_images": images.n_images,
        "cores": contest.cores,
    }
    module = f"{_PEERS}.{script}"
    if script == "ceiling" or contest.peers.python is None:
        return Contender(name=name, module=module, settings=task)
    return Contender(name=name, module=module, settings=task, python=contest.peers.python)


def _keeping(contender: Contender, folder: Path) -> Contender:
    return Contender(
        name=contender.name,
        module=contender.module,
        settings={**contender.settings, "keep": str(folder)},
        python=contender.python,
        environment=contender.environment,
    )


def _figures(entry: _Entry) -> dict[str, Any]:
    rates = [rate for rate in entry.rates() if rate is not None]
    memory = entry.measured.memory if entry.measured is not None else None
    failures = [outcome.failure for outcome in entry.outcomes if outcome.failure]
    return {
        "images_per_s": statistics.median(rates) if rates else None,
        "rounds": entry.rates(),
        "wall_s": [outcome.wall_s for outcome in entry.outcomes],
        "settings": entry.settings,
        "tried": entry.tried,
        "memory": asdict(memory) if memory is not None else None,
        "reports": [dict(outcome.report) for outcome in entry.outcomes],
        "failure": entry.failure or (failures[0] if failures else ""),
    }


def _ratio(ours: Sequence[float | None], other: Sequence[float | None]) -> float | None:
    """The median over rounds of ours / other, of the same round."""
    pairs = [mine / theirs for mine, theirs in zip(ours, other, strict=False) if mine and theirs]
    return statistics.median(pairs) if pairs else None


def _best_of(rates: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Of each round the fastest."""
    return [max(one, key=lambda rate: rate or 0.0) for one in zip(*rates, strict=True)]


def _memory_ratio(ours: _Entry, other: _Entry) -> float | None:
    mine, theirs = (entry.measured.memory if entry.measured else None for entry in (ours, other))
    if mine is None or theirs is None or theirs.working_bytes <= 0:
        return None
    return mine.working_bytes / theirs.working_bytes


def _tell(what: str, name: str, outcome: Outcome) -> None:
    rate = outcome.images_per_s
    said = f"{rate:.0f} images/s" if rate is not None else f"failed: {outcome.failure}"
    say(f"bench: {what}: {name}: {said} ({outcome.wall_s:.0f} s in all)")
