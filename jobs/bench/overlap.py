"""Where overlap must show: sets on which one stage is the bound, ours against the slowest stage alone.

The ratio is max(decode alone, infer alone, fetch alone) / ours, in seconds, 1 at best; fetch alone is the
faster of our own reader and plain GETs on many threads, so a slow reader of ours cannot flatter us. Nobody's
seconds contain the loading of a model: a stage alone is timed from when all of its processes have theirs, and
ours less the time that the slower worker took for it.

Each stage alone has all cores. Where stages compete for them, no overlap reaches 1: beside the ratio stands
the one to what the cores allow, which is all cores over the processor time of the three stages together. That
processor time over ours, Ray's and the driver's included, says the same on a machine that others use too.
"""

import os
import statistics
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.bench.contender import Contender, Outcome, run
from jobs.bench.delay import DelayProxy
from jobs.bench.image_sets import BenchModel, ImageSet, members, photo_set, repeated_set
from jobs.output import say
from pipeline.storage.open import open_store

DELAY_S = 0.03
_UPLOADING = 8
_STAGES = ("decode", "infer", "fetch", "fetch_bare")
_ENDPOINT = "AWS_ENDPOINT_URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapPlan:
    """How the overlap is measured."""

    model: BenchModel
    cores: int
    rounds: int
    work: Path


def decode_bound(plan: OverlapPlan, n_images: int) -> dict[str, Any]:
    """Photos of three megapixels from local tars."""
    say(f"bench: decode-bound: generating {n_images} photos of three megapixels")
    images = photo_set(plan.work / "photos", n_images)
    return {"bytes": images.size_bytes, **_compare(plan, images, {})}


