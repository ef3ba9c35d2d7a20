"""Puts images on S3 one by one, with every core, and leaves alone what is there already; prints a JSON line.

An object is an image of the set with a number of its own behind its end, so that no two have the same bytes.
Every ``FOLDER_OBJECTS`` of them share a folder, so that a part can be read by its prefix.
"""

import json
import multiprocessing
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jobs.bench.image_sets import ImageSet, members
from pipeline.storage.open import open_store

FOLDER_OBJECTS = 10_000
_THREADS = 16

Asked = dict[str, Any]


def main() -> None:
    """Uploads what is missing and prints the one JSON line."""
    asked: Asked = json.loads(sys.argv[1])
    store = open_store(asked["place"])
    present = {stat.key for stat in store.list_objects()}
    missing = [number for number in range(asked["objects"]) if _key(number) not in present]
    started = time.perf_counter()
    spawn = multiprocessing.get_context("spawn")
    shares = [missing[share :: asked["processes"]] for share in range(asked["processes"])]
    workers = [spawn.Process(target=_put, args=(asked, share)) for share in shares if share]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        sys.exit(1)
    seconds = time.perf_counter() - started
    sys.stdout.write(json.dumps({"n_images": len(missing), "seconds": seconds}) + "\n")


def _put(asked: Asked, numbers: list[int]) -> None:
    store = open_store(asked["place"])
    images = ImageSet(name="", source="", tars=tuple(Path(tar) for tar in asked["tars"]), n_images=0)
    contents = [data for _, data in members(images)]

    def put(number: int) -> None:
        store.put(_key(number), contents[number % len(contents)] + b"%08d" % number)

    with ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(put, numbers):
            pass


def _key(number: int) -> str:
    return f"{number // FOLDER_OBJECTS:03d}/{number:07d}.jpg"


if __name__ == "__main__":
    main()
