"""How far a run is, for whoever looks: the contract, the pace, and a small object in the store.

``runs/<run>/progress.json`` is overwritten every ten seconds from the first stage on, when a stage begins (at
most once a second), and once more when the run ends. So anybody who may read the store can see from another
machine how far a run is, and that it has stopped without a word when the object grows old.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from pipeline.errors import BitsieveError
from pipeline.storage import layout
from pipeline.storage.store import ObjectStore

_LOG = logging.getLogger(__name__)
_WINDOW_S = 300.0
_EVERY_S = 10.0
_AT_MOST_EVERY_S = 1.0
_LAST_WRITE_S = 30.0


class Progress(Protocol):
    """Shows somebody how far long work is; the terminal's is in ``jobs.progress``."""

    def stage(self, name: str, total: int, unit: str) -> None:
        """Begins a stage of ``total`` units."""
        ...

    def advance(self, done: int, note: str = "") -> None:
        """``done`` units of the present stage are done, in all; ``note`` is what else there is to say."""
        ...


@dataclass(slots=True)
class Pace:
    """Units per second of a stage over the last five minutes, and the seconds that are left at this pace.

    What was done before the stage's first ``advance`` was done by an earlier run and says nothing of pace.
    """

    clock: Callable[[], float] = time.monotonic
    _total: int = 0
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def begin(self, total: int) -> None:
        """Begins a stage of ``total`` units."""
        self._total = total
        self._seen.clear()

    def advance(self, done: int) -> None:
        """``done`` units are done, in all."""
        now = self.clock()
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] < now - _WINDOW_S:
            self._seen.popleft()

    @property
    def per_s(self) -> float | None:
        """Units per second until now; None before anything was done."""
        if len(self._seen) < 2 or self._seen[-1][1] <= self._seen[0][1]:
            return None
        then, done = self._seen[0]
        elapsed_s = (self._seen[-1][0] if self._is_over else self.clock()) - then
        return (self._seen[-1][1] - done) / elapsed_s if elapsed_s > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds until the stage is over; None where the pace is not known."""
        per_s = self.per_s
        return None if per_s is None else (self._total - self._seen[-1][1]) / per_s

    @property
    def _is_over(self) -> bool:
        return self._seen[-1][1] >= self._total


class StoredProgress:
    """Keeps a run's progress object up to date from a thread of its own, from the first stage to ``end``.

    A write that fails is logged and tried again with the next one: a run does not fail because nobody can
    watch it.
    """

    def __init__(self, store: ObjectStore, run_id: str, facts: Callable[[], Mapping[str, Any]]) -> None:
        """``facts`` gives what else is to be said at each write, as JSON values."""
        self._store = store
        self._run_id = run_id
        self._facts = facts
        self._pace = Pace()
        self._started = datetime.now(UTC)
        self._stage: dict[str, Any] = {"stage": "", "unit": "", "done": 0, "total": 0, "note": ""}
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def stage(self, name: str, total: int, unit: str) -> None:
        """See ``Progress``."""
        with self._lock:
            self._pace.begin(total)
            self._stage = {"stage": name, "unit": unit, "done": 0, "total": total, "note": ""}
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_writing, name="progress", daemon=True)
            self._thread.start()
        self._changed.set()

    def advance(self, done: int, note: str = "") -> None:
        """See ``Progress``."""
        with self._lock:
            self._pace.advance(done)
            self._stage.update(done=done, note=note)

    def end(self, how: Mapping[str, Any]) -> None:
        """Writes for the last time, ``how`` the run ended included; later calls do nothing."""
        if self._thread is None or self._stopped.is_set():
            return
        self._stopped.set()
        self._changed.set()
        self._thread.join(_LAST_WRITE_S)
        self._write(how)

    def _keep_writing(self) -> None:
        while not self._stopped.is_set():
            self._changed.clear()
            self._write({"ended": None})
            if not self._stopped.wait(_AT_MOST_EVERY_S):
                self._changed.wait(_EVERY_S - _AT_MOST_EVERY_S)

    def _write(self, how: Mapping[str, Any]) -> None:
        with self._lock:
            pace = {"per_s": _rounded(self._pace.per_s), "left_s": _rounded(self._pace.left_s)}
            stage = {**self._stage, **pace}
        now = datetime.now(UTC)
        document = {
            "run": self._run_id,
            "started": self._started.isoformat(timespec="seconds"),
            "updated": now.isoformat(timespec="seconds"),
            **stage,
            **self._facts(),
            **how,
        }
        try:
            self._store.put(layout.run_progress(self._run_id), json.dumps(document).encode())
        except BitsieveError as exc:
            _LOG.warning("event=progress_not_written error=%r", exc)


class Both:
    """Progress that two look at."""

    def __init__(self, first: Progress, second: Progress) -> None:
        self._watchers = (first, second)

    def stage(self, name: str, total: int, unit: str) -> None:
        """See ``Progress``."""
        for watcher in self._watchers:
            watcher.stage(name, total, unit)

    def advance(self, done: int, note: str = "") -> None:
        """See ``Progress``."""
        for watcher in self._watchers:
            watcher.advance(done, note)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
