"""Lets fetching run ahead of what consumes it, bounded by bytes, from one source on into the next.

A source that is expected next is begun as soon as the one before it is read to its end, so that nobody waits
for a distant store when a new source begins. Order is kept. An error travels to whoever consumes the source
that it belongs to; a consumer that stops early ends the thread.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source(Generic[T]):
    """Where items come from; two of the same name give the same items."""

    name: str
    read: Callable[[], Iterable[T]]


class ReadAhead(Generic[T]):
    """Draws items in a thread of its own while at most ``budget_bytes`` of them wait (one always may)."""

    def __init__(self, size_bytes: Callable[[T], int], budget_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._budget_bytes = budget_bytes
        self._begun: _Line[T] | None = None  # reads what is expected next

    def items(self, source: Source[T], then: Source[T] | None = None) -> Iterator[T]:
        """All items of ``source``; what waits meanwhile may already be items of ``then``.

        Whatever else was expected before is forgotten.
        """
        line, self._begun = self._begun, None
        if line is None or line.ends_with != source.name:
            if line is not None:
                line.stop()  # its thread may be in the middle of a fetch, which nobody need wait for
            line = _Line(self._size_bytes, self._budget_bytes)
            line.add(source)
        is_whole = False
        try:
            if then is not None:
                line.add(then)
            for item in line.drain():
                if item is None:
                    is_whole = True
                    break
                yield item
        finally:
            if is_whole and then is not None:
                self._begun = line
            else:
                line.close()


class _Line(Generic[T]):
    """A thread that reads sources in turn into a queue; None stands for the end of each."""

    def __init__(self, size_bytes: Callable[[T], int], budget_bytes: int) -> None:
        self.ends_with = ""
        self._sources: SimpleQueue[Source[T] | None] = SimpleQueue()
        self._buffer: _Buffer[T | None] = _Buffer(
            lambda item: 0 if item is None else size_bytes(item), budget_bytes
        )
        self._thread = threading.Thread(
            target=self._buffer.fill, args=(self._drawn(),), name="fetch", daemon=True
        )
        self._thread.start()

    def add(self, source: Source[T]) -> None:
        self.ends_with = source.name
        self._sources.put(source)

    def drain(self) -> Iterator[T | None]:
        return self._buffer.drain()

    def stop(self) -> None:
        self._sources.put(None)
        self._buffer.close()

    def close(self) -> None:
        self.stop()
        self._thread.join()

    def _drawn(self) -> Iterator[T | None]:
        while (source := self._sources.get()) is not None and not self._buffer.closed:
            yield from source.read()
            yield None


class _Buffer(Generic[T]):
    """A queue bounded by bytes between one filling thread and one draining thread."""

    def __init__(self, size_bytes: Callable[[T], int], budget_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._budget_bytes = budget_bytes
        self._items: deque[T] = deque()
        self._held_bytes = 0
        self._error: BaseException | None = None
        self._ended = False
        self.closed = False
        self._changed = threading.Condition()

    def fill(self, items: Iterable[T]) -> None:
        """Puts all items in, waiting for room; remembers the error that ended them."""
        try:
            for item in items:
                if not self._put(item):
                    return
        except BaseException as exc:  # handed to the consumer, whatever it is
            self._error = exc
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def drain(self) -> Iterator[T]:
        """The items in order; raises what ended them."""
        while True:
            with self._changed:
                while not self._items and not self._ended:
                    self._changed.wait()
                if not self._items:
                    break
                item = self._items.popleft()
                self._held_bytes -= self._size_bytes(item)
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Tells the filling thread to stop."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _put(self, item: T) -> bool:
        size = self._size_bytes(item)
        with self._changed:
            while self._items and self._held_bytes + size > self._budget_bytes and not self.closed:
                self._changed.wait()
            if self.closed:
                return False
            self._items.append(item)
            self._held_bytes += size
            self._changed.notify_all()
            return True
