"""Does a bigger catalog cost more per image, or more memory? The same tars again and again under new ids."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.bench.contender import Contender, run
from jobs.bench.image_sets import BenchModel, ImageSet, repeated_set
from jobs.output import say


def measure_growth(
    images: ImageSet, model: BenchModel, times: Sequence[int], rounds: int, work: Path
) -> list[dict[str, Any]]:
    """For each size the rounds' images/s, and the peaks of a further run with memory sampled.

    Sizes take turns within a round, so that a busy minute of the machine does not look like growth.
    """
    sets = {n: repeated_set(images, n, work / f"times{n}") for n in times}
    rates: dict[int, list[float | None]] = {n: [] for n in times}
    for number in range(1, rounds + 1):
        for n, repeated in sets.items():
            outcome = run(_ours(repeated, model, work), work)
            rates[n].append(outcome.images_per_s)
            say(f"bench: growth round {number} of {rounds}: {_shown(repeated, outcome.images_per_s)}")
    rows = []
    for n, repeated in sets.items():
        outcome = run(_ours(repeated, model, work), work, with_memory=True)
        say(f"bench: growth memory: {_shown(repeated, outcome.images_per_s)}")
        memory = outcome.memory
        good = sorted(rate for rate in rates[n] if rate is not None)
        rows.append(
            {
                "times": n,
                "images": repeated.n_images,
                "images_per_s": good[len(good) // 2] if good else None,
                "rounds": rates[n],
                "working_bytes": memory.working_bytes if memory else None,
                "total_bytes": memory.total_bytes if memory else None,
                "driver_bytes": memory.driver_bytes if memory else None,
                "failure": outcome.failure,
            }
        )
        shutil.rmtree(work / f"times{n}")
    return rows


def _ours(images: ImageSet, model: BenchModel, work: Path) -> Contender:
    config = {"source": images.source, "model": str(model.path), "read": images.read}
    environment = {"BITSIEVE_CACHE": str(work / "cache")}
    return Contender(
        name="growth", module="jobs.bench.ours", settings={"config": config}, environment=environment
    )


def _shown(images: ImageSet, rate: float | None) -> str:
    return f"{images.n_images} images: " + (f"{rate:.0f} images/s" if rate is not None else "failed")
