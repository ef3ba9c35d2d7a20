"""Progress that can be seen from elsewhere: pace, the object in the store, what ``status`` makes of it."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import run
from jobs.progress import TerminalProgress, pace_in_words
from jobs.reindex import reindex
from jobs.session import open_run
from jobs.status import status
from pipeline.config import CatalogConfig
from pipeline.errors import StorageError
from pipeline.progress import Pace, StoredProgress
from pipeline.storage import layout
from pipeline.storage.local import LocalStore
from tests.support.damage import flip
from tests.support.inline_pool import InlinePool
from tests.support.models import pool_model
from tests.support.pictures import jpeg
from tests.support.tiny_catalogs import write_folder

RUN = "20261122T030000Z-00000001"


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_pace_is_that_of_the_last_five_minutes_and_not_of_an_earlier_run() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    pace.begin(10_000)
    pace.advance(4_000)
    assert (pace.per_s, pace.left_s) == (None, None)
    clock.now_s = 10.0
    pace.advance(4_100)
    assert (pace.per_s, pace.left_s) == (10.0, 590.0)
    for minute in range(1, 11):
        clock.now_s = 60.0 * minute
        pace.advance(4_100 + 120 * minute)
    assert pace.per_s == pytest.approx(2.0)


def test_pace_falls_while_nothing_is_done_and_stands_when_all_is() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    pace.begin(20)
    pace.advance(0)
    clock.now_s = 1.0
    pace.advance(10)
    clock.now_s = 100.0
    assert pace.per_s == pytest.approx(0.1)
    pace.advance(20)
    clock.now_s = 500.0
    assert (pace.per_s, pace.left_s) == (pytest.approx(0.2), 0.0)


def test_pace_in_words() -> None:
    assert pace_in_words(312.4, 133.2) == "312/s, 0:02:13 left"
    assert pace_in_words(0.25, 0.0) == "0.25/s"
    assert pace_in_words(None, None) == ""


def seen(store: LocalStore) -> dict[str, Any]:
    value = json.loads(store.get(layout.run_progress(RUN)))
    assert isinstance(value, dict)
    return value


def facts() -> dict[str, Any]:
    return {"collection": "main", "host": "here", "images": {}, "workers": 1}


def test_stored_progress_is_there_with_the_first_stage_and_says_how_the_run_ended(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    progress = StoredProgress(store, RUN, facts)
    progress.end({"ended": "failed"})
    assert store.stat(layout.run_progress(RUN)) is None, "nobody knows yet whether the store is ours"
    progress = StoredProgress(store, RUN, facts)
    progress.stage("embed", 100, "images")
    deadline = time.monotonic() + 10
    while store.stat(layout.run_progress(RUN)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (seen(store)["stage"], seen(store)["ended"]) == ("embed", None)
    progress.advance(7, "limited by decode")
    progress.end({"ended": "published"})
    progress.end({"ended": "failed"})
    last = seen(store)
    assert (last["done"], last["total"], last["note"]) == (7, 100, "limited by decode")
    assert (last["ended"], last["host"]) == ("published", "here")


def test_stored_progress_that_cannot_be_written_does_not_disturb_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(LocalStore):
        def put(self, key: str, data: bytes) -> None:
            raise StorageError("no room", fix="")

    progress = StoredProgress(Broken(tmp_path), RUN, facts)
    progress.stage("embed", 100, "images")
    progress.advance(7)
    progress.end({"ended": "published"})
    assert "progress_not_written" in caplog.text


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    """One published night, run as the command does."""
    (tmp_path / "model.onnx").write_bytes(pool_model())
    source = write_folder(tmp_path / "source", {f"{i}.jpg": jpeg(40, 30, seed=i) for i in range(5)})
    config = CatalogConfig(
        source=str(source), store=str(tmp_path / "store"), model=str(tmp_path / "model.onnx")
    )
    with open_run(config, quiet=True) as run:
        run.pool = InlinePool()
        reindex(run)
    return LocalStore(tmp_path / "store")


def put_run(store: LocalStore, run: str, *, age_s: float, **more: Any) -> None:
    document = {"run": run, "stage": "embed", "unit": "images", "done": 1, "total": 9, "note": ""}
    pace = {"per_s": None, "left_s": None, "ended": None}
    store.put(layout.run_progress(run), json.dumps({**document, **facts(), **pace, **more}).encode())
    path = store.local_path(layout.run_progress(run))
    assert path is not None
    then = time.time() - age_s
    os.utime(path, (then, then))


def test_status_after_a_night_shows_how_it_ended_and_how_old_the_snapshot_is(store: LocalStore) -> None:
    result = status(store, "main", time.time() + 3600)
    assert 3600 <= result["snapshot"]["age_s"] < 3700
    assert (result["snapshot"]["sequence"], result["snapshot"]["images"]) == (1, 5)
    assert (result["live"], result["silent"]) == ([], [])
    assert (result["last"]["ended"], result["last"]["images"]) == ("published", {"embedded": 5})
    assert result["last"]["stage"] == "calibrate"
    elsewhere = status(store, "other", time.time())
    assert elsewhere == {"collection": "other", "snapshot": None, "live": [], "silent": [], "last": None}


def test_status_of_a_newest_snapshot_that_cannot_be_read_says_so_and_still_shows_the_runs(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(Path(store.uri) / layout.snapshot("main", 1))
    assert run(["status", "--store", store.uri, "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["snapshot"] == {"sequence": 1, "created": None, "age_s": None, "images": None}
    assert result["last"]["ended"] == "published"
    assert result["error"]["kind"] == "corrupt"
    assert "restore it from a copy" in result["error"]["fix"]
    assert run(["status", "--store", store.uri]) == 1
    assert "snapshot 1 CANNOT BE READ" in capsys.readouterr().out


def test_status_tells_a_live_run_from_a_silent_one(store: LocalStore) -> None:
    now = datetime.now(UTC)
    put_run(store, f"{now:%Y%m%d}T235958Z-live", age_s=20)
    put_run(store, f"{now:%Y%m%d}T235959Z-dead", age_s=120)
    put_run(store, f"{now:%Y%m%d}T000000Z-dead-before-the-last-end", age_s=9000)
    put_run(store, f"{now:%Y%m%d}T235959Z-other", age_s=1, collection="other")
    result = status(store, "main", time.time())
    assert [run["run"][-4:] for run in result["live"]] == ["live"]
    assert [run["run"][-4:] for run in result["silent"]] == ["dead"]
    assert result["last"]["ended"] == "published"


def test_status_reads_only_runs_of_late(store: LocalStore) -> None:
    put_run(store, "20200101T000000Z-old", age_s=1)
    assert status(store, "main", time.time())["live"] == []
    alone = LocalStore(Path(store.uri) / "alone")
    put_run(alone, "20200101T000000Z-old", age_s=1)
    assert [run["run"] for run in status(alone, "main", time.time())["live"]] == ["20200101T000000Z-old"]


def test_a_stage_that_is_over_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TerminalProgress()
    for _ in range(2):
        progress.stage("hash", 0, "MiB")
        for _ in range(3):
            progress.advance(0)
    assert capsys.readouterr().err == "hash: 0 of 0 MiB\n" * 2
