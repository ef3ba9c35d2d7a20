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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

PERIOD_S = 0.2
_DAEMONS = (
    "ray/core/src/ray/",
    "ray/dashboard/",
    "ray/_private/log_monitor.py",
    "ray/_private/runtime_env/",
    "ray/autoscaler/",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """One process at one moment."""

    pss_bytes: int
    shared_bytes: int
    is_daemon: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakMemory:
    """Peaks over a run, in bytes; ``driver_bytes`` is the process that was started, ``total_bytes`` all."""

    working_bytes: int
    total_bytes: int
    driver_bytes: int
    idle_bytes: int
    n_samples: int


Sample = Mapping[int, ProcessMemory]


class MemoryWatch:
    """Samples the process tree under ``root`` from a thread until it is left; a context manager."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._samples: list[Sample] = []
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

    def peak(self, marks: Path) -> PeakMemory:
        """The peaks; ``marks`` holds a file ``loaded-<pid>.json`` of each actor that has its model."""
        return peak(self._samples, self._root, _idle_bytes(marks))

    def _watch(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            self._samples.append(sample(self._root))
            self._stop.wait(max(0.0, PERIOD_S - (time.monotonic() - started)))


def peak(samples: list[Sample], root: int, idle: Mapping[int, int]) -> PeakMemory:
    """The peaks of ``samples``; ``idle`` is what each loaded actor took before its first image.

    >>> one = {1: ProcessMemory(pss_bytes=50, shared_bytes=0, is_daemon=False),
    ...        2: ProcessMemory(pss_bytes=30, shared_bytes=10, is_daemon=True),
    ...        3: ProcessMemory(pss_bytes=90, shared_bytes=0, is_daemon=False)}
    >>> peak([one], 1, {3: 70})
    PeakMemory(working_bytes=80, total_bytes=170, driver_bytes=50, idle_bytes=70, n_samples=1)
    """
    return PeakMemory(
        working_bytes=max((_working_bytes(one, idle) for one in samples), default=0),
        total_bytes=max((sum(process.pss_bytes for process in one.values()) for one in samples), default=0),
        driver_bytes=max((one[root].pss_bytes for one in samples if root in one), default=0),
        idle_bytes=sum(idle.values()),
        n_samples=len(samples),
    )


def sample(root: int) -> Sample:
    """The memory of ``root``, its descendants and whoever else is in its session, now."""
    found = {}
    for pid in _tree(root):
        with contextlib.suppress(OSError, ValueError):  # a process that ends meanwhile
            fields = Path(f"/proc/{pid}/smaps_rollup").read_text().split()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            found[pid] = ProcessMemory(
                pss_bytes=_kib(fields, "Pss:"),
                shared_bytes=_kib(fields, "Pss_Shmem:"),
                is_daemon=any(part in command for part in _DAEMONS),
            )
    return found


def _working_bytes(one: Sample, idle: Mapping[int, int]) -> int:
    return sum(
        process.shared_bytes if process.is_daemon else process.pss_bytes - idle.get(pid, 0)
        for pid, process in one.items()
    )


def _tree(root: int) -> set[int]:
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
