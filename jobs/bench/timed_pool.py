"""A pool that keeps the time: when a stage came, when its first task was handed out, when it ended."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import overload

from pipeline.cluster.metrics import Metric
from pipeline.cluster.pool import Done, Pool, Result, SetAside, Task, Worker


class TimedPool:
    """A pool that notes, for each call, when it came, when its first task was handed out, and its end."""

    def __init__(self, pool: Pool, marks: Path) -> None:
        self._pool = pool
        self._marks = marks
        self.called_s: list[float] = []
        self.first_task_s: list[float] = []
        self.ended_s: list[float] = []
        self.ended_at_s: list[float] = []  # since 1970, to compare with other processes
        self.workers: list[int] = []

    @property
    def n_workers(self) -> int:
        """As the pool inside says."""
        return self._pool.n_workers

    def run(
        self, make_worker: Callable[[], Worker[Task, Result]], tasks: Sequence[Task]
    ) -> Iterator[Done[Result] | SetAside]:
        """See ``Pool``."""
        self.called_s.append(time.perf_counter())
        watched = _Watched(tasks)
        yield from self._pool.run(partial(_loaded, make_worker, self._marks), watched)
        self.ended_s.append(time.perf_counter())
        self.ended_at_s.append(time.time())
        self.workers.append(self._pool.n_workers)
        self.first_task_s.append(watched.first_s or self.called_s[-1])

    def measure(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """See ``Pool``."""
        self._pool.measure(metric, value, labels)


class _Watched(Sequence[Task]):
    """Tasks that note when the first of them is taken: the moment when an actor gets it."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self.first_s: float | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | Sequence[Task]:
        if self.first_s is None:
            self.first_s = time.perf_counter()
        return self._tasks[index]


def _loaded(make_worker: Callable[[], Worker[Task, Result]], marks: Path) -> Worker[Task, Result]:
    """The worker, and a note of what its process takes before its first image."""
    started = time.perf_counter()
    worker = make_worker()
    load_s = time.perf_counter() - started
    fields = Path("/proc/self/smaps_rollup").read_text().split()
    place = marks / f"loaded-{os.getpid()}.json"
    if not place.exists():  # the reduce stage's workers are not what is measured
        pss_bytes = int(fields[fields.index("Pss:") + 1]) * 1024
        place.write_text(json.dumps({"pid": os.getpid(), "pss_bytes": pss_bytes, "load_s": load_s}))
    return worker
