"""What does a bigger catalog cost? Ours at several sizes of the identity model: build linear, search less."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jobs.bench.index.data_set import identity_set
from jobs.bench.index.race import Race, our_runner, prepare_ours, row, run_round
from jobs.output import say

_SHOWN = ("build_s", "calibrate_s", "build_peak_bytes", "hot_bytes", "qps_batch", "qps_single", "failure")


def measure_growth(race: Race, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """For each size the build, its peak of memory, and the rates; one size lies on disk at a time."""
    rows = []
    for n in sizes:
        folder = race.work / f"growth-{n}"
        say(f"bench: growth: drawing {n} vectors")
        grown = replace(race, data=identity_set(folder / "data", n, k=race.k), work=folder)
        runner = our_runner("growth", f"bitsieve at {n} rows")
        prepare_ours(grown, runner, {"recall": race.target}, with_curve=False)
        for number in range(race.rounds):
            run_round(grown, runner, f"growth, {n} rows, round {number + 1}")
        found = row(grown, runner)
        recall = f"ann_recall@{race.k}"
        rows.append({"rows": n, **{name: found.get(name) for name in (*_SHOWN, recall)}})
        shutil.rmtree(folder)
    return rows
