"""Fetching ahead within bounds and on into the next source: order, bounds, errors and early stops."""

import threading
from collections.abc import Callable, Iterable, Iterator

import pytest

from pipeline.embed.read_ahead import ReadAhead, Source


def source(items: Iterable[int], name: str = "a") -> Source[int]:
    return Source(name, lambda: items)


def noted(items: Iterable[int], drawn: list[int]) -> Iterator[int]:
    for item in items:
        drawn.append(item)
        yield item


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within five seconds."""
    waiting = threading.Event()
    return any(condition() or waiting.wait(0.01) for _ in range(500))


def test_all_items_come_in_order() -> None:
    assert list(ReadAhead[int](lambda _: 1, 10).items(source(range(1000)))) == list(range(1000))


def test_full_budget_stops_drawing_until_there_is_room() -> None:
    drawn: list[int] = []
    items = ReadAhead[int](lambda _: 10, 50).items(source(noted(range(100), drawn)))
    assert next(items) == 0
    threading.Event().wait(0.2)  # time for the thread to draw as much as it may
    assert len(drawn) <= 1 + 5 + 1  # taken, waiting within the budget, and the one that found no room
    assert list(items) == list(range(1, 100))


def test_item_larger_than_the_budget_still_comes() -> None:
    big = Source("a", lambda: [b"x" * 100, b"y" * 100])
    assert list(ReadAhead[bytes](len, 10).items(big)) == [b"x" * 100, b"y" * 100]


def test_error_of_the_source_comes_after_the_items_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    items = ReadAhead[int](lambda _: 1, 10).items(Source("a", failing))
    assert next(items) == 1
    with pytest.raises(OSError, match="disk is gone"):
        next(items)


def test_consumer_that_stops_early_ends_the_thread_and_the_next_source_is_not_begun() -> None:
    before, drawn = threading.active_count(), list[int]()
    items = ReadAhead[int](lambda _: 1, 4).items(source(iter(int, 1)), then=source(noted([1], drawn), "b"))
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert drawn == []


def test_what_is_expected_is_drawn_before_it_is_asked_for_and_once() -> None:
    before, drawn, ahead = threading.active_count(), list[int](), ReadAhead[int](lambda _: 1, 10)
    expected = source(noted([4, 5], drawn), "b")
    assert list(ahead.items(source([1, 2, 3]), then=expected)) == [1, 2, 3]
    assert eventually(lambda: drawn == [4, 5])
    assert list(ahead.items(source([], "b"))) == [4, 5]
    assert threading.active_count() == before


def test_another_source_than_the_expected_one_gives_its_own_items() -> None:
    ahead = ReadAhead[int](lambda _: 1, 2)
    assert list(ahead.items(source([1]), then=source(range(100), "b"))) == [1]
    assert list(ahead.items(source([7, 8], "c"), then=source([9], "d"))) == [7, 8]
    assert list(ahead.items(source([], "d"))) == [9]


def test_another_source_does_not_wait_for_a_fetch_of_the_expected_one() -> None:
    let_go = threading.Event()

    def stuck() -> Iterator[int]:
        let_go.wait(30)
        yield 0

    before, ahead = threading.active_count(), ReadAhead[int](lambda _: 1, 10)
    assert list(ahead.items(source([1]), then=Source("b", stuck))) == [1]
    assert list(ahead.items(source([7], "c"))) == [7]
    assert threading.active_count() == before + 1
    let_go.set()
    assert eventually(lambda: threading.active_count() == before)


def test_both_sources_share_one_budget() -> None:
    drawn: list[int] = []
    ahead = ReadAhead[int](lambda _: 10, 50)
    items = ahead.items(source(range(4)), then=source(noted(range(100), drawn), "b"))
    assert next(items) == 0
    threading.Event().wait(0.2)
    assert len(drawn) <= 3  # three of the first source wait, two of the next, and one found no room
    assert list(items) == [1, 2, 3]
    assert len(list(ahead.items(source([], "b")))) == 100


def test_error_of_the_expected_source_comes_when_it_is_asked_for() -> None:
    def failing() -> Iterator[int]:
        raise OSError("the disk is gone")
        yield 0

    ahead = ReadAhead[int](lambda _: 1, 10)
    assert list(ahead.items(source([1, 2]), then=Source("b", failing))) == [1, 2]
    with pytest.raises(OSError, match="disk is gone"):
        list(ahead.items(Source("b", failing)))
    assert list(ahead.items(source([3], "c"))) == [3]
