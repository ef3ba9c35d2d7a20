"""A pool of Ray actors, embedded or on a cluster. Ray is not even imported before there is a task to run."""

import contextlib
import math
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pipeline.allocator import WORKER_ENVIRONMENT
from pipeline.cluster.child import Child
from pipeline.cluster.metrics import Meters, Metric
from pipeline.cluster.pool import ClusterOptions, Done, Result, SetAside, Task, Worker
from pipeline.cluster.scratch import Scratch
from pipeline.storage.open import S3Access, accesses_in_use, use_accesses

if TYPE_CHECKING:
    from pipeline.cluster.residents import Residents

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    **WORKER_ENVIRONMENT,  # the workers inherit it
}


@dataclass(slots=True)
class RayPool:
    """A pool of Ray actors; a context manager, because an embedded Ray must not outlive the run."""

    options: ClusterOptions = field(default_factory=ClusterOptions)
    _is_up: bool = False
    _was_needed: bool = False
    _n_workers: int = 0
    _scratch: Scratch | None = None
    _crews: Any = None  # the module that knows Ray, once it is needed
    _meters: Meters = field(default_factory=Meters)
    _starting: Future[None] | None = None
    _starter: ThreadPoolExecutor | None = None
    _child: Child | None = None

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """See ``Pool``."""
        self._end_child()
        if self._starting is not None:
            self._starting.exception()  # waits for a start that is under way
            self._starting = None
        if self._is_up:
            self._crews.stop()
            self._is_up = False
        if self._starter is not None:
            self._starter.shutdown()
            self._starter = None
        if self._scratch is not None:
            self._scratch.remove()
            self._scratch = None

    @property
    def started(self) -> bool:
        """Whether Ray was needed so far."""
        return self._was_needed

    @property
    def n_workers(self) -> int:
        """How many actors the last ``run`` had; 0 before the first."""
        return self._n_workers

    def _wanted(self) -> int:
        if self.options.n_workers is not None:
            return self.options.n_workers
        per_worker = self.options.gpus_per_worker
        resource, share = ("GPU", per_worker) if per_worker else ("CPU", self.options.cpus_per_worker)
        return max(1, int(self._crews.resources().get(resource, 0) / share))

    def run(
        self,
        make_worker: Callable[[], Worker[Task, Result]],
        tasks: Sequence[Task],
        *,
        deadline_s: float | None = None,
    ) -> Iterator[Done[Result] | SetAside]:
        """See ``Pool``."""
        self._end_child()  # also where there is nothing to do
        if not tasks:
            return
        self._start()
        self._n_workers = min(self._wanted(), len(tasks))
        crew = self._crews.Crew(_as_here(make_worker), tasks, self.options, self._n_workers, deadline_s)
        try:
            yield from crew.outcomes()
        finally:
            crew.dismiss()

    def prepare_few(self, *modules: str) -> None:
        """See ``Pool``."""
        if self._child is None and self._takes_few:
            self._child = Child(modules)

    def few(
        self, make_worker: Callable[[], Worker[Task, Result]], tasks: Sequence[Task]
    ) -> Iterator[Done[Result]]:
        """See ``Pool``: in one child of this process, unless there is a cluster or a GPU to be used."""
        if tasks and self._takes_few:
            self._child = self._child or Child()
            self._n_workers = 1
            yield from self._child.run(_as_here(make_worker), tasks)
            self._end_child()

    def _end_child(self) -> None:
        """One that was prepared and is not needed would hold its memory all night."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    @property
    def _takes_few(self) -> bool:
        options = self.options
        is_small = options.address is None and not options.gpus_per_worker and options.n_workers in (None, 1)
        return is_small and not self._is_up and self._starting is None

    @contextlib.contextmanager
    def residents(
        self, most: int, make_worker: Callable[[int, int], Worker[Task, Result]]
    ) -> Iterator["Residents[Task, Result]"]:
        """Actors that stay while the context lasts: as many as there may be workers, at most ``most``.

        ``make_worker`` gets the number of a resident, from 0, and how many there are.
        """
        self._start()
        from pipeline.cluster.residents import Residents

        self._n_workers = max(1, min(self._wanted(), most))
        makers = [
            _as_here(partial(make_worker, number, self._n_workers)) for number in range(self._n_workers)
        ]
        found: Residents[Task, Result] = Residents(makers, self.options)
        try:
            yield found
        finally:
            found.dismiss()

    def together(
        self,
        make_workers: Sequence[Callable[[], Worker[Task, Result]]],
        meet: Task,
        work: Callable[[Result], Task],
        look: Callable[[], None],
    ) -> list[Result]:
        """What these workers give, all at work at once; see ``Gang.run``."""
        self._start()
        from pipeline.cluster.gang import Gang

        self._n_workers = len(make_workers)
        return Gang([_as_here(make) for make in make_workers], self.options).run(meet, work, look)

    def measure(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """See ``Pool``."""
        if self._is_up:
            self._meters.record(metric, value, labels)

    def prepare(self) -> None:
        """See ``Pool``. The thread that starts Ray stays as long as Ray does: Linux ends them together."""
        if self._starter is None and not self._is_up:
            self._starter = ThreadPoolExecutor(1, "ray")
            self._starting = self._starter.submit(self._start_now)

    def _start(self) -> None:
        if self._starting is not None:
            self._starting.result()
        else:
            self._start_now()

    def _start_now(self) -> None:
        self._end_child()
        if self._is_up:
            return
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        _ensure_token()
        from pipeline.cluster import crew  # Ray reads the environment when it is imported

        if self.options.address is None:
            self._scratch = Scratch(Path("/tmp"))  # noqa: S108 - names are random and the folder is 0700
        # one folder further in: Ray opens its own folder to everybody
        folder = None if self._scratch is None else str(self._scratch.path / "ray")
        crew.start(self.options.address, folder, self._num_cpus())
        self._crews = crew
        self._is_up = self._was_needed = True

    def _num_cpus(self) -> int | None:
        """CPUs that an embedded Ray gives away: what the workers asked for take; None lets Ray count."""
        if self.options.n_workers is None:
            return None
        return math.ceil(self.options.n_workers * self.options.cpus_per_worker)


def _as_here(make_worker: Callable[[], Worker[Task, Result]]) -> Callable[[], Worker[Task, Result]]:
    """``make_worker``, in a process that reaches S3 as this one does."""
    return partial(_make_reaching, accesses_in_use(), make_worker)


def _make_reaching(
    accesses: tuple[S3Access, ...], make_worker: Callable[[], Worker[Task, Result]]
) -> Worker[Task, Result]:
    use_accesses(accesses)
    return make_worker()


def _ensure_token() -> None:
    """Makes Ray's token if there is none, and lets only its owner read it; Ray would use the umask."""
    if os.environ["RAY_AUTH_MODE"] != "token" or "RAY_AUTH_TOKEN" in os.environ:
        return
    default = Path.home() / ".ray" / "auth_token"
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", default))
    with contextlib.suppress(OSError):  # a home that cannot be written to: Ray says what it needs
        if token == default and not token.exists():
            _make_token(token)
        token.chmod(0o600)


def _make_token(token: Path) -> None:
    """Whole or absent, and never replaced: another driver may be making it too."""
    token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=token.parent)  # 0600 from the beginning
    aside = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(aside, token)
    finally:
        aside.unlink()
