"""Ray actors that stay: each is made once, holds something of its own, and is asked again and again.

Every resident gets every question. One that dies is made anew and asked again, at most three times for one
question; asking twice must be harmless.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic

import ray
import ray.exceptions

from pipeline.cluster.crew import actors, first_line, kill, our_error
from pipeline.cluster.pool import ClusterOptions, Result, Task, Worker
from pipeline.errors import WorkerError

_MAX_ATTEMPTS = 3


class Residents(Generic[Task, Result]):
    """One actor for each of ``make_workers``; ``dismiss`` them in any case."""

    def __init__(
        self, make_workers: Sequence[Callable[[], Worker[Task, Result]]], options: ClusterOptions
    ) -> None:
        self._make_workers = make_workers
        self._remote = actors(options)
        self._actors = [self._remote.remote(make) for make in make_workers]

    def ask(self, question: Task) -> list[Result]:
        """The answer of each resident, in order.

        Raises:
            BitsieveError: what a resident raised.
            WorkerError: one died three times over this question.
        """
        shared = ray.put(question)
        under_way = [actor.run.remote(shared, careful=False) for actor in self._actors]
        return [self._answer(number, under_way[number], shared) for number in range(len(under_way))]

    def dismiss(self) -> None:
        """Ends the actors."""
        for actor in self._actors:
            kill(actor)

    def _answer(self, number: int, under_way: Any, question: Any) -> Result:
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                result: Result = ray.get(under_way)[0]
            except ray.exceptions.RayTaskError as exc:
                raise our_error(exc) from exc
            except ray.exceptions.RayError as exc:
                kill(self._actors[number])
                if attempt == _MAX_ATTEMPTS:
                    raise WorkerError(
                        f"a worker that holds index shards died {attempt} times: {first_line(exc)}",
                        fix="give it more memory, or spread the index shards over more workers",
                    ) from exc
                self._actors[number] = self._remote.remote(self._make_workers[number])
                under_way = self._actors[number].run.remote(question, careful=False)
            else:
                return result
        raise AssertionError
