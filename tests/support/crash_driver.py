"""Drives a night in a process of its own, which ends at its n-th write to the store, uncleaned, or freezes.

The processes are forked from a server that has imported everything and done nothing, so that one takes a few
hundredths of a second to start. The tasks run in that process too, unless the address of a Ray cluster is
given.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NoReturn

from pipeline.cluster.pool import ClusterOptions
from pipeline.cluster.ray_pool import RayPool
from tests.support.crashes import before_writes, ending_at
from tests.support.nights import Collection
from tests.support.tally import tally

KILLED = 137
_STOPS_S = 60.0
_servers = multiprocessing.get_context("forkserver")
_servers.set_forkserver_preload([__name__])


@dataclass(frozen=True, slots=True, kw_only=True)
class OnRay:
    """The Ray cluster that carries out the tasks, and what its drivers have in their environment."""

    address: str
    environment: dict[str, str]


def night(
    folder: Path, settings: dict[str, Any], run: int, at: int | None = None, on_ray: OnRay | None = None
) -> int:
    """Runs night ``run`` in ``folder``; the exit code, 137 if it was killed in place of write ``at``."""
    code = ended(started(folder, settings, run, at, on_ray))
    tally.crash_points += code == KILLED
    return code


def started(
    folder: Path, settings: dict[str, Any], run: int, at: int | None = None, on_ray: OnRay | None = None
) -> ForkServerProcess:
    """The same night under way."""
    return _start(_killed_night, folder, settings, run, at, on_ray)


def frozen(folder: Path, settings: dict[str, Any], run: int, at: int) -> ForkServerProcess:
    """A night that stands still in front of its write ``at``; it goes on at SIGCONT."""
    process = _start(_frozen_night, folder, settings, run, at)
    give_up_s = time.monotonic() + _STOPS_S
    while _state(process) != "T":
        assert process.is_alive(), f"the night ended before its write {at}"
        assert time.monotonic() < give_up_s
        time.sleep(0.002)
    tally.faults["driver frozen"] += 1
    return process


def wake(process: ForkServerProcess) -> int:
    """Lets a frozen night go on; its exit code."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGCONT)
    return ended(process)


def ended(process: ForkServerProcess) -> int:
    """The exit code of a night, once it has one."""
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def n_writes(folder: Path) -> int:
    """The writes of the last night in ``folder`` that nobody killed."""
    return int((folder / "writes").read_text())


def _start(target: Callable[..., None], *arguments: object) -> ForkServerProcess:
    process = _servers.Process(target=target, args=arguments)
    process.start()
    return process


def _killed_night(
    folder: Path, settings: dict[str, Any], run: int, at: int | None, on_ray: OnRay | None
) -> None:
    with ending_at(at, _die) as writes:
        if on_ray is None:
            _collection(folder, settings, run).night()
        else:
            os.environ.update(on_ray.environment)
            with RayPool(ClusterOptions(address=on_ray.address, n_workers=1)) as pool:
                _collection(folder, settings, run, pool).night()
    (folder / "writes").write_text(str(writes.begun))


def _frozen_night(folder: Path, settings: dict[str, Any], run: int, at: int) -> None:
    def freeze(begun: int) -> None:
        if begun == at:
            os.kill(os.getpid(), signal.SIGSTOP)

    with before_writes(freeze):
        _collection(folder, settings, run).night()


def _collection(
    folder: Path, settings: dict[str, Any], run: int, cluster: RayPool | None = None
) -> Collection:
    return Collection(folder, settings=settings, n_runs=run - 1, cluster=cluster)


def _state(process: ForkServerProcess) -> str:
    """One letter, as the kernel says it: T is stopped."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def _die() -> NoReturn:
    os._exit(KILLED)
