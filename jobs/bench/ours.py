"""Runs ``reindex`` as one contender: the real pool, workers and store; only the clock is ours.

The timed part is the embed stage from the first task handed out to the last receipt. Ray's start, the other
stages and the whole night are reported beside it, and ``outside_tasks``: the share of the workers' timed
seconds in which they had no task (loading the model, waiting for the driver, the last tasks' end). Takes its
settings as JSON, prints one JSON line.
"""

import json
import os
import pstats
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.bench.timed_pool import KILLED, StageTimes, TimedPool
from jobs.reindex import reindex
from jobs.session import open_run
from pipeline.config import CatalogConfig

EMBED = 0  # the first call of the pool is the embed stage's
_HOTTEST = 25


def main() -> None:
    """Runs the night and prints the one JSON line."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    store, marks = f"{asked['output']}/store", Path(asked["marks"])
    config = CatalogConfig.model_validate({**asked["config"], "store": store})
    entered = time.perf_counter()
    with open_run(config, quiet=True) as run:
        asks = {name: bool(asked.get(name)) for name in ("profile", "crash")}
        timed = TimedPool(run.pool, marks, **asks)
        run.pool = timed
        night = reindex(run)
    whole_s = time.perf_counter() - entered
    coverage = night.manifest.coverage
    embed = timed.stages[EMBED]
    seconds = embed.ended_s - embed.first_task_s
    result = {
        "n_images": coverage.embedded + coverage.rejected,
        "seconds": seconds,
        "ray_start_s": embed.first_task_s - embed.called_s,
        "ended_at_s": embed.ended_at_s,
        "reindex_s": whole_s,
        "stages_s": run.seconds,
        "workers": embed.workers,
        "load_s": max((one["load_s"] for one in _loaded(marks)), default=0.0),
        "outside_tasks": 1 - run.embed_seconds.get("wall", 0.0) / (seconds * embed.workers),
        "embed_seconds": run.embed_seconds,
        "cpu_s": _cpu_s(embed, {one["pid"] for one in _loaded(marks)}),
        "images": coverage.model_dump(),
        "digest": night.manifest.digest,
        "tasks": {
            "count": len({number for number, _ in embed.handed_out}),
            "begun_again": embed.begun_again(),
            "killed": (marks / KILLED).exists(),
        },
        "profile": hottest(sorted(marks.glob("profile-*"))),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def hottest(places: Sequence[Path]) -> list[dict[str, Any]]:
    """The functions that took the most time of their own in the profiles, all workers together."""
    if not places:
        return []
    stats = pstats.Stats(*map(str, places)).get_stats_profile()
    rows = sorted(stats.func_profiles.items(), key=lambda row: -row[1].tottime)[:_HOTTEST]
    return [
        {
            "function": f"{Path(one.file_name).name}:{one.line_number} {name}",
            "calls": one.ncalls,
            "own_s": one.tottime,
            "with_callees_s": one.cumtime,
        }
        for name, one in rows
    ]


def _loaded(marks: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in marks.glob("loaded-*.json")]


def _cpu_s(embed: StageTimes, workers: set[int]) -> dict[str, float]:
    """Seconds of the processors during the stage: of the workers, this driver, and Ray's daemons."""
    by_kind = {"workers": 0.0, "driver": 0.0, "ray": 0.0}
    for pid, spent_s in embed.cpu_s.items():
        kind = "driver" if pid == os.getpid() else "workers" if pid in workers else "ray"
        by_kind[kind] += spent_s
    return by_kind


if __name__ == "__main__":
    main()
