"""Lets decoding run ahead of inference, bounded by bytes and by count; ``read_ahead`` does it for fetching.

Order is kept everywhere, so what comes out does not depend on timing. An error travels to whoever consumes; a
consumer that stops early ends the threads.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


@dataclass(slots=True)
class Stopwatch:
    """Seconds by stage, added up over threads: busy for decode, infer and write, waiting for fetch."""

    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Adds the time inside to ``stage``; several threads may measure at once."""
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed


def mapped(
    items: Iterable[T],
    work: Callable[[T], U],
    *,
    threads: int,
    waiting: int,
    size_bytes: Callable[[T], int],
    budget_bytes: int,
) -> Iterator[U]:
    """``work`` over ``items`` on ``threads`` threads, in order.

    At most ``waiting`` results are ahead, and those were made from at most ``budget_bytes`` (one always may).
    One thread or none works in the caller's thread: with one core there is nothing to overlap.
    """
    if threads <= 1:
        yield from map(work, items)
        return
    pending: deque[tuple[Future[U], int]] = deque()
    held_bytes = 0
    with ThreadPoolExecutor(threads, "decode") as pool:
        try:
            for item in items:
                size = size_bytes(item)
                while pending and (len(pending) > waiting or held_bytes + size > budget_bytes):
                    future, done_bytes = pending.popleft()
                    yield future.result()
                    held_bytes -= done_bytes
                pending.append((pool.submit(work, item), size))
                held_bytes += size
            while pending:
                yield pending.popleft()[0].result()
        finally:
            for future, _ in pending:
                future.cancel()


class Room:
    """Bytes that several threads share: whoever finds none left waits, unless nobody holds any."""

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        self._held_bytes = 0
        self._changed = threading.Condition()

    @contextmanager
    def guest(self) -> Iterator[Callable[[int], None]]:
        """Gives a function that takes bytes, once, waiting for them; at the end they are given back."""
        taken: list[int] = []

        def take(n_bytes: int) -> None:
            with self._changed:
                while self._held_bytes and self._held_bytes + n_bytes > self._n_bytes:
                    self._changed.wait()
                self._held_bytes += n_bytes
            taken.append(n_bytes)

        try:
            yield take
        finally:
            if taken:
                with self._changed:
                    self._held_bytes -= sum(taken)
                    self._changed.notify_all()
