"""A pool that keeps the books of a benchmark: when stages began and ended, who got what, at what cost."""

import cProfile
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, overload

from jobs.bench.doomed import Doomed
from jobs.bench.machine import usable_cores
from jobs.bench.processor import cpu_seconds
from pipeline.cluster.metrics import Metric
from pipeline.cluster.pool import Done, Pool, Result, SetAside, Task, Worker

KILLED = "killed"  # the file that says so


@dataclass(slots=True, kw_only=True)
class StageTimes:
    """One stage: its moments in seconds of ``time.perf_counter``, ``ended_at_s`` since 1970.

    ``handed_out`` has (number, images) of a task whenever a worker got it: one that is there twice was begun
    twice. ``cpu_s`` is by process what it took of the processors, from the first task to the last outcome.
    """

    called_s: float
    first_task_s: float = 0.0
    ended_s: float = 0.0
    ended_at_s: float = 0.0
    workers: int = 0
    handed_out: list[tuple[int, int]] = field(default_factory=list)
    cpu_s: Mapping[int, float] = field(default_factory=dict)

    def begun_again(self) -> list[int]:
        """The images of each task that a worker got after another one had; once for every further time."""
        seen: set[int] = set()
        again = []
        for number, n_images in self.handed_out:
            if number in seen:
                again.append(n_images)
            seen.add(number)
        return again


class TimedPool:
    """Notes of each call what ``StageTimes`` says.

    In the first call workers run under cProfile with ``profile``; with ``crash`` one of them kills itself.
    """

    def __init__(self, pool: Pool, marks: Path, *, profile: bool = False, crash: bool = False) -> None:
        self._pool = pool
        self._marks = marks
        self._profile = profile
        self._crash = crash
        self.stages: list[StageTimes] = []

    @property
    def n_workers(self) -> int:
        """As the pool inside says."""
        return self._pool.n_workers

    def prepare(self) -> None:
        """Does nothing: what the pool takes to start belongs to the first call."""

    def prepare_few(self, *modules: str) -> None:
        """Does nothing, as ``prepare``."""

    def few(
        self,
        make_worker: Callable[[], Worker[Task, Result]],  # noqa: ARG002
        tasks: Sequence[Task],  # noqa: ARG002
    ) -> Iterator[Done[Result]]:
        """Nothing: it is the engine that is measured."""
        yield from ()

    def release(self) -> None:
        """See ``Pool``."""
        self._pool.release()

    def run(
        self,
        make_worker: Callable[[], Worker[Task, Result]],
        tasks: Sequence[Task],
        *,
        deadline_s: float | None = None,
    ) -> Iterator[Done[Result] | SetAside]:
        """See ``Pool``."""
        times = StageTimes(called_s=time.perf_counter())
        self.stages.append(times)
        watched = _Watched(tasks, times)
        is_first = len(self.stages) == 1  # the reduce stage's workers are not what is measured
        loaded: Callable[[], Worker[Task, Result]] = make_worker
        if is_first:
            survived = max(1, len(tasks) // (2 * usable_cores())) if self._crash else None
            loaded = partial(_loaded, make_worker, self._marks, self._profile, survived)
        for n_done, outcome in enumerate(self._pool.run(loaded, watched, deadline_s=deadline_s), start=1):
            if n_done == len(tasks):  # the workers are there no longer when the pool has ended
                before = watched.cpu_s
                times.cpu_s = {
                    pid: spent_s - before.get(pid, 0.0) for pid, spent_s in cpu_seconds(os.getpid()).items()
                }
            yield outcome
        times.ended_s, times.ended_at_s = time.perf_counter(), time.time()
        times.workers = self._pool.n_workers
        times.first_task_s = times.first_task_s or times.called_s

    def measure(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """See ``Pool``."""
        self._pool.measure(metric, value, labels)


class _Watched(Sequence[Task]):
    """Tasks that note when each is taken: the moment when an actor gets it."""

    def __init__(self, tasks: Sequence[Task], times: StageTimes) -> None:
        self._tasks = tasks
        self._times = times
        self.cpu_s: Mapping[int, float] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | Sequence[Task]:
        if isinstance(index, slice):
            return self._tasks[index]
        if not self._times.handed_out:
            self.cpu_s = cpu_seconds(os.getpid())
            self._times.first_task_s = time.perf_counter()
        task = self._tasks[index]
        self._times.handed_out.append((index, getattr(task, "n_images", 0)))
        return task


def _loaded(
    make_worker: Callable[[], Worker[Task, Result]], marks: Path, profile: bool, survived: int | None
) -> Worker[Task, Result]:
    """The worker, and a note of what its process takes before its first image."""
    started = time.perf_counter()
    worker = make_worker()
    load_s = time.perf_counter() - started
    fields = Path("/proc/self/smaps_rollup").read_text().split()
    pss_bytes = int(fields[fields.index("Pss:") + 1]) * 1024
    note = {"pid": os.getpid(), "pss_bytes": pss_bytes, "load_s": load_s}
    (marks / f"loaded-{os.getpid()}.json").write_text(json.dumps(note))
    if profile:
        return _Profiled(worker, marks / f"profile-{os.getpid()}")
    return worker if survived is None else Doomed(worker, survived, marks / KILLED)


class _Profiled(Generic[Task, Result]):
    """A worker under cProfile; what its thread did so far is written after each task."""

    def __init__(self, worker: Worker[Task, Result], place: Path) -> None:
        self._worker = worker
        self._place = place
        self._profile = cProfile.Profile()

    def run(self, task: Task) -> Result:
        """See ``Worker``."""
        result: Any = self._profile.runcall(self._worker.run, task)
        self._profile.dump_stats(self._place)
        return result  # type: ignore[no-any-return]

    def expect(self, task: Any) -> None:
        """See ``ExpectantWorker``."""
        self._worker.expect(task)  # type: ignore[attr-defined]
