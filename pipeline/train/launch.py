"""Carries out a training in Ray actors: one by default, or several that train as one (``ranks``).

The actors are a gang of the cluster room: this file knows no Ray. The first one says where the others find
it; then each joins torch's process group and runs the loop. The driver watches through the store, where rank
0 writes how far it is. A try that ends because an actor died is followed by another, which goes on from the
newest checkpoint.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import distributed

from pipeline.cluster.ray_pool import RayPool
from pipeline.errors import WorkerError
from pipeline.train.job import TrainJob
from pipeline.train.ranks import Ranks
from pipeline.train.results import training_document, training_result

_MEET = ""

Watch = Callable[[dict[str, Any]], None]
Answer = str | dict[str, Any]


@dataclass(slots=True)
class TrainWorker:
    """One rank. Asked for ``""`` it gives an address of its machine; asked for an address it trains there."""

    job: TrainJob
    ranks: Ranks
    threads: int
    gpu: bool

    def run(self, task: str) -> Answer:
        """See ``pipeline.cluster.pool.Worker``."""
        if task == _MEET:
            return _free_address()
        torch.set_num_threads(self.threads)
        if self.ranks.count > 1:
            distributed.init_process_group(
                "nccl" if self.gpu else "gloo",
                init_method=f"tcp://{task}",
                rank=self.ranks.number,
                world_size=self.ranks.count,
            )
        return self.job.run(self.ranks, "cuda" if self.gpu else "cpu")


def launch(job: TrainJob, pool: RayPool, *, threads: int, watch: Watch) -> dict[str, Any]:
    """Trains with as many workers as the settings say; the result document.

    Args:
        job: what to train.
        pool: where to; its options say what each worker has of the machine.
        threads: torch's threads in each worker.
        watch: gets rank 0's progress about once a second.

    Raises:
        UsageError: the settings cannot be trained.
        WorkerError: workers died again and again, or there is no room for all of them.
    """
    count, gpu, key = job.settings.workers, job.settings.gpu, job.key()

    def look() -> None:
        progress = training_document(job.store, key, "progress")
        if progress is not None:
            watch(progress)

    workers = [
        partial(TrainWorker, job, Ranks(number=number, count=count), threads, gpu) for number in range(count)
    ]
    pool.together(workers, _MEET, str, look)
    result = training_result(job.store, key)
    if result is None:
        raise WorkerError(f"training {key} ended without a result in {job.store.uri}", fix="run it again")
    return result


def _free_address() -> str:
    """This machine as the others see it, with a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port = listener.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: it only tells which way leads out
            host = str(probe.getsockname()[0])
        except OSError:
            host = "127.0.0.1"
    return f"{host}:{port}"
