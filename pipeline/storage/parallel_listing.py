"""Lists a large flat prefix by several requests at once, without knowing its keys beforehand.

A store answers a listing a thousand keys at a time, one page after the other. To go faster, a *span* of keys
(those that begin with a prefix and come after a key) is cut into several that are listed side by side:

1. The page at hand ends at a key, ``img_0041``. What begins with ``i`` is one span and what comes after it
   another; so are ``im`` and the rest of ``i``, and so on down to what the page's keys have in common.
2. The spans beyond are given to idle threads, the farthest first; the thread goes on with the nearest one,
   and cuts it again at its next page if threads are idle by then.
3. A span that turns out empty costs one request, on a thread that had nothing to do.

The first ``threshold`` keys are listed in plain order: a small prefix costs what it always did. Spans never
overlap, so sorting them by where they begin gives the keys in order.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice

from pipeline.storage.store import ObjectStat, ObjectStore

PAGE_KEYS = 1000
THRESHOLD = 10 * PAGE_KEYS
_THREADS = 16
_LAST = "\U0010ffff"  # sorts after any other character, in UTF-8 too


def list_in_parallel(
    store: ObjectStore,
    prefix: str = "",
    *,
    threads: int = _THREADS,
    threshold: int = THRESHOLD,
    page_keys: int = PAGE_KEYS,
) -> Iterator[ObjectStat]:
    """All objects whose key begins with ``prefix``, in ascending UTF-8 byte order of keys.

    Args:
        store: where; asked by several threads.
        prefix: as in ``ObjectStore.list_objects``.
        threads: how many requests are on their way at most.
        threshold: so many keys are listed one page after the other.
        page_keys: how many keys the store answers with at once.

    Raises:
        StorageError: as in ``ObjectStore.list_objects``; nothing is said of the other keys then.
    """
    keys = store.list_objects(prefix)
    first = list(islice(keys, threshold))
    yield from first
    if len(first) == threshold:
        yield from _Spans(store, threads, page_keys).listed(_Span(within=prefix, after=first[-1].key))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """The keys that begin with ``within``, come after ``after``, and do not begin with ``without``."""

    within: str
    after: str
    without: str | None = None


@dataclass(slots=True)
class _Spans:
    """Lists spans on threads that cut them while one of their number is idle."""

    store: ObjectStore
    threads: int
    page_keys: int
    _pool: ThreadPoolExecutor = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: int = 0
    _stop: bool = False
    _futures: set["Future[None]"] = field(default_factory=set)
    _pages: list[list[ObjectStat]] = field(default_factory=list)

    def listed(self, span: _Span) -> list[ObjectStat]:
        """All keys of the span in order."""
        with ThreadPoolExecutor(self.threads) as self._pool:
            self._start_if_idle(span)
            try:
                while pending := self._pending():
                    for future in wait(pending, return_when=FIRST_COMPLETED).done:
                        future.result()
            finally:
                self._stop = True
        self._pages.sort(key=lambda page: _bytes(page[0].key))
        return [stat for page in self._pages for stat in page]

    def _pending(self) -> set["Future[None]"]:
        with self._lock:
            self._futures = {future for future in self._futures if not future.done() or future.exception()}
            return set(self._futures)

    def _start_if_idle(self, span: _Span) -> bool:
        """Hands the span to an idle thread, if there is one."""
        with self._lock:
            if self._running >= self.threads or self._stop:
                return False
            self._running += 1
            self._futures.add(self._pool.submit(self._list, span))
            return True

    def _list(self, span: _Span) -> None:
        try:
            keys = self._keys(span)
            within = span.within
            while page := list(islice(keys, self.page_keys)):
                here = [stat for stat in page if stat.key.startswith(within)]
                if here:
                    with self._lock:
                        self._pages.append(here)
                if len(here) < len(page) or self._stop:
                    return
                if len(page) == self.page_keys:
                    within = self._cut(within, page)
        finally:
            with self._lock:
                self._running -= 1

    def _keys(self, span: _Span) -> Iterator[ObjectStat]:
        for stat in self.store.list_objects(span.within, start_after=span.after):
            if span.without is None or not stat.key.startswith(span.without):
                yield stat

    def _cut(self, within: str, page: list[ObjectStat]) -> str:
        """Gives away what lies beyond the page, farthest first; the prefix that this thread goes on with."""
        first, last = page[0].key, page[-1].key
        deepest = max(len(_in_common(first, last)), len(within) + 1)
        for length in range(len(within) + 1, deepest + 1):
            nearer = last[:length]
            if nearer == within or not nearer.isprintable():  # a store may not find its way to odd keys
                return within
            if not self._start_if_idle(_Span(within=within, after=nearer + _LAST, without=nearer)):
                return within
            within = nearer
        return within


def _in_common(first: str, last: str) -> str:
    differ = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return first[: next(differ, min(len(first), len(last)))]


def _bytes(key: str) -> bytes:
    return key.encode(errors="surrogateescape")
