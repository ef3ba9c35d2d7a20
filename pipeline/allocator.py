"""Which allocator processes that live long use, and how they give back what they have freed.

Arrow's own choice, mimalloc, keeps what is freed for later: after listing LFW it held 41 MB more in the
driver, and 16 MB more in each worker. Which one Arrow's parts in C++ use (Parquet, compute) is decided once,
by the environment, when Arrow is loaded.
"""

import contextlib
import ctypes
import os
from pathlib import Path

ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Of every process: Arrow allocates from the C library's heap."""
WORKER_ENVIRONMENT = {**ENVIRONMENT, "MALLOC_ARENA_MAX": "2"}
"""Of workers: their threads share two heaps of it.

Each image shard is read by new threads; with up to sixteen heaps, what they freed lay in ever more pieces,
and a worker grew by .4 MB with every shard.
"""


def use_system_allocator() -> None:
    """Arrow will allocate from the C library's heap; to be called before pyarrow is first imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def give_back_freed_memory() -> None:
    """Gives the system what the C library's heap holds free, of all threads; nothing where it cannot."""
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def peak_bytes() -> int:
    """The most memory this process ever had resident; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
