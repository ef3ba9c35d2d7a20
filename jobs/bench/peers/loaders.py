"""Loads training images in a process of its own, with our loader or a PyTorch DataLoader, and says how fast.

Run as ``python -m jobs.bench.peers.loaders JSON``; prints one JSON object. Both give the same batches of the
same images in the same order, uint8 [B, 3, H, W]; the first ones are hashed. It is done twice. ``plain``:
unchanged, and theirs decodes as its users write it (``plain.load``). ``augmented``: with the changes of
training, by the same code and seeds, so that what differs is the loader: threads over one file here, worker
processes over files there.

The clock starts when a few batches have been taken, and everybody works: start-up is not in it. Processor
time is of all processes and all batches. Legend: B images of a batch, H x W the network's sides.
"""

import hashlib
import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jobs.bench.peers import plain
from pipeline.images.augment import Augment, augmented
from pipeline.train.examples import ImageExamples, image_seed
from pipeline.train.packed import PackedImages, plain_input
from pipeline.values import DecodeLimits

OURS, THEIRS = "ours", "dataloader"
PLAIN, AUGMENTED = "plain", "augmented"
_SEED = 0
_HASHED = 2


def order_of(n_images: int, batch: int, n_batches: int) -> Any:
    """Which image is at which place: int64 [n_batches, B], a new seeded order for each time through."""
    n_times = -(-batch * n_batches // n_images)
    rng = np.random.default_rng(_SEED)
    order = np.concatenate([rng.permutation(n_images) for _ in range(n_times)])
    return order[: batch * n_batches].reshape(n_batches, batch)


class Files(Dataset):  # type: ignore[misc]  # torch is not installed where types are checked
    """Every image of every batch, in order, from a file of its own."""

    def __init__(self, asked: plain.Spec, mode: str, order: Any) -> None:
        self._folder = Path(asked["files"])
        self._order = order
        self._mode = mode
        self._spec = plain_input(asked["size"])

    def __len__(self) -> int:
        return int(self._order.size)

    def __getitem__(self, number: int) -> Tensor:
        step, offset = divmod(number, self._order.shape[1])
        data = (self._folder / f"{self._order[step, offset]:06d}").read_bytes()
        if self._mode == PLAIN:
            return torch.from_numpy(plain.load(data, asdict(self._spec)))
        seed = image_seed(_SEED, step, offset)
        return torch.from_numpy(augmented(data, self._spec, DecodeLimits(), Augment(), seed))


def our_batches(asked: plain.Spec, mode: str, order: Any) -> Iterator[Tensor]:
    """The batches as a training takes them: the next one is made while this one is used."""
    starts = np.array(asked["starts"])
    packed = PackedImages(
        path=Path(asked["pack"]), kept=np.arange(len(starts) - 1), starts=starts, rejected={}
    )
    examples = ImageExamples(packed, plain_input(asked["size"]), DecodeLimits(), Augment(), _SEED)

    def one(step: int) -> Tensor:
        return examples.batch(order[step], step, 0) if mode == AUGMENTED else examples.plain(order[step])

    with ThreadPoolExecutor(1, "batches") as ahead:
        coming = ahead.submit(one, 0)
        for step in range(len(order)):
            ready = coming.result()
            if step + 1 < len(order):
                coming = ahead.submit(one, step + 1)
            yield ready


def their_batches(asked: plain.Spec, mode: str, order: Any) -> Iterator[Tensor]:
    """The batches of a DataLoader with as many workers as ours has threads."""
    return iter(DataLoader(Files(asked, mode, order), batch_size=order.shape[1], num_workers=workers()))


def workers() -> int:
    """As many as ``ImageExamples`` has threads."""
    return os.cpu_count() or 1


def measure(asked: plain.Spec, mode: str) -> dict[str, Any]:
    """Images per second of one loader, its processor time, and the digest of its first batches."""
    load = our_batches if asked["who"] == OURS else their_batches
    first = load(asked, mode, order_of(asked["n_images"], asked["batch"], _HASHED))
    digest = hashlib.sha256(b"".join(batch.numpy().tobytes() for batch in first)).hexdigest()
    n_before = 2 * workers() + 2  # more than a DataLoader has ready before anybody asks
    order = order_of(asked["n_images"], asked["batch"], n_before + asked["n_batches"])
    before_s = _processor_s()
    batches = load(asked, mode, order)
    for _ in range(n_before):
        next(batches)
    started_s = time.perf_counter()
    n_images = sum(len(batch) for batch in batches)
    wall_s = time.perf_counter() - started_s
    del batches  # its workers end, and their time is known
    return {
        "images_per_s": n_images / wall_s,
        "cpu_ms": 1000 * (_processor_s() - before_s) / order.size,
        "digest": digest,
    }


def _processor_s() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


if __name__ == "__main__":
    import json
    import sys

    sys.stdout.write(json.dumps({mode: measure(plain.settings(), mode) for mode in (PLAIN, AUGMENTED)}))
