"""Progress for people on standard error: bars on a terminal, a plain line every ten seconds elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

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
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            if console.is_terminal and not quiet
            else None
        )
        self._task: TaskID | None = None
        self._name = ""
        self._total = 0
        self._unit = ""
        self._line_s = 0.0

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
        if self._bars is not None:
            self._task = self._bars.add_task(name, total=total, unit=unit, note="")

    def advance(self, done: int, note: str = "") -> None:
        """``done`` units are done, in all."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if self._quiet or (now - self._line_s < _LINE_EVERY_S and done < self._total):
            return
        self._line_s = now
        sys.stderr.write(f"{self._name}: {done} of {self._total} {self._unit} {note}".rstrip() + "\n")
        sys.stderr.flush()
