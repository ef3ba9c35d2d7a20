"""One sitting of a backfill: how much of the work it takes on, and what it leaves for the next."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sitting:
    """The limits of a sitting; ``deadline_s`` is in seconds of ``time.monotonic``. None is no limit."""

    max_images: int | None = None
    deadline_s: float | None = None

    @classmethod
    def of(cls, max_hours: float | None, max_images: int | None) -> "Sitting":
        """A sitting that begins now."""
        deadline_s = None if max_hours is None else time.monotonic() + 3600 * max_hours
        return cls(max_images=max_images, deadline_s=deadline_s)

    def taken_on(self, todo: Sequence[int], n_images: Callable[[int], int]) -> list[int]:
        """Of the image shards ``todo`` the first that have ``max_images`` at most, but one at least."""
        chosen: list[int] = []
        images = 0
        for number in todo:
            images += n_images(number)
            if chosen and self.max_images is not None and images > self.max_images:
                break
            chosen.append(number)
        return chosen


class SittingOver(Exception):
    """The sitting is over with ``left`` images to embed; ``done`` have an outcome, in all sittings."""

    def __init__(self, done: int, left: int) -> None:
        super().__init__(done, left)
        self.done = done
        self.left = left
