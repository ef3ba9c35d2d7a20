"""Which task a worker gets next, and which after that: knows nothing of Ray, of tasks only their numbers.

A worker is told with each task what it will probably get next, so that it may fetch ahead. Nothing is
promised unless enough is left for the others, and a promise binds nobody: the last tasks go to whoever is
idle.
"""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass(slots=True)
class Try:
    """The ``attempt``-th try of task ``index``; ``careful`` once it has killed a worker."""

    index: int
    attempt: int
    not_before_s: float = 0.0
    careful: bool = False
    begun_s: float = 0.0


class Turns:
    """The tries that wait, in order, and what is promised to whom; true while one waits."""

    def __init__(self, n_tasks: int, n_workers: int) -> None:
        self._n_workers = n_workers
        self._waiting = deque(Try(index, 1) for index in range(n_tasks))
        self._promised: dict[Hashable, int] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put_first(self, attempt: Try) -> None:
        """Lets it be the next."""
        self._waiting.appendleft(attempt)

    def put_last(self, attempt: Try) -> None:
        """Lets it be the last."""
        self._waiting.append(attempt)

    def clear(self) -> None:
        """Nothing waits any more."""
        self._waiting.clear()

    def take(self, worker: Hashable, now_s: float) -> Try | None:
        """What ``worker`` gets now; None if nothing is due.

        What was promised to it, else the first that nobody else was promised, else the first.
        """
        promised = self._promised.pop(worker, None)
        others = set(self._promised.values())
        wishes: tuple[Callable[[Try], bool], ...] = (
            lambda attempt: attempt.index == promised,
            lambda attempt: attempt.index not in others,
            lambda _attempt: True,
        )
        for wish in wishes[promised is None :]:
            for place, attempt in enumerate(self._waiting):
                if attempt.not_before_s <= now_s and wish(attempt):
                    del self._waiting[place]
                    return attempt
        return None

    def promise(self, worker: Hashable) -> int | None:
        """The task that ``worker`` will probably get after the one it has; None if too few are left.

        Only first tries are promised: another comes when its time has come.
        """
        others = set(self._promised.values())
        if len(self._waiting) - len(others) < 2 * self._n_workers:
            return None
        for attempt in self._waiting:
            if attempt.attempt == 1 and attempt.index not in others:
                self._promised[worker] = attempt.index
                return attempt.index
        return None

    def forget(self, worker: Hashable) -> None:
        """The worker is gone, and so is what it was promised."""
        self._promised.pop(worker, None)
