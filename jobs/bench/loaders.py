"""Races our training loader against a PyTorch DataLoader: the same images, batches and number of workers.

1. Images of a generated shop, or of tars, each in a file of its own and all in one pack. Those of which plain
   Pillow makes other pixels (turned by EXIF, transparent, broken) are left out and counted.
2. A process for each run; in a round each loader runs once, without and with the changes of training.
3. The batches of both must be the same bytes.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from jobs.bench.image_sets import demo_set, members, source_set
from jobs.bench.peers import plain
from pipeline.errors import DataCorrupt, WorkerError
from pipeline.images.decode import ImageRejected
from pipeline.images.preprocess import load_pixels
from pipeline.train.packed import plain_input
from pipeline.values import DecodeLimits, Preprocess

_WHO = ("ours", "dataloader")
_MODES = ("plain", "augmented")
_MOST_IMAGES = 4000
_FACTS = ("images_per_s", "cpu_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderRace:
    """What is raced: ``images`` are tars, a generated shop if None; ``work`` is a folder of this run."""

    images: str | None
    size: int
    batch: int
    n_batches: int
    n_products: int
    rounds: int
    work: Path


def race_loaders(race: LoaderRace) -> dict[str, Any]:
    """Medians over the rounds, by mode and loader, and ours / theirs as the median of the rounds' ratios.

    Raises:
        DataCorrupt: they do not give the same batches.
        WorkerError: one of them failed.
    """
    found = (
        demo_set(race.work / "shop", n_products=race.n_products)
        if race.images is None
        else source_set(race.images, race.work / "copies")
    )
    asked, left_out = _written((data for _, data in members(found)), race)
    result: dict[str, Any] = {
        "images": asked["n_images"],
        "left_out": left_out,
        "batch": race.batch,
        "batches": race.n_batches,
    }
    rounds = [{who: _measured({**asked, "who": who}) for who in _WHO} for _ in range(race.rounds)]
    for mode in _MODES:
        result[mode] = _compared(mode, [{who: one[who][mode] for who in _WHO} for one in rounds])
    return result


def _compared(mode: str, rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    digests = {one["digest"] for by_who in rounds for one in by_who.values()}
    if len(digests) > 1:
        raise DataCorrupt(f"the loaders give other pixels, {mode}", fix="report this as a bug of bitsieve")
    by_fact = {who: {fact: median(by_who[who][fact] for by_who in rounds) for fact in _FACTS} for who in _WHO}
    ratios = [by_who["ours"]["images_per_s"] / by_who["dataloader"]["images_per_s"] for by_who in rounds]
    return {**by_fact, "ratio": median(ratios), "digest": digests.pop()}


def _written(images: Iterable[bytes], race: LoaderRace) -> tuple[dict[str, Any], int]:
    """The images as files and as one pack: what both loaders have to know, and how many were left out."""
    files, pack = race.work / "files", race.work / "pack"
    files.mkdir()
    spec = plain_input((race.size, race.size))
    starts, left_out = [0], 0
    with pack.open("wb") as file:
        for data in islice(images, _MOST_IMAGES):
            if not _agreed(data, spec):
                left_out += 1
                continue
            (files / f"{len(starts) - 1:06d}").write_bytes(data)
            file.write(data)
            starts.append(starts[-1] + len(data))
    asked = {
        "files": str(files),
        "pack": str(pack),
        "starts": starts,
        "n_images": len(starts) - 1,
        "size": spec.size,
        "batch": race.batch,
        "n_batches": race.n_batches,
    }
    return asked, left_out


def _agreed(data: bytes, spec: Preprocess) -> bool:
    """Whether both make the same pixels of an image."""
    try:
        ours = load_pixels(data, spec, DecodeLimits()).pixels
    except ImageRejected:
        return False
    theirs = plain.load(data, asdict(spec))
    return theirs is not None and np.array_equal(ours, theirs)


def _measured(asked: dict[str, Any]) -> dict[str, Any]:
    command_line = [sys.executable, "-m", "jobs.bench.peers.loaders", json.dumps(asked)]
    done = subprocess.run(  # noqa: S603 - our own interpreter and module
        command_line, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise WorkerError(f"{asked['who']} did not load the images: {reason}", fix="try a smaller batch")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured
