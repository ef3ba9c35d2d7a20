"""A pool without processes: each call makes one worker here and hands it the tasks in turn."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.cluster.metrics import Metric
from pipeline.cluster.pool import Done, Result, SetAside, Task, Worker


@dataclass(slots=True)
class InlinePool:
    """Carries out tasks in this thread, last one first: nobody may rely on an order.

    ``n_tasks`` counts the tasks of every call, in order of calls. Tasks whose number is in ``deadly`` "kill
    their worker" in the first call that has tasks. ``before_task`` is what the world does meanwhile.
    ``tasks`` holds the tasks of every call, ``measured`` what was counted, by metric and labels, and
    ``n_prepared``, ``n_prepared_few`` and ``n_released`` how often it was told that tasks would come, that
    few would, and that none would.
    """

    n_tasks: list[int] = field(default_factory=list)
    deadly: frozenset[int] = frozenset()
    before_task: Callable[[], object] | None = None
    tasks: list[Sequence[Any]] = field(default_factory=list)
    measured: dict[tuple[str, ...], float] = field(default_factory=dict)
    n_prepared: int = 0
    n_prepared_few: int = 0
    n_released: int = 0

    @property
    def n_workers(self) -> int:
        return min(1, len(self.n_tasks))

    def prepare(self) -> None:
        self.n_prepared += 1

    def prepare_few(self, *modules: str) -> None:
        self.n_prepared_few += 1

    def few(
        self, make_worker: Callable[[], Worker[Task, Result]], tasks: Sequence[Task]
    ) -> Iterator[Done[Result]]:
        yield from ()

    def release(self) -> None:
        self.n_released += 1

    def run(
        self,
        make_worker: Callable[[], Worker[Task, Result]],
        tasks: Sequence[Task],
        *,
        deadline_s: float | None = None,
    ) -> Iterator[Done[Result] | SetAside]:
        if not tasks:
            return
        deadly = self.deadly if not self.n_tasks else frozenset()
        self.n_tasks.append(len(tasks))
        self.tasks.append(tasks)
        worker = make_worker()
        for index in reversed(range(len(tasks))):
            if deadline_s is not None and index < len(tasks) - 1 and time.monotonic() > deadline_s:
                return
            if index in deadly:
                yield SetAside(index=index, attempts=3, reason="the worker died")
            else:
                if self.before_task is not None:
                    self.before_task()
                yield Done(index=index, result=worker.run(tasks[index]))

    def measure(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        assert sorted(labels) == sorted(("collection", *metric.labels))
        key = (metric.name, *(labels[name] for name in metric.labels))
        self.measured[key] = value if metric.is_gauge else self.measured.get(key, 0.0) + value
