"""Where tasks run: the pool's contract, its outcomes and its options. Knows nothing of Ray."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from pipeline.cluster.metrics import Metric

Task = TypeVar("Task")
Result = TypeVar("Result")
Task_contra = TypeVar("Task_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Worker(Protocol[Task_contra, Result_co]):
    """Something that carries out one task at a time; made once in each actor."""

    def run(self, task: Task_contra) -> Result_co:
        """Carries out the task. Doing it twice must be harmless: the first receipt claims the output."""
        ...


@runtime_checkable
class CarefulWorker(Protocol):
    """A worker that can find out which part of a task kills it."""

    def run_carefully(self, task: Any) -> Any:
        """Carries out a task that has killed a worker before; slower, with the same result."""
        ...


@runtime_checkable
class ExpectantWorker(Protocol):
    """A worker that gains from knowing early what it will probably be asked next."""

    def expect(self, task: Any) -> None:
        """Says what comes after the task that it gets now; nothing may depend on that being true."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Generic[Result]):
    """Task ``index`` was carried out by ``worker`` (node:process); its memory peaked at ``peak_bytes``."""

    index: int
    result: Result
    worker: str = field(default="", compare=False)
    peak_bytes: int = field(default=0, compare=False)


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
        """How many workers the last ``run`` had; 0 before the first."""
        ...

    def prepare(self) -> None:
        """There will be tasks soon, in all likelihood: starts what takes time to start, and does not wait."""
        ...

    def prepare_few(self, *modules: str) -> None:
        """There will be few tasks: starts what takes time to start for ``few``; it will need ``modules``."""
        ...

    def few(
        self, make_worker: Callable[[], Worker[Task, Result]], tasks: Sequence[Task]
    ) -> Iterator[Done[Result]]:
        """Carries out tasks that take one worker less time than an engine takes to start, if the pool can.

        What has no outcome at the end, perhaps all, is to be given to ``run``.

        Raises:
            BitsieveError: as in ``run``.
        """
        ...

    def release(self) -> None:
        """There will be no more tasks, in all likelihood: ends what was started for them.

        While it runs an engine may end this process, when it has lost its own head. A ``run`` starts it anew.
        """
        ...

    def run(
        self,
        make_worker: Callable[[], Worker[Task, Result]],
        tasks: Sequence[Task],
        *,
        deadline_s: float | None = None,
    ) -> Iterator[Done[Result] | SetAside]:
        """Carries out all tasks, in any order; yields each outcome as it comes.

        With ``deadline_s``, seconds of ``time.monotonic``, it ends about then, tasks may be left without an
        outcome, but not all of them: once one has ended nothing is begun that would end later, were it as
        slow as the slowest so far. What still runs then is given up as a straggler once it has had twice as
        long as the slowest that ended.

        Raises:
            BitsieveError: a task failed in a way that another try does not mend; running tasks are stopped.
        """
        ...

    def measure(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """Counts for Prometheus: adds to a counter, sets a gauge. Does nothing before the first ``run``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Which Ray, and what an actor takes of it.

    ``address`` None starts Ray on this machine for the time of the run. ``n_workers`` None is one per GPU if
    ``gpus_per_worker``, else one per CPU of the cluster. What runs longer than ``straggler_s`` and than three
    times the slowest that ended is given to an idle worker as well, once nothing else is left to do.
    """

    address: str | None = None
    n_workers: int | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    straggler_s: float = 60.0
