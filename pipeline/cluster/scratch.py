"""Ray's folder on this machine: a short path, because its socket names must stay under 108 bytes.

A driver that is killed leaves its folder behind. Each folder holds a lock file that its driver keeps locked
as long as it lives, so a later driver knows which folders are nobody's any more and removes them. Not before
the last process of that Ray is gone, though: its agents take a minute to learn that they should end.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "bsv-"
_LOCK = "driver.lock"


class Scratch:
    """A folder for one driver; ``remove`` it in any case."""

    def __init__(self, parent: Path) -> None:
        _sweep(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = _locked(self.path, create=True)

    def remove(self) -> None:
        """Deletes the folder, whatever Ray left there."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        lock = _locked(folder, create=False)
        if lock is not None:
            if not _in_use(folder):
                shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _in_use(folder: Path) -> bool:
    """Whether another process of this user has a file open there."""
    inside = f"{folder}/"
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            for link in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(link).startswith(inside):
                        return True
    return False


def _locked(folder: Path, *, create: bool) -> int | None:
    """The lock file of ``folder``, open and locked; None if it is absent, another user's or held."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    with contextlib.suppress(OSError):
        handle = os.open(folder / _LOCK, flags, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
        return handle
    return None