def latency(plan: OverlapPlan, images: ImageSet, place: str | None, at_least: int) -> dict[str, Any]:
    """The images as tars and as single objects on an S3 service that answers ``DELAY_S`` later.

    They come again under new ids until there are ``at_least`` so many.
    """
    upstream = os.environ.get(_ENDPOINT)
    if upstream is None or place is None:
        missing = f"{_ENDPOINT} is not set" if upstream is None else "--s3 names no place for the images"
        say(f"bench: latency: skipped, {missing}")
        return {"skipped": missing}
    folder = f"{place.rstrip('/')}/{plan.work.name}"
    if images.n_images < at_least:
        images = repeated_set(images, -(-at_least // images.n_images), plan.work / "latency")
    say(f"bench: latency: uploading {images.n_images} images to {folder}, twice")
    tars, objects = _upload(images, folder)
    with DelayProxy(upstream, DELAY_S) as proxy:
        environment = {_ENDPOINT: proxy.endpoint}
        found = {
            "tars": _compare(plan, tars, environment),
            "objects": _compare(plan, objects, environment),
        }
    _remove(folder)
    return {"delay_s": DELAY_S, **found}


def _compare(plan: OverlapPlan, images: ImageSet, environment: Mapping[str, str]) -> dict[str, Any]:
    runs: dict[str, list[Outcome]] = {name: [] for name in ("ours", *_STAGES)}
    for number in range(1, plan.rounds + 1):
        for name, outcomes in runs.items():
            outcomes.append(run(_contender(plan, images, name, environment), plan.work))
            rate = _rate(outcomes[-1])
            shown = f"{rate:.0f} images/s" if rate is not None else f"failed: {outcomes[-1].failure}"
            say(f"bench: {images.name} round {number} of {plan.rounds}: {name}: {shown}")
    ratios = [
        _ratio({name: outcomes[number] for name, outcomes in runs.items()}) for number in range(plan.rounds)
    ]
    good = [ratio for ratio in ratios if ratio is not None]
    rates = {name: _median(outcomes) for name, outcomes in runs.items()}
    cpu_ms = {name: _cpu_ms(runs[name]) for name in ("decode", "infer", "fetch")}
    needed_ms = sum(spent for spent in cpu_ms.values() if spent is not None)
    allowed = 1000 * plan.cores / needed_ms if needed_ms else None
    ours, ours_ms = rates["ours"], _night_cpu_ms(runs["ours"])
    return {
        "images": images.n_images,
        "ratio_to_slowest_stage": statistics.median(good) if good else None,
        "ratio_to_what_the_cores_allow": ours / allowed if ours and allowed else None,
        "processor_time_needed": needed_ms / ours_ms if ours_ms else None,
        "cpu_ms_per_image": {"ours": ours_ms, **cpu_ms},
        "images_per_s": rates,
        "rounds": {name: [_rate(one) for one in outcomes] for name, outcomes in runs.items()},
        "failures": sorted({one.failure for outcomes in runs.values() for one in outcomes if one.failure}),
    }


def _contender(plan: OverlapPlan, images: ImageSet, name: str, environment: Mapping[str, str]) -> Contender:
    environment = {**environment, "BITSIEVE_CACHE": str(plan.work / "cache")}
    if name == "ours":
        config = {"source": images.source, "model": str(plan.model.path), "read": images.read}
        module = "jobs.bench.ours"
        settings: dict[str, Any] = {"config": config}
    else:
        module = "jobs.bench.alone"
        settings = {
            "stage": name,
            "processes": plan.cores,
            "source": images.source,
            "read": images.read,
            "model": str(plan.model.path),
            "tars": [str(tar) for tar in images.tars],
            "n_images": images.n_images,
        }
    return Contender(name=name, module=module, settings=settings, environment=environment)


def _ratio(one: Mapping[str, Outcome]) -> float | None:
    """Seconds per image of the slowest stage / ours; None if a run failed."""
    rates = {name: _rate(outcome) for name, outcome in one.items()}
    ours, decode, infer = rates["ours"], rates["decode"], rates["infer"]
    fetch = max((rate for name in ("fetch", "fetch_bare") if (rate := rates[name])), default=None)
    if not ours or not decode or not infer or not fetch:
        return None
    return ours / min(decode, infer, fetch)


def _rate(outcome: Outcome) -> float | None:
    """Images per second without what loading the model took."""
    seconds = outcome.seconds - outcome.report.get("load_s", 0.0)
    return None if outcome.failure or seconds <= 0 else outcome.n_images / seconds


def _median(outcomes: list[Outcome]) -> float | None:
    rates = [rate for one in outcomes if (rate := _rate(one)) is not None]
    return statistics.median(rates) if rates else None


def _cpu_ms(outcomes: list[Outcome]) -> float | None:
    spent = [one.report["cpu_ms_per_image"] for one in outcomes if not one.failure]
    return min(spent, default=None)


def _night_cpu_ms(outcomes: list[Outcome]) -> float | None:
    """What all processes of a night take of the processors while it embeds, for each image."""
    good = [one for one in outcomes if one.images_per_s]
    return min((1000 * sum(one.report["cpu_s"].values()) / one.n_images for one in good), default=None)


def _upload(images: ImageSet, folder: str) -> tuple[ImageSet, ImageSet]:
    """The set as tars and as one object for each image."""
    as_tars, as_objects = open_store(f"{folder}/tars"), open_store(f"{folder}/objects")
    for tar in images.tars:
        as_tars.put_file(tar.name, tar)
    named = ((f"{number:07d}-{name}", data) for number, (name, data) in enumerate(members(images)))
    with ThreadPoolExecutor(_UPLOADING) as threads:
        n_objects = sum(1 for _ in threads.map(lambda one: as_objects.put(*one), named))
    return (
        ImageSet(name="latency tars", source=as_tars.uri, tars=images.tars, n_images=images.n_images),
        ImageSet(name="latency objects", source=as_objects.uri, tars=images.tars, n_images=n_objects),
    )


def _remove(folder: str) -> None:
    store = open_store(folder)
    for stat in list(store.list_objects()):
        store.delete(stat.key)
