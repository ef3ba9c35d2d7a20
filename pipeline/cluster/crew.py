"""The Ray actors of one call and the books on its tasks; a dead actor's task goes to another one.

The driver keeps the list of tasks; Ray only places and starts actors. An actor is never restarted by Ray and
never retries by itself: every retry is decided here, counted here, and finite. A task that killed its actor
three times is set aside.

Ray reads its settings from the environment when it is first imported; ``ray_pool`` sets them before it
imports this file.
"""

import contextlib
import ctypes
import logging
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic

import ray
import ray.exceptions

from pipeline.allocator import peak_bytes
from pipeline.cluster.pool import (
    CarefulWorker,
    ClusterOptions,
    Done,
    ExpectantWorker,
    Result,
    SetAside,
    Task,
    Worker,
)
from pipeline.cluster.turns import Try, Turns
from pipeline.errors import BitsieveError, StorageError, WorkerError, no_room

_LOG = logging.getLogger(__name__)
_MAX_ATTEMPTS = 3
_BACKOFF_S = 2.0
_PATIENCE_S = 30.0
_SIGACTION_BYTES = 256
"""More than any system's ``struct sigaction`` takes."""


def start(address: str | None, temp_dir: str | None, num_cpus: int | None) -> None:
    """Starts Ray on this machine with ``num_cpus`` to give away, or joins the cluster at ``address``.

    Raises:
        WorkerError: it did not start.
    """
    with _same_on_terminate():
        try:
            if address is None:
                ray.init(
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    _temp_dir=temp_dir,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as exc:  # a node that is late to start is Ray's bare Exception
            ray.shutdown()
            raise WorkerError(
                f"Ray did not start on {address or 'this machine'}: {first_line(exc)}",
                fix="check --ray-address and its token (RAY_AUTH_TOKEN), free memory and /tmp",
            ) from exc


@contextlib.contextmanager
def _same_on_terminate() -> Iterator[None]:
    """SIGTERM does afterwards what it did before: with Ray's handlers it would end the process on the spot.

    Ray changes what the system calls, when it starts and when it ends, and from the main thread what Python
    then calls. Python lets only the main thread put things back, the system lets every thread.
    """
    by_python = signal.getsignal(signal.SIGTERM)
    by_system = ctypes.create_string_buffer(_SIGACTION_BYTES)
    system = ctypes.CDLL(None)
    system.sigaction(signal.SIGTERM, None, by_system)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and by_python is not None:
            signal.signal(signal.SIGTERM, by_python)
        system.sigaction(signal.SIGTERM, by_system, None)


def stop() -> None:
    """Ends this process's connection, and the Ray that it started."""
    with _same_on_terminate():
        ray.shutdown()


def resources() -> dict[str, float]:
    """What the whole cluster has, as Ray names it."""
    return dict(ray.cluster_resources())


class Actor:
    """What runs in an actor process: one worker, one task at a time.

    The worker is made by the first task, not by the actor's creation, so that its error arrives as what it
    is.
    """

    def __init__(self, make_worker: Callable[[], Worker[Any, Any]]) -> None:
        self._make_worker = make_worker
        self._worker: Worker[Any, Any] | None = None

    def run(self, task: Any, careful: bool, upcoming: Any = None) -> tuple[Any, str, int]:  # noqa: FBT001 a Ray call
        """Carries out a task: the result, who did it, and the most memory it ever had.

        ``upcoming`` is what it will probably get next, if that is known.
        """
        if self._worker is None:
            self._worker = self._make_worker()
        if upcoming is not None and isinstance(self._worker, ExpectantWorker):
            self._worker.expect(upcoming)
        if careful and isinstance(self._worker, CarefulWorker):
            result = self._worker.run_carefully(task)
        else:
            result = self._worker.run(task)
        node = ray.get_runtime_context().get_node_id()
        return result, f"{node[:12]}:{os.getpid()}", peak_bytes()


def actors(options: ClusterOptions) -> Any:
    """What makes actors that take what a worker may have; Ray neither restarts them nor repeats a task."""
    return ray.remote(Actor).options(
        num_cpus=options.cpus_per_worker,
        num_gpus=options.gpus_per_worker,
        max_restarts=0,
        max_task_retries=0,
    )


class Crew(Generic[Task, Result]):
    """The actors of one ``run`` and the books on its tasks; ``dismiss`` it in any case."""

    def __init__(
        self,
        make_worker: Callable[[], Worker[Task, Result]],
        tasks: Sequence[Task],
        options: ClusterOptions,
        n_workers: int,
        deadline_s: float | None = None,
    ) -> None:
        self._make_worker = make_worker
        self._tasks = tasks
        self._remote = actors(options)
        self._drawn: dict[int, Task] = {}  # workers know of them; tasks may be made when they are asked for
        self._todo = Turns(len(tasks), n_workers)
        self._starting: dict[Any, Any] = {}  # an actor gets no task before it has a place to run
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, Try]] = {}
        self._starts_left = n_workers + _MAX_ATTEMPTS * len(tasks)
        self._deadline_s = math.inf if deadline_s is None else deadline_s
        self._straggler_s = options.straggler_s
        self._slowest_s = 0.0
        self._settled: set[int] = set()  # tasks that have their outcome; a copy of one may still run
        self._waiting_since_s = time.monotonic()
        for _ in range(n_workers):
            self._hire()

    def outcomes(self) -> Iterator[Done[Result] | SetAside]:
        """Each task's outcome as it comes; see ``Pool.run`` for the deadline."""
        while self._todo or self._awaited():
            self._hand_out()
            self._give_again()
            if self._only_stragglers():
                _LOG.warning("event=stragglers_given_up tasks=%d", len(self._running))
                return
            for reference in self._ready():
                if reference in self._starting:
                    self._started(reference)
                    continue
                outcome = self._collect(reference)
                if outcome is not None:
                    self._settled.add(outcome.index)
                    yield outcome

    def dismiss(self) -> None:
        """Ends the actors, whatever they are doing."""
        running = (actor for actor, _ in self._running.values())
        for actor in [*self._starting.values(), *self._idle, *running]:
            kill(actor)

    def _hire(self) -> None:
        self._starts_left -= 1
        actor = self._remote.remote(self._make_worker)
        self._starting[actor.__ray_ready__.remote()] = actor

    def _call_roll(self) -> None:
        """Idle actors get no task before they have answered: the node of one that died may have been theirs.

        A task given to a dead actor would count as one that killed it.
        """
        self._starts_left += len(self._idle)
        for actor in self._idle:
            self._starting[actor.__ray_ready__.remote()] = actor
        self._idle.clear()

    def _ready(self) -> list[Any]:
        pending = [*self._running, *self._starting]
        if not pending:
            time.sleep(0.1)  # only tasks that wait for another try
            return []
        if self._running or self._idle:
            self._waiting_since_s = time.monotonic()
        elif time.monotonic() - self._waiting_since_s > _PATIENCE_S:
            _LOG.warning("event=waiting_for_workers wanted=%d: the cluster has no room", len(self._starting))
            self._waiting_since_s = time.monotonic()
        ready, _ = ray.wait(pending, num_returns=1, timeout=1.0 if not self._idle else 0.1)
        return list(ready)

    def _started(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.RayError as exc:
            self._lose(actor)
            unschedulable = isinstance(exc, ray.exceptions.ActorUnschedulableError)
            if unschedulable or self._starts_left <= 0:
                no_memory = isinstance(exc, ray.exceptions.OutOfMemoryError)
                fix = "fewer --workers, or more memory" if no_memory else "check --workers and the cluster"
                raise WorkerError(f"a worker did not start: {first_line(exc)}", fix=fix) from exc
            _LOG.warning("event=actor_start_failed reason=%r", first_line(exc))
            self._hire()
            return
        self._idle.append(actor)

    def _lose(self, actor: Any) -> None:
        self._todo.forget(actor)
        kill(actor)

    def _only_stragglers(self) -> bool:
        """Whether the deadline is past and all that runs has had its time; the first to end always has."""
        now = time.monotonic()
        if now < self._deadline_s or not self._slowest_s:
            return False
        patience_s = max(self._straggler_s, 2 * self._slowest_s)
        return all(now - attempt.begun_s > patience_s for attempt in self._awaited())

    def _hand_out(self) -> None:
        now = time.monotonic()
        if self._slowest_s and now + self._slowest_s > self._deadline_s:
            self._todo.clear()
        while self._idle and (attempt := self._todo.take(self._idle[-1], now)) is not None:
            if attempt.index not in self._settled:
                self._give(attempt)

    def _give(self, attempt: Try) -> None:
        actor = self._idle.pop()
        attempt.begun_s = time.monotonic()
        task = self._draw(attempt.index)
        del self._drawn[attempt.index]
        promised = self._todo.promise(actor)
        upcoming = None if promised is None else self._draw(promised)
        reference = actor.run.remote(task, attempt.careful, upcoming)
        self._running[reference] = (actor, attempt)

    def _draw(self, index: int) -> Task:
        if index not in self._drawn:
            self._drawn[index] = self._tasks[index]
        return self._drawn[index]

    def _awaited(self) -> list[Try]:
        """What runs and has no outcome yet."""
        return [attempt for _, attempt in self._running.values() if attempt.index not in self._settled]

    def _give_again(self) -> None:
        """Lets idle workers try what takes far longer than all that ended: its worker may be frozen.

        Only when nothing else is left to do, and each task once; the first to end counts.
        """
        if self._todo or not self._slowest_s:
            return
        patience_s = max(self._straggler_s, 3 * self._slowest_s)
        awaited = self._awaited()
        copies = Counter(attempt.index for attempt in awaited)
        for attempt in awaited:
            is_late = time.monotonic() - attempt.begun_s > patience_s
            if self._idle and is_late and copies[attempt.index] == 1:
                _LOG.warning("event=straggler task=%d: another worker tries it too", attempt.index)
                self._give(Try(attempt.index, attempt.attempt, careful=attempt.careful))

    def _collect(self, reference: Any) -> Done[Result] | SetAside | None:
        actor, attempt = self._running.pop(reference)
        try:
            result, worker, peak_bytes = ray.get(reference)
        except ray.exceptions.RayTaskError as exc:
            self._idle.append(actor)
            if attempt.index not in self._settled:
                self._failed(attempt, our_error(exc))
            return None
        except ray.exceptions.RayError as exc:
            self._lose(actor)
            return None if attempt.index in self._settled else self._died(attempt, exc)
        self._idle.append(actor)
        if attempt.index in self._settled:
            return None
        self._slowest_s = max(self._slowest_s, time.monotonic() - attempt.begun_s)
        return Done(index=attempt.index, result=result, worker=worker, peak_bytes=peak_bytes)

    def _failed(self, attempt: Try, error: BitsieveError) -> None:
        """The task raised: try again later if the store was at fault, else give up the run."""
        if not isinstance(error, StorageError) or attempt.attempt >= _MAX_ATTEMPTS:
            raise error
        _LOG.warning("event=task_retried task=%d attempt=%d error=%r", attempt.index, attempt.attempt, error)
        later = time.monotonic() + _BACKOFF_S * 2 ** (attempt.attempt - 1)
        self._todo.put_last(Try(attempt.index, attempt.attempt + 1, later, attempt.careful))

    def _died(self, attempt: Try, error: Exception) -> SetAside | None:
        """The actor is gone: another takes its place and the task, unless this task has done it too often.

        A node that was taken away with notice is no fault of the task, however often that happens.
        """
        reason = first_line(error)
        self._hire()
        self._call_roll()
        if isinstance(error, ray.exceptions.RayActorError) and error.preempted:
            _LOG.warning("event=actor_preempted task=%d reason=%r", attempt.index, reason)
            self._starts_left += 1
            self._todo.put_first(Try(attempt.index, attempt.attempt, careful=attempt.careful))
            return None
        _LOG.warning("event=actor_died task=%d attempt=%d reason=%r", attempt.index, attempt.attempt, reason)
        if attempt.attempt >= _MAX_ATTEMPTS:
            return SetAside(index=attempt.index, attempts=attempt.attempt, reason=reason)
        self._todo.put_first(Try(attempt.index, attempt.attempt + 1, careful=True))
        return None


def kill(actor: Any) -> None:
    """Ends an actor, whatever it is doing."""
    with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
        ray.kill(actor)


def first_line(error: Exception) -> str:
    """What an error says, without its traceback."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def our_error(exc: ray.exceptions.RayTaskError) -> BitsieveError:
    """What a task raised, as an error of ours."""
    cause = exc.cause
    if isinstance(cause, BitsieveError):
        return cause
    full = no_room(cause) if isinstance(cause, OSError) else None
    return full or WorkerError(
        f"a worker failed: {cause!r}", fix="report this as a bug of bitsieve, with the worker's log"
    )
