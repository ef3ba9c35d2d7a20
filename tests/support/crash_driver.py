"""Drives a night in a process of its own, which really ends at its n-th write to the store, uncleaned.

The processes are forked from a server that has imported everything and done nothing, so that one takes a few
hundredths of a second to start.
"""

import multiprocessing
import os
from pathlib import Path
from typing import Any, NoReturn

from tests.support.crashes import ending_at
from tests.support.nights import Collection

KILLED = 137
_servers = multiprocessing.get_context("forkserver")
_servers.set_forkserver_preload([__name__])


def night(folder: Path, settings: dict[str, Any], run: int, at: int | None = None) -> int:
    """Runs night ``run`` in ``folder``; the exit code, 137 if it was killed in place of write ``at``."""
    process = _servers.Process(target=_night, args=(folder, settings, run, at))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def n_writes(folder: Path) -> int:
    """The writes of the last night in ``folder`` that nobody killed."""
    return int((folder / "writes").read_text())


def _night(folder: Path, settings: dict[str, Any], run: int, at: int | None) -> None:
    collection = Collection(folder, settings=settings, n_runs=run - 1)
    with ending_at(at, _die) as writes:
        collection.night()
    (folder / "writes").write_text(str(writes.begun))


def _die() -> NoReturn:
    os._exit(KILLED)
