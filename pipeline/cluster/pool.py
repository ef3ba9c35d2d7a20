"""Runs tasks on Ray actors: gives a dead actor's task to another one, and sets aside a task that kills.

The driver keeps the list of tasks; Ray only places and starts actors. An actor is never restarted by Ray and never retries
by itself: every retry is decided here, counted here, and finite. Ray is not started before there is a task to run.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import ray
import ray.exceptions

from pipeline.errors import BitsieveError, StorageError, WorkerError

Task = TypeVar("Task")
Result = TypeVar("Result")
_TaskIn = TypeVar("_TaskIn", contravariant=True)
_ResultOut = TypeVar("_ResultOut", covariant=True)

_LOG = logging.getLogger(__name__)
_MAX_ATTEMPTS = 3
_BACKOFF_S = 2.0


class Worker(Protocol[_TaskIn, _ResultOut]):
    """Something that carries out one task at a time; made once in each actor."""

    def run(self, task: _TaskIn) -> _ResultOut:
        """Carries out the task. Doing it twice must be harmless: its output is claimed by the first receipt."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Generic[Result]):
    """Task number ``index`` was carried out."""

    index: int
    result: Result


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """Task number ``index`` killed its worker so often that it is not given to another one."""

    index: int
    attempts: int
    reason: str


class Pool(Protocol):
    """Where tasks run."""

    @property
    def n_workers(self) -> int:
        """How many workers run at once."""
        ...

    def run(
        self, make_worker: Callable[[], Worker[Task, Result]], tasks: Sequence[Task]
    ) -> Iterator[Done[Result] | SetAside]:
        """Carries out all tasks, in any order; yields each outcome as it comes.

        Raises:
            BitsieveError: a task failed in a way that another try does not mend; running tasks are stopped.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Which Ray, and what an actor takes of it.

    ``address`` None starts Ray on this machine for the time of the run. ``n_workers`` None is one per GPU if
    ``gpus_per_worker``, else one per CPU of the cluster.
    """

    address: str | None = None
    n_workers: int | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0


