"""What a process has asked of a store: requests by what they are billed as, and the bytes that came back."""

import threading
from collections import Counter
from typing import Any

GET, PUT, LIST, BYTES = "get", "put", "list", "bytes"


class Traffic:
    """Counts for any thread, from 0 in every process: a copy that travels to another one starts anew."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Traffic, ()

    def add(self, kind: str, count: int = 1) -> None:
        """Counts ``count`` more of ``kind``."""
        with self._lock:
            self._counts[kind] += count

    def so_far(self) -> Counter[str]:
        """All counts."""
        with self._lock:
            return Counter(self._counts)
