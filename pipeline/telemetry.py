"""Events of a run: what happened, as JSON lines in the store.

Events are facts, not prose. They are kept in memory and written in numbered batches under
``runs/<run>/events/``: a batch is an object of its own, so that nothing is rewritten and a killed run leaves
all but its last seconds.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.storage import layout
from pipeline.storage.store import ObjectStore

_FLUSH_S = 10.0


class EventLog:
    """Collects a run's events and writes them to the store every ten seconds and when asked to."""

    def __init__(self, store: ObjectStore, run_id: str, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._run_id = run_id
        self._clock = clock
        self._lines: list[str] = []
        self._batch = 0
        self._flushed_s = clock()

    @property
    def begun(self) -> bool:
        """Whether anything was recorded; before that nobody knows whether the store is ours to write to."""
        return bool(self._lines) or self._batch > 0

    def record(self, event: str, **facts: Any) -> None:
        """Records that ``event`` happened; ``facts`` must be JSON values and hold no secret and no pixel."""
        now = self._clock()
        self._lines.append(json.dumps({"time": round(now, 3), "run": self._run_id, "event": event, **facts}))
        if now - self._flushed_s >= _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Writes what was recorded since the last batch."""
        if not self._lines:
            return
        data = ("\n".join(self._lines) + "\n").encode()
        self._store.put(layout.run_events(self._run_id, self._batch), data)
        self._batch += 1
        self._lines.clear()
        self._flushed_s = self._clock()

    @contextmanager
    def stage(self, name: str, seconds: dict[str, float]) -> Iterator[None]:
        """Times a stage into ``seconds`` and records its beginning and end."""
        started = time.perf_counter()
        self.record("stage_started", stage=name)
        try:
            yield
        finally:
            seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - started, 3)
            self.record("stage_ended", stage=name, seconds=seconds[name])