@dataclass(slots=True)
class RayPool:
    """A pool of Ray actors; a context manager, because an embedded Ray must not outlive the run."""

    options: ClusterOptions = field(default_factory=ClusterOptions)
    _started: bool = False
    _temp_dir: str | None = None

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started:
            ray.shutdown()
            self._started = False
        if self._temp_dir is not None:
            shutil.rmtree(self._temp_dir, ignore_errors=True)

    @property
    def started(self) -> bool:
        """Whether Ray was needed so far."""
        return self._started

    @property
    def n_workers(self) -> int:
        """How many actors are wanted; starts Ray if the cluster has to be asked."""
        if self.options.n_workers is not None:
            return self.options.n_workers
        self._start()
        per_worker = self.options.gpus_per_worker
        resource, share = ("GPU", per_worker) if per_worker else ("CPU", self.options.cpus_per_worker)
        return max(1, int(ray.cluster_resources().get(resource, 0) / share))

    def run(
        self, make_worker: Callable[[], Worker[Task, Result]], tasks: Sequence[Task]
    ) -> Iterator[Done[Result] | SetAside]:
        """See ``Pool``."""
        if not tasks:
            return
        self._start()
        crew = _Crew(make_worker, tasks, self.options, min(self.n_workers, len(tasks)))
        try:
            yield from crew.outcomes()
        finally:
            crew.dismiss()

    def _start(self) -> None:
        if self._started:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        _protect_token()
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if self.options.address is None:
                self._temp_dir = tempfile.mkdtemp(prefix="bsv-", dir="/tmp")  # noqa: S108 Ray's socket paths are short
                ray.init(include_dashboard=False, _temp_dir=self._temp_dir, **quiet)
            else:
                ray.init(address=self.options.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as exc:
            where = self.options.address or "this machine"
            raise WorkerError(
                f"Ray did not start on {where}: {exc}", fix="check --ray-address, free memory and /tmp"
            ) from exc
        self._started = True


class _Actor:
    """What runs in an actor process: one worker, one task at a time.

    The worker is made by the first task, not by the actor's creation, so that its error arrives as what it is.
    """

    def __init__(self, make_worker: Callable[[], Worker[Any, Any]]) -> None:
        self._make_worker = make_worker
        self._worker: Worker[Any, Any] | None = None

    def run(self, task: Any) -> Any:
        if self._worker is None:
            self._worker = self._make_worker()
        return self._worker.run(task)


@dataclass(slots=True)
class _Try:
    index: int
    attempt: int
    not_before_s: float = 0.0


class _Crew(Generic[Task, Result]):
    """The actors of one ``run`` and the books on its tasks."""

    def __init__(
        self,
        make_worker: Callable[[], Worker[Task, Result]],
        tasks: Sequence[Task],
        options: ClusterOptions,
        n_workers: int,
    ) -> None:
        self._make_worker = make_worker
        self._tasks = tasks
        self._remote = ray.remote(_Actor).options(
            num_cpus=options.cpus_per_worker,
            num_gpus=options.gpus_per_worker,
            max_restarts=0,
            max_task_retries=0,
        )
        self._todo = deque(_Try(index, 1) for index in range(len(tasks)))
        self._idle: list[Any] = [self._remote.remote(make_worker) for _ in range(n_workers)]
        self._running: dict[Any, tuple[Any, _Try]] = {}

    def outcomes(self) -> Iterator[Done[Result] | SetAside]:
        while self._todo or self._running:
            self._hand_out()
            ready, _ = (
                ray.wait(list(self._running), num_returns=1, timeout=1.0) if self._running else ([], [])
            )
            if not self._running:
                time.sleep(0.1)
            for reference in ready:
                outcome = self._collect(reference)
                if outcome is not None:
                    yield outcome

    def dismiss(self) -> None:
        for actor in [*self._idle, *(actor for actor, _ in self._running.values())]:
            with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
                ray.kill(actor)

    def _hand_out(self) -> None:
        now = time.monotonic()
        for _ in range(len(self._todo)):
            if not self._idle:
                return
            attempt = self._todo.popleft()
            if attempt.not_before_s > now:
                self._todo.append(attempt)
                continue
            actor = self._idle.pop()
            self._running[actor.run.remote(self._tasks[attempt.index])] = (actor, attempt)

    def _collect(self, reference: Any) -> Done[Result] | SetAside | None:
        actor, attempt = self._running.pop(reference)
        try:
            result = ray.get(reference)
        except ray.exceptions.RayTaskError as exc:
            self._idle.append(actor)
            return self._failed(attempt, _our_error(exc))
        except ray.exceptions.RayError as exc:
            return self._died(attempt, exc)
        self._idle.append(actor)
        return Done(index=attempt.index, result=result)

    def _failed(self, attempt: _Try, error: BitsieveError) -> None:
        """The task raised: try again later if the store was at fault and might recover, else give up the run."""
        if not isinstance(error, StorageError) or attempt.attempt >= _MAX_ATTEMPTS:
            raise error
        _LOG.warning("event=task_retried task=%d attempt=%d error=%r", attempt.index, attempt.attempt, error)
        later = time.monotonic() + _BACKOFF_S * 2 ** (attempt.attempt - 1)
        self._todo.append(_Try(attempt.index, attempt.attempt + 1, later))

    def _died(self, attempt: _Try, error: Exception) -> SetAside | None:
        """The actor is gone: another takes its place and the task, unless this task has done it too often."""
        reason = str(error).strip().splitlines()[0]
        if isinstance(error, ray.exceptions.ActorUnschedulableError):
            raise WorkerError(
                f"no node can take a worker: {reason}", fix="check --workers and the cluster"
            ) from error
        _LOG.warning("event=actor_died task=%d attempt=%d reason=%r", attempt.index, attempt.attempt, reason)
        self._idle.append(self._remote.remote(self._make_worker))
        if attempt.attempt >= _MAX_ATTEMPTS:
            return SetAside(index=attempt.index, attempts=attempt.attempt, reason=reason)
        self._todo.appendleft(_Try(attempt.index, attempt.attempt + 1))
        return None


def _our_error(exc: ray.exceptions.RayTaskError) -> BitsieveError:
    cause = exc.cause
    if isinstance(cause, BitsieveError):
        return cause
    return WorkerError(
        f"a worker failed: {cause!r}", fix="report this as a bug of bitsieve, with the worker's log"
    )


def _protect_token() -> None:
    """Ray writes its token with the umask of the day; only its owner may read it."""
    token = Path.home() / ".ray" / "auth_token"
    if token.exists():
        with contextlib.suppress(OSError):
            token.chmod(0o600)
