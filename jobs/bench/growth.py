"""Does a bigger catalog cost more per image, or more memory? The same tars again and again under new ids."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.bench.contender import Contender, run
from jobs.bench.image_sets import BenchModel, ImageSet, repeated_set
from jobs.output import say


def measure_growth(
    images: ImageSet, model: BenchModel, times: Sequence[int], rounds: int, work: Path
) -> dict[str, Any]:
    """For each size the rounds' images/s and the peaks of a further run with memory sampled, and the changes.

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
    return {"sizes": rows, **changes(rows)}


def changes(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """How far the sizes differ from the first one, as shares of it; None without its figures.

    ``images_per_s_change`` is the largest in either direction, ``peak_change`` (working memory) and
    ``driver_change`` the largest upwards.

    >>> one = {"images_per_s": 100.0, "working_bytes": 50, "driver_bytes": 20}
    >>> other = {"images_per_s": 96.0, "working_bytes": 55, "driver_bytes": 19}
    >>> changes([one, other])
    {'images_per_s_change': 0.04, 'peak_change': 0.1, 'driver_change': 0.0}
    """
    speeds = _relative(rows, "images_per_s")
    peaks, drivers = (_relative(rows, name) for name in ("working_bytes", "driver_bytes"))
    return {
        "images_per_s_change": max((round(abs(change), 4) for change in speeds), default=None),
        "peak_change": max((round(change, 4) for change in peaks), default=None),
        "driver_change": max((round(change, 4) for change in drivers), default=None),
    }


def _relative(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    values = [row[name] for row in rows]
    return [value / values[0] - 1 for value in values] if all(values) else []


def _ours(images: ImageSet, model: BenchModel, work: Path) -> Contender:
    config = {"source": images.source, "model": str(model.path), "read": images.read}
    environment = {"BITSIEVE_CACHE": str(work / "cache")}
    return Contender(
        name="growth", module="jobs.bench.ours", settings={"config": config}, environment=environment
    )


def _shown(images: ImageSet, rate: float | None) -> str:
    return f"{images.n_images} images: " + (f"{rate:.0f} images/s" if rate is not None else "failed")
