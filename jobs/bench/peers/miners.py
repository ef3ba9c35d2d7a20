"""Mines semi-hard triplets in a process of its own, with our miner or another, and says what it cost.

Run as ``python -m jobs.bench.peers.miners WHO BATCH``; prints one JSON object. Times are of the processor,
the least of several; memory is what the process grew by at most while it mined, so each miner gets a fresh
process. Triplets are compared in float64, where the two ways of computing a distance agree.
"""

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.train.mining import Miner, mine
from pipeline.train.relation import within

OURS, OURS_ONE, THEIRS = "ours", "ours-one-per-pair", "pytorch-metric-learning"
_DIM = 128
_IMAGES_PER_CLASS = {256: 8, 512: 16, 1800: 40}
_SPREAD = 0.8
_MARGIN = 0.2
_SECONDS = 2.0

Mining = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def batch_of(n_images: int) -> tuple[Tensor, Tensor]:
    """Seeded unit vectors around class centres, float64 [N, 128], and their classes."""
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(n_images) // _IMAGES_PER_CLASS.get(n_images, 8)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    centres_CD = torch.nn.functional.normalize(draw(int(labels_N.max()) + 1, _DIM), dim=1)
    noise_ND = torch.nn.functional.normalize(draw(n_images, _DIM), dim=1)
    mixed_ND = (1 - _SPREAD**2) ** 0.5 * centres_CD[labels_N] + _SPREAD * noise_ND
    return torch.nn.functional.normalize(mixed_ND, dim=1), labels_N


def miner_of(who: str, labels_N: Tensor) -> Mining:
    """The miner of this name, over vectors of images with these labels."""
    if who == THEIRS:
        from pytorch_metric_learning import distances, miners

        squared = distances.LpDistance(p=2, power=2)
        theirs = miners.TripletMarginMiner(margin=_MARGIN, type_of_triplets="semihard", distance=squared)
        return lambda e_ND: tuple(theirs(e_ND, labels_N))
    kind = Miner.SEMI_HARD_ALL if who == OURS else Miner.SEMI_HARD

    def ours(e_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = mine(e_ND, e_ND, within(labels_N), kind, margin=_MARGIN)
        return found.anchor_T, found.positive_T, found.negative_T

    return ours


def measure(who: str, n_images: int) -> dict[str, Any]:
    """What mining one batch costs, and which triplets it gives."""
    e_ND, labels_N = batch_of(n_images)
    run = miner_of(who, labels_N)
    small_ND, small_N = batch_of(64)
    miner_of(who, small_N)(small_ND.float())  # what is loaded or made once
    before_bytes = _peak_bytes()
    times_s: list[float] = []
    while sum(times_s) < _SECONDS and len(times_s) < 10:
        began_s = time.process_time()
        run(e_ND.float())
        times_s.append(time.process_time() - began_s)
    grown_bytes = _peak_bytes() - before_bytes
    triplets_T3 = torch.stack(run(e_ND), dim=1)
    order = torch.tensor([n_images**2, n_images, 1])
    numbers_T = (triplets_T3 * order).sum(dim=1).sort().values
    return {
        "cpu_s": min(times_s),
        "grown_bytes": grown_bytes,
        "triplets": len(numbers_T),
        "digest": hashlib.sha256(numbers_T.numpy().tobytes()).hexdigest(),
    }


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
