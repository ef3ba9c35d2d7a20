"""Progress for people on standard error: bars on a terminal, a plain line every ten seconds elsewhere."""

import sys
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as RichProgress

from pipeline.progress import Pace

_LINE_EVERY_S = 10.0


class TerminalProgress:
    """A bar per stage, drawn on a terminal; plain lines where standard error is a file or a pipe."""

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._quiet = quiet
        self._bars = (
            RichProgress(
                TextColumn("{task.description:>12}"),
                BarColumn(bar_width=32),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            if console.is_terminal and not quiet
            else None
        )
        self._pace = Pace()
        self._task: TaskID | None = None
        self._name = ""
        self._total = 0
        self._unit = ""
        self._line_s = 0.0
        self._finished = False

    def __enter__(self) -> "TerminalProgress":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def stage(self, name: str, total: int, unit: str) -> None:
        """Begins a stage of ``total`` units."""
        self._name, self._total, self._unit = name, total, unit
        self._line_s = 0.0
        self._finished = False
        self._pace.begin(total)
        if self._bars is not None:
            self._task = self._bars.add_task(name, total=total, unit=unit, note="")

    def advance(self, done: int, note: str = "") -> None:
        """``done`` units are done, in all."""
        self._pace.advance(done)
        note = ", ".join(part for part in (pace_in_words(self._pace.per_s, self._pace.left_s), note) if part)
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if self._quiet or self._finished or (now - self._line_s < _LINE_EVERY_S and done < self._total):
            return
        self._line_s = now
        self._finished = done >= self._total
        line = f"{self._name}: {done} of {self._total} {self._unit}"
        sys.stderr.write(f"{line}, {note}\n" if note else f"{line}\n")
        sys.stderr.flush()


def pace_in_words(per_s: float | None, left_s: float | None) -> str:
    """``312/s, 0:02:13 left``; empty where the pace is not known.

    >>> pace_in_words(312.4, 133.2)
    '312/s, 0:02:13 left'
    >>> pace_in_words(0.5, 0.0)
    '0.5/s'
    """
    if per_s is None or left_s is None:
        return ""
    rate = f"{per_s:.0f}/s" if per_s >= 10 else f"{per_s:.2g}/s"
    return f"{rate}, {timedelta(seconds=round(left_s))} left" if left_s else rate
