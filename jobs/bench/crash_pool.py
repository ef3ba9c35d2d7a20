"""A pool that kills one of its workers (SIGKILL) in the middle of a task and of the first stage."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from pipeline.cluster.metrics import Metric
from pipeline.cluster.pool import Done, Pool, Result, SetAside, Task, Worker


class CrashPool:
    """Half of the tasks done, it kills the worker that gets the next one, half of a usual task later.

    ``killed`` holds the process's id once it is killed.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._called = False
        self.killed: list[int] = []

    @property
    def n_workers(self) -> int:
        """As the pool inside says."""
        return self._pool.n_workers

    def run(
        self, make_worker: Callable[[], Worker[Task, Result]], tasks: Sequence[Task]
    ) -> Iterator[Done[Result] | SetAside]:
        """See ``Pool``."""
        is_first, self._called = not self._called, True
        last_s = {"": time.monotonic()}  # when each worker gave its last outcome
        for n_done, outcome in enumerate(self._pool.run(make_worker, tasks), start=1):
            if is_first and isinstance(outcome, Done):
                now_s = time.monotonic()
                task_s = now_s - last_s.get(outcome.worker, last_s[""])
                last_s[outcome.worker] = now_s
                if n_done == max(1, len(tasks) // 2):
                    self._kill_later(int(outcome.worker.rpartition(":")[2]), task_s / 2)
            yield outcome

    def measure(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """See ``Pool``."""
        self._pool.measure(metric, value, labels)

    def _kill_later(self, pid: int, delay_s: float) -> None:
        """The worker has given its outcome and gets the next task as soon as the caller goes on."""
        timer = threading.Timer(delay_s, self._kill, [pid])
        timer.daemon = True
        timer.start()

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.killed.append(pid)
