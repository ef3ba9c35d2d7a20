"""Which task a worker gets next, and what it is promised after that."""

from pipeline.cluster.turns import Try, Turns


def taken(turns: Turns, worker: str, now_s: float = 0.0) -> tuple[int | None, int | None]:
    """The task that the worker gets, and what it is promised."""
    attempt = turns.take(worker, now_s)
    return (None if attempt is None else attempt.index), turns.promise(worker)


def test_each_worker_gets_what_it_was_promised_whoever_ends_first() -> None:
    turns = Turns(10, n_workers=2)
    assert taken(turns, "a") == (0, 1)
    assert taken(turns, "b") == (2, 3)
    assert taken(turns, "b") == (3, 4)
    assert taken(turns, "a") == (1, 5)


def test_what_others_will_need_is_not_promised() -> None:
    turns = Turns(6, n_workers=2)
    assert taken(turns, "a") == (0, 1)
    assert taken(turns, "b") == (2, None)
    assert taken(turns, "b") == (3, None)


def test_the_last_tasks_go_to_whoever_is_idle() -> None:
    turns = Turns(5, n_workers=2)
    assert taken(turns, "a") == (0, 1)
    assert [taken(turns, "b") for _ in range(3)] == [(2, None), (3, None), (4, None)]
    assert taken(turns, "b") == (1, None)  # "a" still has its first
    assert taken(turns, "a") == (None, None)
    assert not turns


def test_what_is_not_due_waits_and_is_not_promised() -> None:
    turns = Turns(1, n_workers=1)
    first = turns.take("a", 0.0)
    assert first is not None
    turns.put_last(Try(first.index, 2, not_before_s=5.0))
    assert taken(turns, "a", 4.0) == (None, None)
    assert turns
    assert taken(turns, "a", 5.0) == (0, None)


def test_a_task_that_is_put_first_comes_before_all_that_nobody_was_promised() -> None:
    turns = Turns(5, n_workers=1)
    assert taken(turns, "a") == (0, 1)
    turns.put_first(Try(0, 2, careful=True))
    assert taken(turns, "b") == (0, 2)
    assert taken(turns, "a") == (1, 3)


def test_what_a_lost_worker_was_promised_is_anybodys() -> None:
    turns = Turns(4, n_workers=1)
    assert taken(turns, "a") == (0, 1)
    turns.forget("a")
    assert taken(turns, "b") == (1, 2)
