"""Finds processes: those that a test left behind, by their mark, and those that a process has started."""

import contextlib
import os
import time
from pathlib import Path

MARK = "BITSIEVE_TEST_MARK"
_RAY = (b"raylet", b"gcs_server", b"default_worker.py", b"ray::", b"log_monitor.py")
AGENTS = (b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")  # they outlive a killed driver by a minute


def ray_processes(mark: str, but: tuple[bytes, ...] = ()) -> list[str]:
    """Command lines of Ray's processes that were started under ``MARK=mark``, but for some."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            command = (process / "cmdline").read_bytes()
            if any(name in command for name in but):
                continue
            if any(name in command for name in _RAY) and wanted in (process / "environ").read_bytes():
                found.append(
                    f"{process.name} {command.replace(bytes(1), b' ').decode(errors='replace')[:120]}"
                )
        except OSError:
            continue
    return found


def ray_processes_left(mark: str, but: tuple[bytes, ...] = (), patience_s: float = 90.0) -> list[str]:
    """The same, once those that are on their way out are gone."""
    give_up_s = time.monotonic() + patience_s
    while (left := ray_processes(mark, but)) and time.monotonic() < give_up_s:
        time.sleep(0.1)
    return left


def descendants(pid: int) -> list[int]:
    """The processes that ``pid`` has started, and those that these have started, eldest first."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(process.name))
    found = sorted(children.get(pid, []))
    for child in found:
        found += sorted(children.get(child, []))
    return found
