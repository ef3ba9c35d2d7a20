"""What the figures were measured on: the machine, how busy it was, and the versions of what ran."""

import os
import platform
from pathlib import Path
from typing import Any

from jobs.run import software_versions, utc_now


def machine_facts() -> dict[str, Any]:
    """Processor, cores that may be used, memory, system and Python."""
    return {
        "processor": _field("/proc/cpuinfo", "model name"),
        "cores": usable_cores(),
        "memory_bytes": int(_field("/proc/meminfo", "MemTotal").split()[0] or 0) * 1024,
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": utc_now().isoformat(),
        "software": software_versions(),
    }


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def load() -> float:
    """How many processes wanted a core over the last minute; above 1 before a run, others are at work."""
    return round(os.getloadavg()[0], 2)


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "0"
