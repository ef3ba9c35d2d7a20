"""Gives the tasks of a stage out: few of them to one process beside the driver, as long as that goes well."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from pipeline.cluster.pool import Done, Pool, Result, SetAside, Task, Worker


def carried_out(
    pool: Pool,
    make_worker: Callable[[], Worker[Task, Result]],
    tasks: Sequence[Task],
    *,
    are_few: bool,
    deadline_s: float | None = None,
) -> Iterator[Done[Result] | SetAside]:
    """The outcome of each task, as of ``Pool.run``; where they ``are_few``, of ``Pool.few`` if it can."""
    done: set[int] = set()
    if are_few and deadline_s is None:
        for few in pool.few(make_worker, tasks):
            done.add(few.index)
            yield few
    left = [index for index in range(len(tasks)) if index not in done]
    for outcome in pool.run(make_worker, [tasks[index] for index in left], deadline_s=deadline_s):
        yield replace(outcome, index=left[outcome.index])
