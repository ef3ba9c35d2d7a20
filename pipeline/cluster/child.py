"""One worker in a child process of the driver, for what takes it less time than Ray takes to start.

It is no second engine: it has no queue and tries nothing twice. A child that dies, that fails because a store
does, or that proves slow is given up, and what it has not done is for Ray, by whose rules it then goes.
"""

import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from pipeline.allocator import WORKER_ENVIRONMENT, peak_bytes
from pipeline.cluster.pool import Done, Result, Task, Worker
from pipeline.errors import BitsieveError, StorageError, WorkerError, no_room

_WORTH_S = 10.0
"""What is left may take so long, by what was done so far; beyond that Ray is worth its start."""
_END_S = 5.0


class Child:
    """A child that imports ``modules`` at once and carries out tasks later; ``end`` it in any case."""

    def __init__(self, modules: Sequence[str] = ()) -> None:
        for name, value in WORKER_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        context = multiprocessing.get_context("spawn")  # a fork would share the driver's locks and sockets
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, tuple(modules)), daemon=True)
        self._process.start()
        there.close()

    def run(
        self, make_worker: Callable[[], Worker[Task, Result]], tasks: Sequence[Task]
    ) -> Iterator[Done[Result]]:
        """Carries out tasks in order, as long as all goes well; what has no outcome is to be done elsewhere.

        Raises:
            BitsieveError: a task failed in a way that another try does not mend.
        """
        begun_s = time.monotonic()
        for index, task in enumerate(tasks):
            try:
                self._pipe.send((make_worker if index == 0 else None, task))
                answer = self._pipe.recv()
            except (EOFError, OSError):
                return
            if isinstance(answer, StorageError):
                return
            if isinstance(answer, BitsieveError):
                raise answer
            result, peak_bytes = answer
            yield Done(index=index, result=result, worker=f"child:{self._process.pid}", peak_bytes=peak_bytes)
            done = index + 1
            if (time.monotonic() - begun_s) / done * (len(tasks) - done) > _WORTH_S:
                return

    def end(self) -> None:
        """Ends the child, whatever it is doing."""
        self._pipe.close()
        self._process.kill()
        self._process.join(_END_S)


def _serve(pipe: Connection, modules: Sequence[str]) -> None:
    """The child: answers until the driver is gone. What it prints reaches nobody, as with Ray's workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the driver ends the child
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    threading.Thread(target=_end_with_driver, name="driver", daemon=True).start()
    for module in modules:
        importlib.import_module(module)
    worker: Worker[Any, Any] | None = None
    while True:
        try:
            make_worker, task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if make_worker is not None:
                worker = make_worker()
            answer: Any = _carried_out(worker, task)
        except BitsieveError as exc:
            answer = exc
        except Exception as exc:  # whatever it is, the driver must hear of it
            full = no_room(exc) if isinstance(exc, OSError) else None
            answer = full or WorkerError(
                f"a worker failed: {exc!r}", fix="report this as a bug of bitsieve, with the worker's log"
            )
        try:
            pipe.send(answer)
        except OSError:
            return


def _end_with_driver() -> None:
    """Ends this process with its driver, in the middle of a task too: a killed driver can end nobody."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)


def _carried_out(worker: Worker[Any, Any] | None, task: Any) -> tuple[Any, int]:
    if worker is None:
        raise WorkerError("a task came before its worker", fix="report this as a bug of bitsieve")
    return worker.run(task), peak_bytes()
