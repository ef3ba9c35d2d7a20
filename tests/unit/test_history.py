"""The history of a collection: what is unusual, and what its manifests and events say of real nights."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.cli import run
from pipeline.evaluate.history import Night, below_target, unusual_nights
from pipeline.evaluate.report import render_html
from pipeline.evaluate.report.history_page import history_document
from pipeline.storage import layout
from tests.support.nights import Collection
from tests.support.tiny_catalogs import jpeg, write_folder


def night(number: int, **figures: Any) -> Night:
    usual = Night(
        snapshot=number,
        created=f"2026-01-{number:02d}T02:00:00+00:00",
        model_id="m",
        method="hamming",
        images=10_000 + number,
        embedded=100 + number % 3,
        reused=9_900,
        stale=0,
        rejected=2,
        deleted=50,
        k=10,
        recall=0.995,
        recall_low=0.993,
        recall_high=0.997,
        target=0.99,
        candidates=300,
        seconds={"embed": 60.0 + number % 2, "reduce": 5.0},
        mean_shift=0.01,
        churn=0.02 + 0.001 * (number % 4),
    )
    return dataclasses.replace(usual, **figures)


def found_in(nights: list[Night]) -> list[tuple[int, str]]:
    return [(one.snapshot, one.figure) for one in unusual_nights(nights)]


def test_steady_nights_are_usual_and_a_few_rejects_call_nobody() -> None:
    nights = [night(number) for number in range(1, 29)]
    nights[20] = night(21, rejected=9)  # of 10,000
    assert found_in(nights) == []


def test_what_is_unlike_the_nights_before_is_named_once() -> None:
    nights = [night(number) for number in range(1, 15)]
    nights[9] = night(10, embedded=5_000, seconds={"embed": 600.0}, churn=0.9)
    nights[12] = night(13, rejected=400, stale=20)
    assert found_in(nights) == [
        (10, "embedded"),
        (10, "total_seconds"),
        (10, "churn"),
        (13, "stale"),
        (13, "rejected"),
    ]
    first = unusual_nights(nights)[0]
    assert (first.value, first.usual) == (5_000, 101)
    assert found_in(nights[7:]) == [(13, "stale"), (13, "rejected")]  # before night 10 stand too few


def test_random_nights_rarely_call_anybody() -> None:
    generator = np.random.default_rng(1)
    nights = [night(n, seconds={"embed": float(generator.normal(60, 6))}) for n in range(1, 1_001)]
    assert len(unusual_nights(nights)) <= 8


def test_recall_is_below_its_target_only_for_certain() -> None:
    low = [night(1), night(2, recall=0.985, recall_high=0.991), night(3, recall=0.98, recall_high=0.985)]
    assert [one.snapshot for one in below_target([*low, night(4, recall=None, recall_high=None)])] == [3]


def test_page_says_what_to_look_at() -> None:
    nights = [night(number) for number in range(1, 12)]
    nights[-1] = night(
        11, rejected=4_000, overridden=("rejected_share",), note="<b>rollback</b>", model_id="n"
    )
    page = render_html(history_document("<i>shop</i>", nights), {})
    assert "look at: rejected images." in page
    assert "although these gates refused it: rejected_share" in page
    assert "The model was changed with snapshot 11" in page
    assert "<b>" not in page
    assert "<i>" not in page
    good = render_html(history_document("shop", [night(1)]), {})
    assert "nothing about it is unusual" in good


def test_history_of_real_nights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    collection = Collection(tmp_path)
    for last in (10, 14, 12):
        for path in collection.source.iterdir():
            path.unlink()
        write_folder(collection.source, {f"{n:03d}.jpg": jpeg(n) for n in range(last)})
        collection.night()
    arguments = ["evaluate", "history", "--store", str(tmp_path / "store"), "--json"]
    page = tmp_path / "history.html"
    assert run([*arguments, "-o", str(page)]) == 0
    answer = json.loads(capfd.readouterr().out)
    nights = answer["nights"]
    assert [one["images"] for one in nights] == [10, 14, 12]
    assert [one["deleted"] for one in nights] == [0, 0, 2]
    assert [one["churn"] is None for one in nights] == [True, False, False]
    assert all(
        one["total_seconds"] == pytest.approx(sum(one["seconds"].values()), abs=1e-3) for one in nights
    )
    assert "3 nights" in page.read_text()
    for item in list(collection.store.list_objects(layout.events_of("run-002"))):
        collection.store.delete(item.key)
    assert run([*arguments, "--last", "2"]) == 0
    later = json.loads(capfd.readouterr().out)["nights"]
    assert [(one["snapshot"], one["churn"] is None) for one in later] == [(2, True), (3, False)]
    assert run(["evaluate", "history", "--store", str(tmp_path / "store"), "--collection", "no"]) == 2
    assert "has no snapshot yet" in capfd.readouterr().err
