"""How many seconds of the processors each process of a tree has used: accounts for the time of a race."""

import contextlib
import os
from pathlib import Path

from jobs.bench.memory import process_tree

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(root: int) -> dict[int, float]:
    """User and system seconds of ``root``, its descendants and whoever else is in its session, until now."""
    found = {}
    for pid in process_tree(root):
        with contextlib.suppress(OSError):  # a process that ends meanwhile
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return found
