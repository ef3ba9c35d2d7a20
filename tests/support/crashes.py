"""Ends a run at its n-th write to a local store, or stops it there, and counts the writes of any run.

Between two writes nothing that lasts happens: to end at every write is to end everywhere.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn
from unittest.mock import patch

from pipeline.storage.local import LocalStore

_WRITES = ("create", "put", "put_file", "delete")


class Crash(BaseException):
    """What no handler of an error catches: all that is lost is what the process had in memory."""


@dataclass(slots=True)
class Writes:
    """How many writes were begun."""

    begun: int = 0


def crash() -> NoReturn:
    """A crash that its process survives."""
    raise Crash


@contextmanager
def ending_at(number: int | None, end: Callable[[], NoReturn] = crash) -> Iterator[Writes]:
    """``end`` is called in place of write ``number``, counted from 1, and of those after it."""

    def act(begun: int) -> None:
        if number is not None and begun >= number:
            end()

    with before_writes(act) as writes:
        yield writes


@contextmanager
def before_writes(act: Callable[[int], None]) -> Iterator[Writes]:
    """``act`` is told the number of each write, counted from 1, before it is done."""
    writes = Writes()

    def counted(name: str) -> Callable[..., Any]:
        write = getattr(LocalStore, name)

        def call(*arguments: Any) -> Any:
            writes.begun += 1
            act(writes.begun)
            return write(*arguments)

        return call

    with ExitStack() as patches:
        for name in _WRITES:
            patches.enter_context(patch.object(LocalStore, name, counted(name)))
        yield writes
