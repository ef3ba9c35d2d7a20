"""A process whose clock is wrong: libfaketime tells it another time of day.

Its monotonic clock stays right, as when somebody sets the time, and so do the times of files, which are the
store's clock, not its own.
"""

from pathlib import Path

PACKAGE = "libfaketime"
_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def is_installed() -> bool:
    """Whether this machine has the library."""
    return bool(_LIBRARIES)


def wrong_clock(offset: str | Path) -> dict[str, str]:
    """The environment of such a process: ``+1h`` or ``-2d``, or a file that says so and may be changed."""
    how = {"FAKETIME_TIMESTAMP_FILE": str(offset)} if isinstance(offset, Path) else {"FAKETIME": offset}
    return {
        "LD_PRELOAD": str(_LIBRARIES[-1]),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
        "NO_FAKE_STAT": "1",
        **how,
    }
