"""Lets time pass in a local store."""

import os
from pathlib import Path

DAY_S = 86_400.0


def let_pass(folder: Path, days: float) -> None:
    """Everything in the folder was written ``days`` earlier than it was."""
    for path in folder.rglob("*"):
        if path.is_file():
            modified_s = path.stat().st_mtime - days * DAY_S
            os.utime(path, (modified_s, modified_s))
