"""Ray actors that do one thing together: all of them run at once, and if one dies all begin again.

Unlike ``crew``, whose actors know nothing of each other, these speak to each other while they work. So they
are started together, and the death of one is the end of the try; what the others then say of lost connections
is no error of theirs.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic

import ray
import ray.exceptions

from pipeline.cluster.crew import actors, first_line, kill, our_error
from pipeline.cluster.pool import ClusterOptions, Result, Task, Worker
from pipeline.errors import BitsieveError, WorkerError

_LOG = logging.getLogger(__name__)
_MAX_ATTEMPTS = 3
_ROOM_S = 600.0
_LOOK_EVERY_S = 1.0


class Gang(Generic[Task, Result]):
    """One actor for each of ``make_workers``."""

    def __init__(
        self, make_workers: Sequence[Callable[[], Worker[Task, Result]]], options: ClusterOptions
    ) -> None:
        self._make_workers = make_workers
        self._remote = actors(options)

    def run(self, meet: Task, work: Callable[[Result], Task], look: Callable[[], None]) -> list[Result]:
        """What each worker gives for ``work``, in order.

        Args:
            meet: what the first worker is asked first; its answer says where the others find it.
            work: makes the task of all of them out of that answer.
            look: called about once a second while they work.

        Raises:
            BitsieveError: what a worker raised.
            WorkerError: workers died three times, or the cluster has no room for all at once.
        """
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            actors = [self._remote.remote(make) for make in self._make_workers]
            try:
                self._assemble(actors)
                met = ray.get(actors[0].run.remote(meet, careful=False))[0]
                task = ray.put(work(met))
                return _together([actor.run.remote(task, careful=False) for actor in actors], look)
            except ray.exceptions.RayTaskError as exc:
                is_ours = isinstance(exc.cause, BitsieveError)
                if is_ours or len(actors) == 1 or attempt == _MAX_ATTEMPTS:
                    raise our_error(exc) from exc
                _LOG.warning("event=gang_failed attempt=%d reason=%r", attempt, first_line(exc))
            except ray.exceptions.RayError as exc:
                _LOG.warning("event=gang_died attempt=%d reason=%r", attempt, first_line(exc))
                if attempt == _MAX_ATTEMPTS:
                    raise WorkerError(
                        f"workers that work together died {attempt} times: {first_line(exc)}",
                        fix="give them more memory, or make the batch smaller",
                    ) from exc
            finally:
                for actor in actors:
                    kill(actor)
        raise AssertionError

    def _assemble(self, actors: Sequence[Any]) -> None:
        waiting = [actor.__ray_ready__.remote() for actor in actors]
        ready, missing = ray.wait(waiting, num_returns=len(waiting), timeout=_ROOM_S)
        if missing:
            raise WorkerError(
                f"the cluster has room for {len(ready)} of {len(waiting)} workers that must run at once",
                fix="ask for fewer workers, or for fewer processors for each",
            )
        ray.get(ready)


def _together(under_way: Sequence[Any], look: Callable[[], None]) -> list[Any]:
    """All answers; the first error of any is raised at once, for the others wait for the one that is gone."""
    pending = list(under_way)
    looked_s = time.monotonic()
    while pending:
        done, pending = ray.wait(pending, num_returns=1, timeout=_LOOK_EVERY_S)
        ray.get(done)
        if time.monotonic() - looked_s >= _LOOK_EVERY_S:
            look()
            looked_s = time.monotonic()
    return [answer[0] for answer in ray.get(list(under_way))]
