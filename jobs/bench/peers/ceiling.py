"""The ceiling: bare loops that decode and run the model; nothing is fetched over a network, nothing written.

``processes`` processes of ``streams`` threads each; every process has one session with ``intra`` inference
threads, and every thread takes images, decodes them, and runs the model on ``batch`` of them at once. The
work is shared out 16 images at a time, so that nobody waits for the last tar, and the tars' headers are read
before the clock starts, which is when every process has loaded the model.
"""

import multiprocessing
import os
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobs.bench.peers import plain

_TAKEN_AT_ONCE = 16
_PATIENCE_S = 120

Member = tuple[int, int, int]  # number of the tar, offset, size in bytes


def main() -> None:
    """Runs the processes and prints the one JSON line."""
    asked = plain.settings()
    images = [member for number, tar in enumerate(asked["tars"]) for member in _members(number, tar)]
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(asked["processes"] + 1)
    next_image, spent = spawn.Value("i", 0), spawn.Queue()
    arguments = (asked, images, ready, next_image, spent)
    workers = [spawn.Process(target=_work, args=arguments) for _ in range(asked["processes"])]
    spent_s, seconds = plain.together(workers, ready, spent)
    plain.report(len(images), seconds, cpu_ms_per_image=1000 * sum(spent_s) / max(1, len(images)))


def _members(number: int, path: str) -> list[Member]:
    with tarfile.open(path, "r:") as tar:
        return [(number, info.offset_data, info.size) for info in tar if plain.is_image(info)]


def _work(asked: plain.Spec, images: list[Member], ready: Any, next_image: Any, spent: Any) -> None:
    net = plain.Net(asked, asked["intra"])
    handles = [os.open(tar, os.O_RDONLY) for tar in asked["tars"]]
    plain.mark(asked, "loaded")
    ready.wait(timeout=_PATIENCE_S)
    started = time.process_time()
    with ThreadPoolExecutor(asked["streams"]) as threads:
        streams = [
            threads.submit(_stream, asked, net, images, handles, next_image) for _ in range(asked["streams"])
        ]
        for stream in streams:
            stream.result()
    spent.put(time.process_time() - started)


def _stream(
    asked: plain.Spec, net: plain.Net, images: list[Member], handles: list[int], next_image: Any
) -> None:
    batch: list[Any] = []
    while True:
        with next_image.get_lock():
            first = next_image.value
            next_image.value += _TAKEN_AT_ONCE
        for number, offset, size in images[first : first + _TAKEN_AT_ONCE]:
            pixels = plain.load(os.pread(handles[number], size, offset), asked["preprocess"])
            if pixels is not None:
                batch.append(pixels)
            if len(batch) == asked["batch"]:
                net(batch)
                batch = []
        if first >= len(images):
            break
    if batch:
        net(batch)


if __name__ == "__main__":
    main()
