"""Ends this process if one image is decoded for too long: a thread cannot be stopped, a process can.

The driver gives the shard to another worker, which then works carefully (``images.isolate``) and finds out
which image it was. Only a process of its own may be ended like this, so a watchdog is set by the actor's
worker, never by a library call.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CHECK_S = 0.5
EXIT_CODE = 70


def leave() -> None:
    """Ends the process at once, without cleaning up: what is not receipted was not done."""
    sys.stderr.write("bitsieve: an image is being decoded for too long; this worker ends itself\n")
    sys.stderr.flush()
    os._exit(EXIT_CODE)


class Watchdog:
    """Calls ``bite`` once a guarded block has lasted longer than ``limit_s``."""

    def __init__(self, limit_s: float, bite: Callable[[], None] = leave) -> None:
        self._limit_s = limit_s
        self._bite = bite
        self._started_s: dict[int, float] = {}
        self._done = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def guard(self) -> Iterator[Callable[[], None]]:
        """Guards one image; each thread may guard one at a time. Gives what starts the time anew."""
        thread = threading.get_ident()

        def restart() -> None:
            self._started_s[thread] = time.monotonic()

        restart()
        try:
            yield restart
        finally:
            del self._started_s[thread]

    def stop(self) -> None:
        """Ends the watching."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(_CHECK_S):
            oldest_s = min(self._started_s.copy().values(), default=None)
            if oldest_s is not None and time.monotonic() - oldest_s > self._limit_s:
                self._bite()
                return
