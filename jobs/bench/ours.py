"""Runs ``reindex`` as one contender: the real pool, workers and store; only the clock is ours.

The timed part is the embed stage from the first task handed out to the last receipt. Ray's start, the other
stages and the whole night are reported beside it, and ``outside_tasks``: the share of the workers' timed
seconds in which they had no task (loading the model, waiting for the driver, the last tasks' end). Takes its
settings as JSON, prints one JSON line.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from jobs.bench.timed_pool import TimedPool
from jobs.reindex import reindex
from jobs.session import open_run
from pipeline.config import CatalogConfig

EMBED = 0  # the first call of the pool is the embed stage's


def main() -> None:
    """Runs the night and prints the one JSON line."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    store = f"{asked['output']}/store"
    config = CatalogConfig.model_validate({**asked["config"], "store": store})
    entered = time.perf_counter()
    with open_run(config, quiet=True) as run:
        timed = TimedPool(run.pool, Path(asked["marks"]))
        run.pool = timed
        night = reindex(run)
    whole_s = time.perf_counter() - entered
    coverage = night.manifest.coverage
    seconds = timed.ended_s[EMBED] - timed.first_task_s[EMBED]
    n_workers = timed.workers[EMBED]
    result = {
        "n_images": coverage.embedded + coverage.rejected,
        "seconds": seconds,
        "ray_start_s": timed.first_task_s[EMBED] - timed.called_s[EMBED],
        "ended_at_s": timed.ended_at_s[EMBED],
        "reindex_s": whole_s,
        "stages_s": run.seconds,
        "workers": n_workers,
        "load_s": _load_s(Path(asked["marks"])),
        "outside_tasks": 1 - run.embed_seconds.get("wall", 0.0) / (seconds * n_workers),
        "embed_seconds": run.embed_seconds,
        "images": coverage.model_dump(),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def _load_s(marks: Path) -> float:
    """How long the slowest worker took to load the model, inside the timed part."""
    return max((json.loads(path.read_text())["load_s"] for path in marks.glob("loaded-*.json")), default=0.0)


if __name__ == "__main__":
    main()
