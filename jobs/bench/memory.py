"""How much memory a tree of processes takes, sampled while it runs: PSS, with Ray's own daemons kept apart.

PSS shares each page among the processes that map it, so the sum counts nothing twice. What is compared is the
*working* memory: all processes but Ray's daemons, plus the daemons' shared memory (the object store, where
Ray Data keeps what travels between its tasks), less what the loaded actors took before their first image.
The raw total is reported beside it.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

PERIOD_S = 0.2
_DAEMONS = (
    "ray/core/src/ray/",
    "ray/dashboard/",
    "ray/_private/log_monitor.py",
    "ray/_private/runtime_env/",
    "ray/autoscaler/",
    "ray::DashboardAgent",  # these two rename themselves
    "ray::RuntimeEnvAgent",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """One process at one moment."""

    pss_bytes: int
    shared_bytes: int
    is_daemon: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakMemory:
    """Peaks up to the end of the timed part, in bytes.

    ``total_bytes`` is everything, ``driver_bytes`` the process that was started, ``idle_bytes`` what the
    loaded actors took before their first image, ``whole_bytes`` the total over the whole run.
    """

    working_bytes: int
    total_bytes: int
    driver_bytes: int
    idle_bytes: int
    whole_bytes: int
    n_samples: int


Sample = Mapping[int, ProcessMemory]


class MemoryWatch:
    """Samples the process tree under ``root`` from a thread until it is left; a context manager."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._samples: list[tuple[float, Sample]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def peak(self, marks: Path, until_s: float) -> PeakMemory:
        """The peaks until ``until_s``; ``marks`` holds ``loaded-<pid>.json`` of each actor with its model."""
        timed = [one for taken_s, one in self._samples if taken_s <= until_s]
        whole_bytes = max((_total_bytes(one) for _, one in self._samples), default=0)
        return replace(peak(timed, self._root, _idle_bytes(marks)), whole_bytes=whole_bytes)

    def _watch(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            self._samples.append((time.time(), sample(self._root)))
            self._stop.wait(max(0.0, PERIOD_S - (time.monotonic() - started)))


def peak(samples: Sequence[Sample], root: int, idle: Mapping[int, int]) -> PeakMemory:
    """The peaks of ``samples``; ``idle`` is what each loaded actor took before its first image.

    >>> one = {1: ProcessMemory(pss_bytes=50, shared_bytes=0, is_daemon=False),
    ...        2: ProcessMemory(pss_bytes=30, shared_bytes=10, is_daemon=True),
    ...        3: ProcessMemory(pss_bytes=90, shared_bytes=0, is_daemon=False)}
    >>> found = peak([one], 1, {3: 70})
    >>> found.working_bytes, found.total_bytes, found.driver_bytes
    (80, 170, 50)
    """
    total_bytes = max((_total_bytes(one) for one in samples), default=0)
    return PeakMemory(
        working_bytes=max((_working_bytes(one, idle) for one in samples), default=0),
        total_bytes=total_bytes,
        driver_bytes=max((one[root].pss_bytes for one in samples if root in one), default=0),
        idle_bytes=sum(idle.values()),
        whole_bytes=total_bytes,
        n_samples=len(samples),
    )


def sample(root: int) -> Sample:
    """The memory of ``root``, its descendants and whoever else is in its session, now."""
    found = {}
    for pid in process_tree(root):
        with contextlib.suppress(OSError, ValueError):  # a process that ends meanwhile
            fields = Path(f"/proc/{pid}/smaps_rollup").read_text().split()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            found[pid] = ProcessMemory(
                pss_bytes=_kib(fields, "Pss:"),
                shared_bytes=_kib(fields, "Pss_Shmem:"),
                is_daemon=any(part in command for part in _DAEMONS),
            )
    return found


def _total_bytes(one: Sample) -> int:
    return sum(process.pss_bytes for process in one.values())


def _working_bytes(one: Sample, idle: Mapping[int, int]) -> int:
    return sum(
        process.shared_bytes if process.is_daemon else process.pss_bytes - idle.get(pid, 0)
        for pid, process in one.items()
    )


def process_tree(root: int) -> set[int]:
    """The pids of ``root``, its descendants and whoever else is in its session."""
    parents: dict[int, int] = {}
    tree = {root}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                parents[int(entry)] = int(fields[1])
                if int(fields[3]) == root:  # its session: a daemon whose parent has ended
                    tree.add(int(entry))
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in tree} - tree
        tree |= children
        grown = bool(children)
    return tree


def _kib(fields: list[str], name: str) -> int:
    return int(fields[fields.index(name) + 1]) * 1024


def _idle_bytes(marks: Path) -> dict[int, int]:
    found = {}
    for path in marks.glob("loaded-*.json"):
        one = json.loads(path.read_text())
        found[int(one["pid"])] = int(one["pss_bytes"])
    return found
