"""The ceiling: bare processes that decode and run the model, each its share of the tars; nothing is written.

One process with two inference threads, or two with one thread each: ``processes`` and ``threads``. The clock
starts when every process has loaded the model.
"""

import multiprocessing
import time
from typing import Any

from jobs.bench.peers import plain


def main() -> None:
    """Runs the processes and prints the one JSON line."""
    asked = plain.settings()
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(asked["processes"] + 1)
    next_tar, counts = spawn.Value("i", 0), spawn.Queue()
    arguments = (asked, ready, next_tar, counts)
    workers = [spawn.Process(target=_work, args=arguments) for _ in range(asked["processes"])]
    for worker in workers:
        worker.start()
    ready.wait(timeout=120)
    started = time.perf_counter()
    n_images = sum(counts.get() for _ in workers)
    seconds = time.perf_counter() - started
    for worker in workers:
        worker.join()
    plain.report(n_images, seconds)


def _work(asked: plain.Spec, ready: Any, next_tar: Any, counts: Any) -> None:
    net = plain.Net(asked, asked["threads"])
    plain.mark(asked, "loaded")
    ready.wait(timeout=120)
    n_images = 0
    batch: list[Any] = []
    while True:
        with next_tar.get_lock():
            taken = next_tar.value
            next_tar.value += 1
        if taken >= len(asked["tars"]):
            break
        for _, data in plain.tar_images(asked["tars"][taken]):
            n_images += 1
            pixels = plain.load(data, asked["preprocess"])
            if pixels is not None:
                batch.append(pixels)
            if len(batch) == asked["batch"]:
                net(batch)
                batch = []
    if batch:
        net(batch)
    counts.put(n_images)


if __name__ == "__main__":
    main()
