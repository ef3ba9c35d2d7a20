"""A backfill in real sittings: one ends early, one is killed with kill -9, and nothing is done twice."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.command import Command, events, named
from tests.support.models import pool_model
from tests.support.processes import AGENTS, ray_processes_left
from tests.support.tiny_catalogs import jpeg, write_folder

pytestmark = [pytest.mark.fault, pytest.mark.integration, pytest.mark.timeout(240)]

N_IMAGES = 800


def receipts(store: Path) -> set[str]:
    return {path.stem for path in (store / "receipts/embed").glob("*.json")}


def test_backfill_killed_between_two_sittings_repeats_nothing_and_is_published(
    command: Command, mark: str, tmp_path: Path
) -> None:
    source, store = tmp_path / "photos", tmp_path / "store"
    write_folder(source, {f"{number:04d}.jpg": jpeg(number) for number in range(N_IMAGES)})
    model = tmp_path / "model.onnx"
    model.write_bytes(pool_model())
    where: list[object] = ["--store", store, "--collection", "canary"]
    sitting: list[object] = [
        "backfill", source, *where, "--model", model, "--workers", 2, "--set", "embed.shard_images=20",
    ]  # fmt: skip

    first = command.json(*sitting, "--max-images", 100)
    assert (first["complete"], first["done"] + first["left"]) == (False, N_IMAGES)
    assert 0 < first["done"] <= 100
    after_first = receipts(store)
    last = command.json("status", *where)["last"]
    assert (last["ended"], last["done"], last["total"]) == ("incomplete", first["done"], N_IMAGES)

    process = command.start(*sitting)
    give_up_s = time.monotonic() + 100
    while len(receipts(store)) < len(after_first) + 3:
        assert process.poll() is None
        assert time.monotonic() < give_up_s
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert ray_processes_left(mark, AGENTS) == []
    after_kill = receipts(store)
    assert after_first < after_kill
    assert not (store / "collections").exists()

    done = command.json(*sitting)
    assert (done["complete"], done["published"], done["images"]["embedded"]) == (True, False, N_IMAGES)
    tasks = named(events(store, done["run"]), "task_succeeded")
    embedded = {event["key"] for event in tasks if event["stage"] == "embed"}
    assert embedded
    assert not embedded & after_kill
    assert embedded | after_kill == receipts(store)

    published = command.json("publish", done["run"], *where)
    assert (published["snapshot"], published["published"]) == (1, True)
    flipped = command.json("publish", "--from", "canary", "--store", store)
    assert (flipped["collection"], flipped["snapshot"]) == ("main", 1)
    assert flipped["digest"] == published["digest"] == done["digest"]
