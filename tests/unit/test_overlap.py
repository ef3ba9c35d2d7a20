"""Running ahead within bounds: order, bounds, errors and early stops."""

import threading

import pytest

from pipeline.embed.overlap import Stopwatch, ahead, mapped
from pipeline.embed.watchdog import Watchdog


def test_ahead_all_items_come_in_order():
    assert list(ahead(range(1000), lambda _: 1, 10)) == list(range(1000))


def test_ahead_full_budget_stops_drawing_until_there_is_room():
    drawn = []

    def source():
        for number in range(100):
            drawn.append(number)
            yield number

    items = ahead(source(), lambda _: 10, 50)
    first = next(items)
    held = threading.Event()
    held.wait(0.2)  # time for the thread to draw as much as it may
    assert first == 0
    assert len(drawn) <= 1 + 5 + 1  # taken, waiting within the budget, and the one that found no room
    assert list(items) == list(range(1, 100))


def test_ahead_item_larger_than_the_budget_still_comes():
    assert list(ahead([b"x" * 100, b"y" * 100], len, 10)) == [b"x" * 100, b"y" * 100]


def test_ahead_error_of_the_source_comes_after_the_items_before_it():
    def source():
        yield 1
        raise OSError("the disk is gone")

    items = ahead(source(), lambda _: 1, 10)
    assert next(items) == 1
    with pytest.raises(OSError, match="disk is gone"):
        next(items)


def test_ahead_consumer_stops_early_and_the_thread_ends():
    before = threading.active_count()
    items = ahead(iter(int, 1), lambda _: 1, 4)  # never ends
    assert next(items) == 0
    items.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_mapped_results_come_in_order_for_any_threads(threads):
    assert list(mapped(range(200), lambda number: number * number, threads, 3)) == [n * n for n in range(200)]


def test_mapped_error_reaches_the_consumer():
    def work(number):
        if number == 5:
            raise ValueError("five")
        return number

    with pytest.raises(ValueError, match="five"):
        list(mapped(range(10), work, 2, 2))


def test_stopwatch_adds_up_over_threads():
    watch = Stopwatch()
    pause = threading.Event()

    def work():
        with watch.measure("decode"):
            pause.wait(0.05)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.2 <= watch.seconds["decode"] < 2


def test_watchdog_block_within_the_limit_is_left_alone():
    bitten = threading.Event()
    watchdog = Watchdog(5.0, bitten.set)
    with watchdog.guard():
        pass
    watchdog.stop()
    assert not bitten.is_set()


def test_watchdog_block_over_the_limit_bites():
    bitten = threading.Event()
    watchdog = Watchdog(0.1, bitten.set)
    with watchdog.guard():
        assert bitten.wait(10)
    watchdog.stop()
