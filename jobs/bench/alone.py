"""One stage of embedding alone, with all cores: what no overlap can beat. Prints one JSON line.

``decode`` decodes and prepares images that are in memory, the same ones again where all would take too much;
``infer`` runs the model on prepared images; ``fetch`` reads the source the way our workers do; ``fetch_bare``
reads it with plain GETs on ``threads`` threads. The CPU time of all processes is reported beside the clock's:
stages share the cores.
"""

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from jobs.bench.image_sets import ImageSet, members
from jobs.bench.peers import plain
from pipeline.catalog.listing import list_catalog
from pipeline.catalog.plan import plan_shards
from pipeline.catalog.read import read_images
from pipeline.catalog.source import SourceSpec, list_source
from pipeline.images.decode import ImageRejected
from pipeline.images.preprocess import load_pixels
from pipeline.model.file import read_model
from pipeline.model.session import EmbeddingSession
from pipeline.storage.open import open_store
from pipeline.values import DecodeLimits

_THREADS = 16
_RANGE_BYTES = 8 << 20
_PREPARED = 64
_HELD_BYTES = 256 << 20

Asked = dict[str, Any]
Work = Callable[[], int]  # does this process's share; how many images


def main() -> None:
    """Runs the stage in as many processes as there are cores and prints the one JSON line."""
    asked: Asked = json.loads(sys.argv[1])
    spawn = multiprocessing.get_context("spawn")
    ready, counts = spawn.Barrier(asked["processes"] + 1), spawn.Queue()
    workers = [
        spawn.Process(target=_run, args=({**asked, "number": number}, ready, counts))
        for number in range(asked["processes"])
    ]
    done, seconds = plain.together(workers, ready, counts)
    n_images, cpu_s = sum(one for one, _ in done), sum(one for _, one in done)
    report = {"n_images": n_images, "seconds": seconds, "cpu_ms_per_image": 1000 * cpu_s / max(1, n_images)}
    sys.stdout.write(json.dumps(report) + "\n")


def _run(asked: Asked, ready: Any, counts: Any) -> None:
    work = _STAGES[asked["stage"]](asked)
    ready.wait(timeout=600)
    started = time.process_time()
    n_images = work()
    counts.put((n_images, time.process_time() - started))


def _images(asked: Asked) -> list[bytes]:
    tars = tuple(Path(tar) for tar in asked["tars"])
    images = ImageSet(name="", source="", tars=tars, n_images=asked["n_images"])
    held: list[bytes] = []
    left_bytes = _HELD_BYTES
    for number, (_, data) in enumerate(members(images)):
        if number % asked["processes"] == asked["number"]:
            held.append(data)
            left_bytes -= len(data)
        if left_bytes <= 0:
            break
    return held


def _decode(asked: Asked) -> Work:
    spec = read_model(Path(asked["model"]).read_bytes(), asked["model"]).preprocess
    images, limits = _images(asked), DecodeLimits()
    n_images: int = asked["n_images"] // asked["processes"]

    def work() -> int:
        for data in islice(cycle(images), n_images):
            with suppress(ImageRejected):
                load_pixels(data, spec, limits)
        return n_images

    return work


def _infer(asked: Asked) -> Work:
    session = EmbeddingSession(Path(asked["model"]).read_bytes(), where=asked["model"])
    n_images: int = asked["n_images"] // asked["processes"]
    spec = session.model.preprocess
    sides = (3, *spec.size) if spec.layout == "NCHW" else (*spec.size, 3)
    prepared = np.random.default_rng(0).integers(0, 255, (_PREPARED, *sides)).astype(spec.dtype)

    def work() -> int:
        for start in range(0, n_images, _PREPARED):
            session.embed(prepared[: min(_PREPARED, n_images - start)])
        return n_images

    return work


def _fetch(asked: Asked) -> Work:
    spec = SourceSpec(uri=asked["source"], include=asked["read"].get("include", ()))
    source = open_store(spec.uri)
    with tempfile.TemporaryDirectory() as folder:
        catalog = list_catalog(source, spec, open_store(folder), Path(folder), lambda _done, _total: None)
    shards = plan_shards(catalog.images())[asked["number"] :: asked["processes"]]

    def work() -> int:
        return sum(1 for shard in shards for _ in read_images(source, spec, shard.table))

    return work


def _fetch_bare(asked: Asked) -> Work:
    spec = SourceSpec(uri=asked["source"], include=asked["read"].get("include", ()))
    source = open_store(spec.uri)
    objects = list(list_source(source, spec).objects)
    pieces = [
        (stat.key, start, min(_RANGE_BYTES, stat.size_bytes - start))
        for stat in objects
        for start in range(0, stat.size_bytes, _RANGE_BYTES)
    ][asked["number"] :: asked["processes"]]

    def work() -> int:
        with ThreadPoolExecutor(asked.get("threads", _THREADS)) as threads:
            for _ in threads.map(lambda piece: source.get_range(*piece), pieces):
                pass
        return int(asked["n_images"]) // int(asked["processes"])

    return work


_STAGES: dict[str, Callable[[Asked], Work]] = {
    "decode": _decode,
    "infer": _infer,
    "fetch": _fetch,
    "fetch_bare": _fetch_bare,
}


if __name__ == "__main__":
    main()
