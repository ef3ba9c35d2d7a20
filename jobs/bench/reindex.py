"""``bitsieve bench reindex``: what nights cost beside a first night, on tars that are generated and changed.

A first night embeds everything. Then, one after the other, nights on which nothing, .1, 1 and 10 % of the
images have other bytes, scattered over all tars, so that every tar is written again. Times are of whole runs
in this process, Ray's start included where a run needs it. Bytes written are how much the store grew.
"""

import io
import json
import os
import random
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.bench.machine import load, machine_facts
from jobs.models import FILTERS
from jobs.output import AsJson, JsonFile, print_result, say
from jobs.reindex import Night, reindex
from jobs.run import Run, default_cache
from jobs.session import open_run
from pipeline.config import CatalogConfig
from pipeline.images.products import catalog_images
from pipeline.storage.open import open_store

EXAMPLE = "Example: bitsieve bench reindex --images 50000 --json"
GOAL = 0.05
MOST_BYTES = 16 << 10
"""For each image that changed, listings and compaction included, whatever the catalog's size."""
NIGHT_BYTES = 256 << 10
"""For a night on which anything changed: manifest, events, a part and an index shard, however small."""
SHARES = (0.001, 0.01, 0.1)
_JUDGED = 0.01
_TAR_IMAGES = 1000
_VIEWS = 10

