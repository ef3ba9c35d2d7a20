"""A disk of a few kilobytes that can be made larger: a tmpfs, for which the system has to let us mount."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class CannotMountError(Exception):
    """This user may not mount here."""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """Mounted at ``folder``."""

    folder: Path

    def resize(self, kib: int) -> None:
        """Another size; what is there stays."""
        _mount("-o", f"remount,size={kib}k", str(self.folder))


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[SmallDisk]:
    """A disk of ``kib`` KiB, empty.

    Raises:
        CannotMountError: it takes root in a machine of one's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={kib}k", "small-disk", str(folder))
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except OSError as exc:
        raise CannotMountError(str(exc)) from exc
    if done.returncode:
        raise CannotMountError(done.stderr.strip())
