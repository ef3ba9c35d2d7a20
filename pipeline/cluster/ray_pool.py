"""A pool of Ray actors, embedded or on a cluster. Ray is not even imported before there is a task to run."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.cluster.pool import ClusterOptions, Done, Result, SetAside, Task, Worker

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
}


@dataclass(slots=True)
class RayPool:
    """A pool of Ray actors; a context manager, because an embedded Ray must not outlive the run."""

    options: ClusterOptions = field(default_factory=ClusterOptions)
    _started: bool = False
    _temp_dir: str | None = None
    _crews: Any = None  # the module that knows Ray, once it is needed

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started:
            self._crews.stop()
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
        return max(1, int(self._crews.resources().get(resource, 0) / share))

    def run(
        self, make_worker: Callable[[], Worker[Task, Result]], tasks: Sequence[Task]
    ) -> Iterator[Done[Result] | SetAside]:
        """See ``Pool``."""
        if not tasks:
            return
        self._start()
        crew = self._crews.Crew(make_worker, tasks, self.options, min(self.n_workers, len(tasks)))
        try:
            yield from crew.outcomes()
        finally:
            crew.dismiss()

    def _start(self) -> None:
        if self._started:
            return
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        from pipeline.cluster import crew  # Ray reads the environment when it is imported

        if self.options.address is None:
            self._temp_dir = tempfile.mkdtemp(prefix="bsv-", dir="/tmp")
        crew.start(self.options.address, self._temp_dir)
        _protect_token()
        self._crews = crew
        self._started = True


def _protect_token() -> None:
    """Ray writes its token with the umask of the day; only its owner may read it."""
    token = Path.home() / ".ray" / "auth_token"
    if token.exists():
        with contextlib.suppress(OSError):
            token.chmod(0o600)
