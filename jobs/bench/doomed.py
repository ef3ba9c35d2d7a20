"""A worker that kills its own process, as ``kill -9`` would, in the middle of a task and of the stage."""

import os
import signal
import statistics
import threading
import time
from pathlib import Path
from typing import Any, Generic

from pipeline.cluster.pool import Result, Task, Worker


class Doomed(Generic[Task, Result]):
    """After ``n_tasks`` tasks it dies, half of a usual task into the next one; of all workers only the first.

    ``place`` is the file by which the workers agree on who; a task that ends too soon is survived.
    """

    def __init__(self, worker: Worker[Task, Result], n_tasks: int, place: Path) -> None:
        self._worker = worker
        self._n_tasks = n_tasks
        self._place = place
        self._task_s: list[float] = []

    def run(self, task: Task) -> Result:
        """See ``Worker``."""
        timer = None
        if len(self._task_s) >= self._n_tasks and not self._place.exists():
            timer = threading.Timer(statistics.median(self._task_s) / 2, self._die)
            timer.start()
        started = time.perf_counter()
        try:
            return self._worker.run(task)
        finally:
            if timer is not None:
                timer.cancel()
            self._task_s.append(time.perf_counter() - started)

    def expect(self, task: Any) -> None:
        """See ``ExpectantWorker``."""
        self._worker.expect(task)  # type: ignore[attr-defined]

    def run_carefully(self, task: Any) -> Any:
        """See ``CarefulWorker``: what the one that died had begun."""
        return self._worker.run_carefully(task)  # type: ignore[attr-defined]

    def _die(self) -> None:
        try:
            self._place.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
