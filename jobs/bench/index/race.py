"""Ours and the peers on the same vectors and cores: builds, sweeps of search settings, then rounds.

1. Every build of a grid is made in a process of its own, and its searches are tried in another.
2. The point that races: it reaches the target recall, and the geometric mean of its batch and single rates is
   best. Peers are thus tuned on the very queries that they race on; ours is calibrated on rows of its own.
3. In each round everybody starts cold once and measures the chosen point; medians over rounds are reported.

Only one index is open at any time. An index whose build was beaten is removed.
"""

import math
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.bench.contender import Contender, Outcome, run
from jobs.bench.index.data_set import DataSet
from jobs.bench.index.grid import Peer, Settings
from jobs.bench.peers_environment import PeersEnvironment
from jobs.output import say

OURS = "ours"
_PEERS = "jobs.bench.peers.index"
_MEDIANS = (
    "qps_batch",
    "qps_single",
    "cpu_ms_batch",
    "cpu_ms_single",
    "hot_bytes",
    "heap_bytes",
    "file_bytes",
)
_DROPPED = ("qps_batch", "qps_single", "hot_bytes")
_OPTIONAL = (
    "build_cpu_s",
    "build_peak_bytes",
    "save_s",
    "fit_s",
    "calibrate_s",
    "build_and_calibrate_s",
    "refits",
    "calibration",
    "chosen",
)
_CURVE = (0.125, 0.25, 0.5, 0.75, 1.5, 2, 4, 8)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """What everybody runs on, and how thoroughly."""

    data: DataSet
    cores: int
    rounds: int
    k: int
    target: float
    tuning_s: float
    """Seconds for each rate of a sweep."""
    racing_s: float
    """Seconds for each rate of a round."""
    limit_s: float
    """For each build, and for each sweep."""
    work: Path


@dataclass(slots=True)
class Runner:
    """Somebody who races: how to start it, the point that was chosen, and what came of it."""

    name: str
    title: str
    module: str
    library: str
    python: str
    failure: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    installed_s: float = 0.0
    tried: list[Row] = field(default_factory=list)
    chosen: Row | None = None
    rounds: list[Outcome] = field(default_factory=list)


def our_runner(name: str, title: str) -> Runner:
    """Ours, or a variant of it."""
    return Runner(
        name=name,
        title=title,
        module="jobs.bench.index.ours",
        library="jobs.bench.index.ours",
        python=sys.executable,
    )


def peer_runner(peer: Peer, environment: PeersEnvironment | None) -> Runner:
    """A peer in its environment; None for one that runs with the Faiss that is installed here."""
    return Runner(
        name=peer.name,
        title=peer.title,
        module=f"{_PEERS}.measure",
        library=f"{_PEERS}.{peer.library}",
        python=(environment.python if environment else None) or sys.executable,
        failure=environment.failure if environment else "",
        versions=environment.versions if environment else {},
        installed_s=environment.made_s if environment else 0.0,
    )


def tune(race: Race, runner: Runner, peer: Peer) -> None:
    """Fills in ``tried`` and ``chosen`` from the peer's grid, and keeps the chosen build's index."""
    for number, build in enumerate(peer.builds):
        found = _built(race, runner, build, number)
        if found is None:
            continue
        limits = {"target": race.target, "limit_s": 0.8 * race.limit_s}
        points = _swept(race, runner, found, peer.searches, limits)
        if points:
            best = best_point(points, race.target)
            say(f"bench: {runner.name} {build}: {len(points)} searches tried, {_shown(best)}")
            _keep_if_better(race, runner, {**found, **best})
            if peer.first_that_reaches and best["recall"] >= race.target:
                break


def prepare_ours(race: Race, runner: Runner, build: Settings, *, with_curve: bool) -> None:
    """Builds ours, whose calibration chooses the point that races; other points only draw the curve."""
    found = _built(race, runner, build, 0)
    if found is not None:
        searches = [{}, *(_around(found["calibration"], race.k) if with_curve else ())]
        points = _swept(race, runner, found, searches, {"target": 2.0, "limit_s": 0.8 * race.limit_s})
        if points:
            runner.chosen = {**found, **points[0]}
            say(f"bench: {runner.name} {build}: as calibrated {_shown(points[0])}")


def run_round(race: Race, runner: Runner, label: str) -> None:
    """One cold start of the chosen point."""
    if runner.chosen is None:
        return
    asked = {"task": "race", "seconds": race.racing_s}
    asked |= {name: runner.chosen[name] for name in ("build", "folder")}
    asked["search"] = runner.chosen["settings"]
    outcome = _run(race, runner, asked)
    runner.rounds.append(outcome)
    said = f"failed: {outcome.failure}" if outcome.failure else _shown(outcome.report)
    say(f"bench: {label}: {runner.name}: {said}")


