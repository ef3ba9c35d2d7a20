"""Is the recall that was asked for met? Other vectors, another fit, other calibration rows for every seed.

What counts is the recall of fresh queries, which calibration never saw, at the point that it chose.
"""

import shutil
import statistics
from dataclasses import replace
from typing import Any

import numpy as np

from jobs.bench.index.data_set import identity_set, vectors_set
from jobs.bench.index.race import Race, our_runner, prepare_ours
from jobs.output import say


def measure_seeds(race: Race, n_seeds: int) -> dict[str, Any]:
    """For each seed the recall that calibration publishes and the one measured; how many reach the target."""
    found: list[dict[str, Any]] = []
    generated = race.data.name == "identity"
    for seed in range(1, n_seeds + 1):
        folder = race.work / f"seed-{seed}"
        data = (
            identity_set(folder / "data", race.data.rows, k=race.k, seed=seed)
            if generated
            else vectors_set(race.data.name, folder / "data", _all_vectors(race), None, k=race.k, seed=seed)
        )
        seeded = replace(race, data=data, work=folder)
        runner = our_runner("seed", f"seed {seed}")
        prepare_ours(seeded, runner, {"recall": race.target, "seed": seed}, with_curve=False)
        point = runner.chosen
        if point is None:
            found.append({"seed": seed, "recall": None, "failure": runner.failure})
        else:
            calibration = point["calibration"]
            found.append(
                {
                    "seed": seed,
                    "recall": point["recall"],
                    "published": calibration["ann_recall"][str(race.k)],
                    "candidates": calibration["candidates"].get(str(race.k)),
                    "bits": calibration["bits"],
                    "qps_batch": point["qps_batch"],
                    "failure": "",
                }
            )
            say(f"bench: seed {seed}: recall {point['recall']:.4f}")
        shutil.rmtree(folder)
    measured = [one["recall"] for one in found if one["recall"] is not None]
    return {
        "target": race.target,
        "met": sum(recall >= race.target for recall in measured),
        "of": n_seeds,
        "lowest": min(measured, default=None),
        "mean": statistics.mean(measured) if measured else None,
        "seeds": found,
    }


def _all_vectors(race: Race) -> Any:
    """Base and queries of the data set again, to be split anew."""
    folder = race.data.folder
    return np.concatenate([np.load(folder / "base.npy"), np.load(folder / "queries.npy")])
