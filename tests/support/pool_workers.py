"""Workers for tests of the pool: each does one plain thing, or dies in one plain way."""

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SourceError, StorageError
from pipeline.storage.open import access_of


@dataclass(frozen=True, slots=True)
class Task:
    """``name`` says what to do, ``folder`` is where traces of every attempt are left."""

    name: str
    folder: Path

    def attempts(self) -> int:
        return len(list(self.folder.glob(f"{self.name}-*")))

    def leave_trace(self) -> int:
        """Leaves a trace of this attempt; which attempt it is."""
        attempt = self.attempts() + 1
        (self.folder / f"{self.name}-{attempt}").write_text(str(os.getpid()))
        return attempt


class Squares:
    """Answers with the task's square and the process that did it."""

    def run(self, task: int) -> tuple[int, int]:
        return task * task, os.getpid()


class Rendezvous:
    """Ends only when as many processes as ``n`` are in it at once."""

    def __init__(self, folder: Path, n: int) -> None:
        self._folder, self._n = folder, n

    def run(self, task: int) -> int:
        (self._folder / str(os.getpid())).touch()
        while len(list(self._folder.iterdir())) < self._n:
            os.sched_yield()
        return task


class Environment:
    """Answers with the value of an environment variable in the actor."""

    def run(self, name: str) -> str | None:
        print("a worker prints")
        return os.environ.get(name)


class Reaches:
    """Answers with the profile by which the actor reaches a URI."""

    def run(self, uri: str) -> str | None:
        return access_of(uri).profile


class Fails:
    """Raises what the task's name says, after leaving a trace."""

    def run(self, task: Task) -> int:
        attempt = task.leave_trace()
        if task.name == "source":
            raise SourceError("no such catalog", fix="look again")
        if task.name == "bug":
            raise ZeroDivisionError("a bug")
        if task.name == "disk-full-once" and attempt == 1:
            raise OSError(errno.ENOSPC, "No space left on device", "/cache/file")
        if task.name == "storage-always" or (task.name == "storage-once" and attempt == 1):
            raise StorageError(f"attempt {attempt} failed", fix="wait")
        return attempt


class CannotBeMade:
    """A worker whose construction fails, as one whose model is gone from the store."""

    def __init__(self) -> None:
        raise SourceError("the worker cannot be made")

    def run(self, task: int) -> int:
        return task


class Dies:
    """Ends its process in the way the task's name says: at the first attempt, or always."""

    def run(self, task: Task) -> int:
        attempt = task.leave_trace()
        if task.name == "exit-once" and attempt == 1:
            os._exit(7)
        if task.name == "kill-once" and attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if task.name == "freeze-once" and attempt == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        if task.name == "kill-always":
            os.kill(os.getpid(), signal.SIGKILL)
        return attempt


class DiesWithAll:
    """``n`` tasks and workers; when the others have nothing to do, ``node-once`` ends all, as a node does."""

    def __init__(self, n: int) -> None:
        self._n = n

    def run(self, task: Task) -> int:
        attempt = task.leave_trace()
        while len(traces := list(task.folder.iterdir())) < self._n:
            time.sleep(0.02)
        if task.name == "node-once" and attempt == 1:
            time.sleep(0.5)  # the results of the others have arrived
            for trace in sorted(traces):  # "fine…" before "node-once"
                os.kill(int(trace.read_text()), signal.SIGKILL)
        return attempt


class Waits:
    """Ends once there is a file ``go`` in the task's folder."""

    def run(self, task: Task) -> int:
        attempt = task.leave_trace()
        while not (task.folder / "go").exists():
            time.sleep(0.02)
        return attempt


class Resident:
    """Answers with its number and the question; number 0 dies of ``die once`` and of ``die always``."""

    def __init__(self, folder: Path, number: int, n_residents: int) -> None:
        self._folder, self._number = folder, number

    def run(self, question: str) -> tuple[int, str]:
        if question == "fail":
            raise SourceError("asked to fail")
        trace = self._folder / f"died-{question}"
        if self._number == 0 and (
            question == "die always" or (question == "die once" and not trace.exists())
        ):
            trace.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self._number, question
