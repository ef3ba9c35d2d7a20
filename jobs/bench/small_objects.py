"""Many small objects on S3: our reader against bare boto3, in one process and in one for each core.

1. Upload what is not there yet.
2. Try thread counts on the first 10,000 objects: bare boto3 in one process and in one for each core, and our
   own store's reads, which says how many requests our reader should have on their way.
3. Race on all objects, in rounds: our reader as one actor has it, our reader in a process per core, the best
   of bare boto3 in each form.
"""

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jobs.bench.contender import Contender, Outcome, run
from jobs.bench.grid import Settings, objects_grid
from jobs.bench.image_sets import ImageSet
from jobs.bench.overlap import OverlapPlan
from jobs.bench.upload import FOLDER_OBJECTS
from jobs.output import say

OURS, OURS_SPREAD = "ours, one actor", "ours, an actor per core"
BARE, BARE_SPREAD = "boto3, one process", "boto3, a process per core"
STORE = "our store, one process"


def small_objects(
    plan: OverlapPlan, images: ImageSet, place: str | None, n_objects: int, *, tune: bool
) -> dict[str, Any]:
    """Runs it; requests per second and ratios, or why it was skipped.

    ``place`` is an S3 prefix that may be written to; the objects stay there for the next time. ``tune`` False
    takes the first settings of each grid.
    """
    if place is None:
        say("bench: small objects: skipped, --s3 names no place for them")
        return {"skipped": "--s3 names no place for the images"}
    folder = f"{place.rstrip('/')}/small-{images.name.replace(' ', '-')}-{n_objects}"
    uploaded = _upload(plan, images, folder, n_objects)
    if uploaded.failure:
        return {"skipped": f"the upload failed: {uploaded.failure}"}
    found = _Objects(plan, images, folder, n_objects)
    tried = {name: list(found.tried(name, grid)) for name, grid in objects_grid(plan.cores).items() if tune}
    first = {name: grid[0] for name, grid in objects_grid(plan.cores).items()}
    best = {**first, **{name: max(rows, key=_rate_of)["settings"] for name, rows in tried.items()}}
    rates = found.race({name: best[name] for name in (BARE, BARE_SPREAD)})
    return {
        "objects": n_objects,
        "uploaded": uploaded.n_images,
        "upload_s": round(uploaded.seconds, 1),
        "tried": tried,
        "settings": best,
        "requests_per_s": {name: _median(rows) for name, rows in rates.items()},
        "rounds": rates,
        "ratio_per_actor": _ratio(rates[OURS], rates[BARE]),
        "ratio_on_all_cores": _ratio(rates[OURS_SPREAD], rates[BARE_SPREAD]),
        "gain_of_an_actor_per_core": _ratio(rates[OURS_SPREAD], rates[OURS]),
    }


class _Objects:
    """The uploaded objects, and how each contender reads them."""

    def __init__(self, plan: OverlapPlan, images: ImageSet, folder: str, n_objects: int) -> None:
        self._plan = plan
        self._images = images
        self._folder = folder
        self._n_objects = n_objects

    def tried(self, name: str, grid: tuple[Settings, ...]) -> Iterator[dict[str, Any]]:
        """What each of the settings gives on the first folder of objects."""
        part = f"{self._folder}/000"
        for settings in grid:
            outcome = run(self._contender(name, part, settings), self._plan.work)
            _tell(f"{name} {dict(settings)}", outcome)
            yield {"settings": settings, "requests_per_s": outcome.images_per_s, "failure": outcome.failure}

    def race(self, bare: Mapping[str, Settings]) -> dict[str, list[float | None]]:
        """The rates of each round."""
        settings = {OURS: {"processes": 1}, OURS_SPREAD: {"processes": self._plan.cores}, **bare}
        rates: dict[str, list[float | None]] = {name: [] for name in settings}
        for number in range(1, self._plan.rounds + 1):
            for name, chosen in settings.items():
                outcome = run(self._contender(name, self._folder, chosen), self._plan.work)
                _tell(f"round {number} of {self._plan.rounds}: {name}", outcome)
                rates[name].append(outcome.images_per_s)
        return rates

    def _contender(self, name: str, folder: str, settings: Settings) -> Contender:
        environment = {"BITSIEVE_CACHE": str(self._plan.work / "cache")}
        if name in (BARE, BARE_SPREAD):
            parts = urlsplit(folder)
            asked = {**settings, "bucket": parts.netloc, "prefix": parts.path.lstrip("/") + "/"}
            module = "jobs.bench.peers.objects"
        else:
            stage = "fetch_bare" if name == STORE else "fetch"
            n_images = min(self._n_objects, FOLDER_OBJECTS) if name == STORE else self._n_objects
            asked = {**settings, "stage": stage, "source": folder, "read": {}, "n_images": n_images}
            module = "jobs.bench.alone"
        return Contender(name="objects", module=module, settings=asked, environment=environment)


def _upload(plan: OverlapPlan, images: ImageSet, folder: str, n_objects: int) -> Outcome:
    asked = {"place": folder, "objects": n_objects, "processes": plan.cores, "tars": _paths(images.tars)}
    outcome = run(Contender(name="upload", module="jobs.bench.upload", settings=asked), plan.work)
    said = outcome.failure or f"{outcome.n_images} were missing, {outcome.seconds:.0f} s"
    say(f"bench: small objects: {n_objects} in {folder}: {said}")
    return outcome


def _paths(tars: tuple[Path, ...]) -> list[str]:
    return [str(tar) for tar in tars]


def _rate_of(tried: Mapping[str, Any]) -> float:
    return tried["requests_per_s"] or 0.0


def _ratio(ours: list[float | None], other: list[float | None]) -> float | None:
    pairs = [mine / theirs for mine, theirs in zip(ours, other, strict=True) if mine and theirs]
    return statistics.median(pairs) if pairs else None


def _median(rates: list[float | None]) -> float | None:
    good = [rate for rate in rates if rate is not None]
    return statistics.median(good) if good else None


def _tell(what: str, outcome: Outcome) -> None:
    rate = outcome.images_per_s
    shown = f"{rate:.0f} requests/s" if rate is not None else f"failed: {outcome.failure}"
    say(f"bench: small objects: {what}: {shown}")
