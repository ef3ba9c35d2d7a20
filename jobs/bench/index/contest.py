"""Who races in ``bench index``, and what it comes to: ours, its variants, the peers, the best of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.bench.index.grid import HNSW32, IVF_PQ, Peer, Settings, chosen_peers, peers
from jobs.bench.index.race import (
    OURS,
    Race,
    Row,
    Runner,
    our_runner,
    peer_runner,
    prepare_ours,
    row,
    run_round,
    tune,
)
from jobs.bench.peers_environment import PeersEnvironment, environment

_QUICK_PEERS = ("flat", "ivf_flat", HNSW32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What is compared; ``names`` None takes every peer, ``quick`` those that need no installing."""

    race: Race
    cache: Path
    names: Sequence[str] | None
    variants: bool
    quick: bool


def run_contest(contest: Contest) -> dict[str, Any]:
    """Builds, tunes and races: ours, the best peer, all peers, our variants and the ratios for the JSON."""
    race = contest.race
    names = _QUICK_PEERS if contest.quick and contest.names is None else contest.names
    wanted = chosen_peers(peers(race.data.rows, race.data.d), names)  # first: a wrong name costs no build
    ours = {OURS: _ours(race, OURS, "bitsieve, as calibrated", {})}
    for name, (title, build) in _variants(race.data.d).items() if contest.variants else ():
        ours[name] = _ours(race, name, title, build)
    others = {peer.name: _peer(contest, peer) for peer in wanted}
    for number in range(1, race.rounds + 1):
        for runner in (*ours.values(), *others.values()):
            run_round(race, runner, f"round {number} of {race.rounds}")
    rows = {name: row(race, runner) for name, runner in {**ours, **others}.items()}
    found = {name: rows[name] for name in others}
    best, best_single = (best_peer(found, rate) for rate in ("qps_batch", "qps_single"))
    return {
        "ours": rows[OURS],
        "best_peer": {"name": best, **found[best]} if best else None,
        "best_peer_single": {"name": best_single, **found[best_single]} if best_single else None,
        "peers": found,
        "variants": {name: rows[name] for name in ours if name != OURS},
        "ratios": _ratios(race, rows[OURS], found, best, best_single),
    }


def best_peer(rows: Mapping[str, Row], rate: str) -> str | None:
    """The peer with the highest ``rate`` among those that reach the target recall."""
    reaching = [name for name, one in rows.items() if one["reached"] and one[rate]]
    return max(reaching, key=lambda name: rows[name][rate], default=None)


def _ours(race: Race, name: str, title: str, build: Settings) -> Runner:
    runner = our_runner(name, title)
    prepare_ours(race, runner, {"recall": race.target, **build}, with_curve=name == OURS)
    return runner


def _variants(d: int) -> dict[str, tuple[str, Settings]]:
    """Ours with one thing changed, so that each choice of the default is a measured row."""
    found: dict[str, tuple[str, Settings]] = {
        "ours_float16": ("bitsieve, float16 second stage", {"vector_dtype": "float16"}),
        "ours_sign": ("bitsieve, the textbook's sign bits", {"recipe": "sign"}),
    }
    found["ours_int8"] = ("bitsieve, int8 second stage", {"vector_dtype": "int8"})
    found["ours_cuda"] = ("bitsieve, flat, on a GPU", {"form": "flat", "device": "cuda"})
    for form in ("flat", "lists"):
        found[f"ours_{form}"] = (f"bitsieve, {form}", {"form": form})
    for bits in (d, 2 * d, 4 * d):
        found[f"ours_{bits}_bits"] = (f"bitsieve, {bits} bits", {"bits": bits})
    return found


def _peer(contest: Contest, peer: Peer) -> Runner:
    made: PeersEnvironment | None = None
    if peer.requirements:
        folder = contest.cache / f"bench-peers-{peer.name}"
        made = environment(folder, list(peer.requirements), make=not contest.quick)
    runner = peer_runner(peer, made)
    if not runner.failure:
        tune(contest.race, runner, peer)
    return runner


def _ratios(
    race: Race, ours: Row, found: Mapping[str, Row], best: str | None, best_single: str | None
) -> dict[str, float | None]:
    """Ours to theirs; above 1 is faster for a rate, dearer for a build and for memory."""
    return {
        "qps_batch_to_best": _ratio(ours["qps_batch"], found[best]["qps_batch"]) if best else None,
        "qps_single_to_best": _ratio(ours["qps_single"], found[best_single]["qps_single"])
        if best_single
        else None,
        "build_to_hnsw32": _ratio(ours["build_s"], found.get(HNSW32, {}).get("build_s")),
        "build_to_ivf_pq": _ratio(ours["build_s"], found.get(IVF_PQ, {}).get("build_s")),
        "hot_to_float32": _ratio(ours["hot_bytes"], race.data.float32_bytes),
        "hot_to_float32_dropped": _ratio((ours["dropped"] or {}).get("hot_bytes"), race.data.float32_bytes),
    }


def _ratio(mine: float | None, theirs: float | None) -> float | None:
    return mine / theirs if mine and theirs else None