_Image = tuple[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One run: its wall time, what it embedded, and how much the store grew."""

    seconds: float
    embedded: int
    reused: int
    bytes_read: int
    bytes_written: int
    stages: dict[str, float]


def command(
    images: Annotated[int, typer.Option(min=1000, help="How many images to generate.")] = 50_000,
    model: Annotated[str, typer.Option(help="ONNX file with a card, or `builtin`.")] = FILTERS,
    output: JsonFile = None,
    as_json: AsJson = False,
) -> None:
    """Nights of 0, .1, 1 and 10 % change beside a first night."""
    cache = default_cache(os.environ)
    cache.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine_facts(), "load_at_start": load()}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache) as folder:
        result = facts | measure(Path(folder), images, model, _night)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")
    print_result(result, _in_words(result), as_json=as_json)


def measure(
    work: Path, n_images: int, model: str, night: Callable[[CatalogConfig], tuple[Run, Night]]
) -> dict[str, Any]:
    """The figures for ``n_images`` generated below ``work``; ``night`` runs one with a configuration."""
    source = work / "catalog"
    say(f"bench: generating {n_images} images")
    names = _write_first(source, n_images)
    config = CatalogConfig(source=str(source), store=str(work / "store"), model=model)
    full = _timed(config, night)
    idle = min((_timed(config, night) for _ in range(2)), key=lambda run: run.seconds)
    nights = []
    for number, share in enumerate(SHARES):
        changed = _change(source, names, share, number)
        timed = _timed(config, night)
        nights.append(
            {
                "share": share,
                "changed": changed,
                "time_ratio": round((timed.seconds - idle.seconds) / (full.seconds - idle.seconds), 4),
                "bytes_written_per_changed_image": round(timed.bytes_written / changed),
                **_as_json(timed),
            }
        )
    judged = next(one for one in nights if one["share"] == _JUDGED)
    shown = ("changed", "embedded", "time_ratio", "bytes_written_per_changed_image")
    return {
        **{name: judged[name] for name in shown},
        "images": len(names),
        "tars": len(list(source.iterdir())),
        "first_night": _as_json(full),
        "nothing_changed": _as_json(idle),
        "nights": nights,
        "goals": {
            "embedded_is_changed": all(one["embedded"] == one["changed"] for one in nights),
            f"time_ratio_at_most_{GOAL}": bool(judged["time_ratio"] <= GOAL),
            f"bytes_written_at_most_{MOST_BYTES}_per_changed_image_and_{NIGHT_BYTES}": all(
                one["bytes_written"] <= NIGHT_BYTES + MOST_BYTES * one["changed"] for one in nights
            ),
            "nothing_changed_reads_no_image": idle.bytes_read == 0,
        },
    }


def _night(config: CatalogConfig) -> tuple[Run, Night]:
    with open_run(config, quiet=True) as run:
        return run, reindex(run)


def _timed(config: CatalogConfig, night: Callable[[CatalogConfig], tuple[Run, Night]]) -> Timed:
    before = _stored_bytes(config.store)
    started = time.perf_counter()
    run, ended = night(config)
    seconds = time.perf_counter() - started
    coverage = ended.manifest.coverage
    return Timed(
        seconds=seconds,
        embedded=coverage.embedded,
        reused=coverage.reused,
        bytes_read=run.bytes_read,
        bytes_written=_stored_bytes(config.store) - before,
        stages=run.seconds,
    )


def _stored_bytes(store: str) -> int:
    return sum(item.size_bytes for item in open_store(store).list_objects())


def _write_first(folder: Path, n_images: int) -> list[str]:
    """Writes the tars of the first night; the ids of their images, in order."""
    folder.mkdir(parents=True)
    images = _photos(n_images, seed=0)
    names: list[str] = []
    while block := list(islice(images, _TAR_IMAGES)):
        _write_tar(folder / f"bench-{len(names) // _TAR_IMAGES:05d}.tar", block)
        names += [name for name, _ in block]
    return names


def _photos(n_images: int, seed: int) -> Iterator[_Image]:
    n_products = -(-n_images // _VIEWS)
    for image_id, jpeg, _ in islice(catalog_images(n_products, _VIEWS, seed), n_images):
        yield image_id, jpeg


def _change(folder: Path, names: list[str], share: float, night: int) -> int:
    """Gives a share of the images, scattered, other bytes; the number of images changed."""
    n_changed = max(1, round(share * len(names)))
    drawn = random.Random(night)  # noqa: S311 - a seeded choice, not a secret
    chosen = sorted(drawn.sample(range(len(names)), n_changed))
    others = _photos(n_changed, seed=night + 1)
    new = {names[place]: jpeg for place, (_, jpeg) in zip(chosen, others, strict=True)}
    for path in sorted(folder.iterdir()):
        images = _read_tar(path)
        if any(name in new for name, _ in images):
            _write_tar(path, [(name, new.get(name, jpeg)) for name, jpeg in images])
    return n_changed


def _read_tar(path: Path) -> list[_Image]:
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member)) for member in tar]
        return [(name.removesuffix(".jpg"), file.read()) for name, file in members if file is not None]


def _write_tar(path: Path, images: list[_Image]) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, jpeg in images:
            info = tarfile.TarInfo(f"{name}.jpg")
            info.size = len(jpeg)
            tar.addfile(info, io.BytesIO(jpeg))


def _as_json(timed: Timed) -> dict[str, Any]:
    return {
        "seconds": round(timed.seconds, 3),
        "embedded": timed.embedded,
        "reused": timed.reused,
        "bytes_read": timed.bytes_read,
        "bytes_written": timed.bytes_written,
        "stages": timed.stages,
    }


def _in_words(result: dict[str, Any]) -> str:
    full, idle = result["first_night"], result["nothing_changed"]
    return "\n".join(
        [
            f"first night: {full['embedded']} images in {full['seconds']:.1f} s, "
            f"{full['bytes_written'] / 1e6:.1f} MB written",
            f"nothing changed: {idle['seconds']:.2f} s, {idle['bytes_read']} bytes of images read",
            *(
                f"{one['share']:.1%} changed: {one['changed']} images, {one['embedded']} embedded, "
                f"{one['seconds']:.1f} s, {one['time_ratio']:.3f} of a first night, "
                f"{one['bytes_written_per_changed_image']} bytes written per changed image"
                for one in result["nights"]
            ),
            *(f"{'met    ' if met else 'NOT MET'}  {goal}" for goal, met in result["goals"].items()),
        ]
    )
