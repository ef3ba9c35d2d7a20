"""Running ahead within bounds: order, bounds, errors and early stops."""

import threading

import pytest

from pipeline.embed.overlap import Room, Stopwatch, mapped
from pipeline.embed.watchdog import Watchdog


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_mapped_results_come_in_order_for_any_threads(threads):
    results = mapped(
        range(200),
        lambda number: number * number,
        threads=threads,
        waiting=3,
        size_bytes=lambda _: 1,
        budget_bytes=9,
    )
    assert list(results) == [n * n for n in range(200)]


def test_mapped_holds_no_more_than_its_budget_but_always_one():
    drawn = []

    def source():
        for number in range(20):
            drawn.append(number)
            yield number

    results = mapped(
        source(), lambda n: n, threads=2, waiting=9, size_bytes=lambda n: 10 if n else 999, budget_bytes=30
    )
    assert next(results) == 0
    assert drawn == [0, 1]  # the first is larger than the budget: the second found no room beside it
    assert next(results) == 1
    assert len(drawn) <= 5
    assert list(results) == list(range(2, 20))


def test_room_guest_waits_until_there_are_bytes_and_one_may_always_enter():
    room, order = Room(100), []
    entered = threading.Event()

    def late():
        with room.guest() as take:
            entered.set()
            take(60)
            order.append("late")

    with room.guest() as take:
        take(1000)
        thread = threading.Thread(target=late)
        thread.start()
        assert entered.wait(5)
        thread.join(0.1)
        order.append("early")
    thread.join(5)
    assert order == ["early", "late"]


def test_room_takes_nothing_from_a_guest_that_fails_before_it_takes():
    room = Room(10)
    with pytest.raises(OSError, match="broken"), room.guest():
        raise OSError("broken")
    with room.guest() as take:
        take(10)


def test_mapped_error_reaches_the_consumer():
    def work(number):
        if number == 5:
            raise ValueError("five")
        return number

    with pytest.raises(ValueError, match="five"):
        list(mapped(range(10), work, threads=2, waiting=2, size_bytes=lambda _: 1, budget_bytes=9))


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


def test_watchdog_waiting_before_a_restart_does_not_count():
    bitten = threading.Event()
    watchdog = Watchdog(1.0, bitten.set)
    with watchdog.guard() as restart:
        for _ in range(3):
            bitten.wait(0.6)
            restart()
    watchdog.stop()
    assert not bitten.is_set()
