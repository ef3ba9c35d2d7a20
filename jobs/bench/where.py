"""Where our time goes, beside the ceiling's: milliseconds of a core for each image, of all cores together.

The clock's side: what the workers' own stopwatches say by stage, the rest of a task, and the time in which a
worker had no task (loading the model, waiting for the last task, its receipt). The processors' side: what the
workers, the driver and Ray's daemons used, and what nobody used. What the same stage takes longer here than
in a bare loop is what the cores did meanwhile.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.bench.contender import Outcome


def where_time_goes(
    ours: Sequence[Outcome], ceiling: Sequence[Sequence[Outcome]], cores: int
) -> dict[str, Any] | None:
    """The table, medians over rounds; None without a whole run of ours. ``ceiling``: the bare loops' runs."""
    good = [outcome for outcome in ours if outcome.images_per_s]
    if not good:
        return None
    rows = [_row(outcome, cores) for outcome in good]
    bare = [run for runs in ceiling for run in runs if run.images_per_s]
    fastest = max(bare, key=lambda run: run.images_per_s or 0.0, default=None)
    return {
        "clock_ms": _medians([row["clock_ms"] for row in rows]),
        "processor_ms": _medians([row["processor_ms"] for row in rows]),
        "ceiling": None
        if fastest is None
        else {
            "clock_ms": 1000 * cores * fastest.seconds / fastest.n_images,
            "processor_ms": fastest.report.get("cpu_ms_per_image"),
        },
    }


def _row(outcome: Outcome, cores: int) -> dict[str, dict[str, float]]:
    report = outcome.report
    each = 1000 / outcome.n_images
    stages = dict(report["embed_seconds"])
    in_tasks_s = stages.pop("wall", 0.0)
    whole_s = cores * outcome.seconds
    cpu = report["cpu_s"]
    return {
        "clock_ms": {
            "whole": whole_s * each,
            **{stage: spent_s * each for stage, spent_s in stages.items()},
            "rest_of_tasks": (in_tasks_s - sum(stages.values())) * each,
            "outside_tasks": (whole_s - in_tasks_s) * each,
        },
        "processor_ms": {
            **{who: spent_s * each for who, spent_s in cpu.items()},
            "idle": (whole_s - sum(cpu.values())) * each,
        },
    }


def _medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}
