"""Where a search scans codes: on the processor, or on a CUDA device.

Both give the same candidates, so the choice is made when a snapshot is opened and is part of nothing that is
stored.
"""

import time
from types import ModuleType

import numpy as np

from pipeline.errors import WorkerError
from pipeline.index.hamming import DeviceScan
from pipeline.index.search import Searcher
from pipeline.values import SearchDevice

_RACE_QUERIES = 256
_RACES = 3


def on_device(searcher: Searcher, asked: SearchDevice) -> Searcher:
    """The same search, scanning codes where ``asked`` says; ``auto`` takes a device that wins the race.

    Raises:
        WorkerError: ``cuda`` is asked for, and torch, Triton, a CUDA device or memory on it is missing, or
            Triton cannot compile.
    """
    point = searcher.calibration
    if asked == "cpu" or (asked == "auto" and (point is None or point.method == "exact")):
        return searcher
    try:
        there = scanning_with(searcher, _door().CudaScan(searcher.shards))
        return there if asked == "cuda" or _seconds(there) < _seconds(searcher) else searcher
    except WorkerError:
        if asked == "cuda":
            raise
        return searcher


def scanning_with(searcher: Searcher, scan: DeviceScan) -> Searcher:
    """The same search, whose codes ``scan`` holds."""
    return Searcher(
        searcher.encoder, searcher.shards, searcher.calibration, threads=searcher.threads, device=scan
    )


def check_cuda() -> None:
    """Refuses, before any work, a machine on which ``cuda`` cannot be had.

    Raises:
        WorkerError: torch, Triton or a CUDA device is missing.
    """
    _door().check_cuda()


def _door() -> ModuleType:
    try:
        from pipeline.index import cuda
    except (ImportError, OSError, ValueError) as exc:  # torch: a CUDA library that is not there
        raise WorkerError(
            f"index.device = cuda needs torch and Triton, which cannot be imported: {str(exc)[:300]}",
            "install the extra 'device', or search with index.device = cpu",
        ) from exc
    return cuda


def _seconds(searcher: Searcher) -> float:
    """What a batch of stored vectors takes; the first one does not count: kernels are compiled in it."""
    shard = max(searcher.shards, key=lambda shard: shard.n_rows)
    rows = np.unique(np.linspace(0, shard.n_rows - 1, _RACE_QUERIES).astype(np.int64))
    xq_QD = np.asarray(shard.vectors_ND[rows], dtype=np.float32)
    k = 10 if searcher.calibration is None else searcher.calibration.k
    seconds = []
    for _ in range(1 + _RACES):
        started = time.perf_counter()
        searcher.search_places(xq_QD, k)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