def best_point(points: Sequence[Row], target: float) -> Row:
    """The fastest point that reaches ``target``; if none does, the one with the highest recall."""
    reaching = [point for point in points if point["recall"] >= target]
    if not reaching:
        return max(points, key=lambda point: point["recall"])
    return max(reaching, key=_speed)


def row(race: Race, runner: Runner) -> Row:
    """The figures of one runner for the JSON object; None where there is none, and why in ``failure``."""
    reports = [outcome.report for outcome in runner.rounds if not outcome.failure]
    failures = [outcome.failure for outcome in runner.rounds if outcome.failure]
    chosen = runner.chosen or {}
    found: Row = {"build_s": chosen.get("build_s")}
    found |= {name: _median([report[name] for report in reports]) for name in _MEDIANS}
    recall = _median([report["recall"] for report in reports])
    disk = chosen.get("disk_bytes")
    dropped = [report["dropped"] for report in reports if report["dropped"] is not None]
    return {
        **found,
        f"ann_recall@{race.k}": recall,
        "reached": recall is not None and recall >= race.target,
        "disk_bytes_per_vector": disk / race.data.rows if disk else None,
        "hot_bytes_per_vector": found["hot_bytes"] / race.data.rows if found["hot_bytes"] else None,
        "dropped": {name: _median([one[name] for one in dropped]) for name in _DROPPED} if dropped else None,
        **{name: chosen[name] for name in _OPTIONAL if name in chosen},
        "title": runner.title,
        "settings": {"build": chosen.get("build"), "search": chosen.get("settings")},
        "rounds": [dict(report) for report in reports],
        "versions": dict(runner.versions),
        "installed_s": runner.installed_s,
        "tried": runner.tried,
        "failure": failures[0] if failures else ("" if runner.chosen else runner.failure),
    }


def _around(calibration: Mapping[str, Any], k: int) -> list[Settings]:
    """Less and more work than calibration chose: for the curve."""
    candidates, probes = (calibration[name].get(str(k)) for name in ("candidates", "probes"))
    if candidates is None:  # exact: nothing to vary
        return []
    found: list[Settings] = []
    for factor in _CURVE:
        point = {"candidates": max(k, round(candidates * factor))}
        found.append(point if probes is None else {**point, "probes": max(1, round(probes * factor))})
    return found


def _built(race: Race, runner: Runner, build: Settings, number: int) -> Row | None:
    """One build: its facts and its folder; None if it failed, which ``tried`` then says."""
    folder = race.work / "indexes" / f"{runner.name}-{number}"
    outcome = _run(race, runner, {"task": "build", "build": build, "folder": str(folder)})
    found = {"build": build, "folder": str(folder), **outcome.report}
    if outcome.failure:
        _failed(runner, found, outcome.failure)
        return None
    say(f"bench: {runner.name} {dict(build)}: built in {found['build_s']:.1f} s")
    return found


def _swept(
    race: Race, runner: Runner, found: Row, searches: Sequence[Settings], limits: Mapping[str, float]
) -> list[Row]:
    """The points of one build; none if the sweep failed, which ``tried`` then says."""
    asked = {"task": "search", "search": list(searches), "seconds": race.tuning_s, **limits}
    outcome = _run(race, runner, {**asked, "build": found["build"], "folder": found["folder"]})
    if outcome.failure:
        _failed(runner, found, outcome.failure)
        return []
    points: list[Row] = outcome.report["points"]
    runner.tried.append({**found, **outcome.report})
    return points


def _run(race: Race, runner: Runner, asked: Mapping[str, Any]) -> Outcome:
    settings = {
        **asked,
        "library": runner.library,
        "data": str(race.data.folder),
        "k": race.k,
        "threads": race.cores,
    }
    threads = str(race.cores)
    environment = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads}
    contender = Contender(
        name=runner.name,
        module=runner.module,
        settings=settings,
        python=runner.python,
        environment=environment,
        timeout_s=race.limit_s,
    )
    return run(contender, race.work)


def _keep_if_better(race: Race, runner: Runner, found: Row) -> None:
    """Makes ``found`` the chosen one if it beats what was chosen before, and removes the loser's index."""
    loser, before = found, runner.chosen
    if before is None or best_point([before, found], race.target) is found:
        runner.chosen, loser = found, before or {}
    if loser:
        shutil.rmtree(loser["folder"], ignore_errors=True)


def _failed(runner: Runner, found: Row, failure: str) -> None:
    say(f"bench: {runner.name} {found['build']}: {failure}")
    shutil.rmtree(found["folder"], ignore_errors=True)
    runner.tried.append({**found, "failure": failure})
    runner.failure = failure


def _speed(point: Row) -> float:
    return math.sqrt(point["qps_batch"] * point["qps_single"])


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _shown(point: Mapping[str, Any]) -> str:
    return (
        f"recall {point['recall']:.4f}, {point['qps_batch']:.0f} queries/s in a batch, "
        f"{point['qps_single']:.0f} one by one"
    )
