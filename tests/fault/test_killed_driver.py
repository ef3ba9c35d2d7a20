"""kill -9 of the driver: the next run does what is left, and ends where an undisturbed one would."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.catalogs import lfw_faces, write_tar
from tests.support.command import Command, events, named
from tests.support.processes import AGENTS, ray_processes, ray_processes_left

pytestmark = [pytest.mark.fault, pytest.mark.integration, pytest.mark.timeout(240)]

HOW = ("--set", "embed.shard_images=60", "--set", "index.shard_rows=200", "--label", "identity")


@pytest.fixture(scope="module")
def faces(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of 700 faces, which makes a dozen image shards or more and a few index shards."""
    folder = tmp_path_factory.mktemp("faces") / "tars"
    write_tar(folder / "faces.tar", lfw_faces(shared_data, 700))
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    command: Command, faces: Path, face_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What ``reindex`` says when nobody kills it."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    said = command.json("reindex", faces, "--store", store, "--model", face_model, *HOW)
    said["parts"] = len(_files(store, "embeddings"))
    assert said["parts"] >= 12
    assert said["index"]["shards"] >= 3
    return said


def _files(store: Path, folder: str) -> list[Path]:
    return [path for path in (store / folder).rglob("*") if path.is_file() and not path.name.startswith(".")]


def _killed_when(command: Command, arguments: list[object], enough: Callable[[], bool]) -> None:
    """Starts ``bitsieve`` and kills it, without a chance to clean up, as soon as there is enough."""
    process = command.start(*arguments)
    give_up_s = time.monotonic() + 150
    while not enough():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < give_up_s
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def _finished(command: Command, arguments: list[object], undisturbed: dict[str, Any]) -> dict[str, Any]:
    said = command.json(*arguments)
    assert (said["published"], said["snapshot"], said["digest"]) == (True, 1, undisturbed["digest"])
    assert said["images"] == undisturbed["images"]
    return said


def test_a_run_killed_while_embedding_embeds_only_what_is_left(
    command: Command,
    faces: Path,
    face_model: Path,
    undisturbed: dict[str, Any],
    mark: str,
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    arguments: list[object] = ["reindex", faces, "--store", store, "--model", face_model, *HOW]
    _killed_when(command, arguments, lambda: len(_files(store, "receipts/embed")) >= 3)
    assert ray_processes_left(mark, AGENTS) == []  # the killed driver's actors end by themselves
    finished_before = {path.stem for path in _files(store, "receipts/embed")}
    attempts_before = {path.name for path in _files(store, "embeddings")}
    assert 3 <= len(finished_before) < undisturbed["parts"]

    said = _finished(command, arguments, undisturbed)

    tasks = named(events(store, said["run"]), "task_succeeded")
    embedded = {event["key"] for event in tasks if event["stage"] == "embed"}
    assert len(embedded) == undisturbed["parts"] - len(finished_before)
    assert not embedded & finished_before
    new = {path.name for path in _files(store, "embeddings")} - attempts_before
    assert {name.split("-")[0] for name in new} == embedded


def test_a_run_started_while_the_killed_ones_actors_still_live_ends_right_all_the_same(
    command: Command, faces: Path, face_model: Path, undisturbed: dict[str, Any], mark: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    arguments: list[object] = ["reindex", faces, "--store", store, "--model", face_model, *HOW]
    _killed_when(command, arguments, lambda: len(_files(store, "embeddings")) >= 4)
    orphans = ray_processes(mark, AGENTS)
    _finished(command, arguments, undisturbed)
    assert orphans
    assert ray_processes_left(mark, AGENTS) == []
    assert len({path.stem for path in _files(store, "receipts/embed")}) == undisturbed["parts"]


def test_a_run_killed_while_reducing_and_again_before_it_publishes_embeds_nothing_twice(
    command: Command, faces: Path, face_model: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    arguments: list[object] = ["reindex", faces, "--store", store, "--model", face_model, *HOW]
    n_index_shards = undisturbed["index"]["shards"]
    _killed_when(command, arguments, lambda: bool(_files(store, "receipts/reduce")))
    assert not (store / "collections").exists()
    with command.start(*arguments) as process:
        assert process.stderr is not None
        assert any(
            line.startswith(f"reduce: {n_index_shards} of {n_index_shards} ") for line in process.stderr
        )
        process.kill()
    assert not (store / "collections/main/snapshots").exists()
    reduced_before = {path.stem for path in _files(store, "receipts/reduce")}
    assert len(reduced_before) >= n_index_shards

    said = _finished(command, arguments, undisturbed)

    tasks = named(events(store, said["run"]), "task_succeeded")
    assert {event["stage"] for event in tasks} <= {"reduce"}  # of a second round, with more bits
    assert not {event["key"] for event in tasks} & reduced_before
    assert len(_files(store, "embeddings")) == undisturbed["parts"]
