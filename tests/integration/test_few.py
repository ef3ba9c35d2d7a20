"""Few tasks in a child of the driver: what it does, what it leaves to Ray, and nothing that stays behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.cluster.child import Child
from pipeline.cluster.pool import ClusterOptions, Done
from pipeline.cluster.ray_pool import RayPool
from pipeline.errors import SourceError, WorkerError
from tests.support.command import Command, events, named
from tests.support.models import pool_model
from tests.support.pool_workers import Dies, Environment, Fails, Squares, Task
from tests.support.tiny_catalogs import jpeg, write_folder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
def child() -> Iterator[Child]:
    found = Child(["tests.support.pool_workers"])
    yield found
    found.end()
    assert multiprocessing.active_children() == []


def test_child_carries_out_every_task_in_order_in_another_process_unheard(
    child: Child, capfd: pytest.CaptureFixture[str]
) -> None:
    done = list(child.run(Squares, range(5)))
    assert [(one.index, one.result[0]) for one in done] == [(number, number**2) for number in range(5)]
    (process,) = {one.result[1] for one in done}
    assert process != os.getpid()
    assert [one.worker for one in done] == [f"child:{process}"] * 5
    assert all(one.peak_bytes > 1 << 20 for one in done)
    assert len(list(child.run(Environment, ["PATH"]))) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "error"), [("source", SourceError), ("bug", WorkerError)])
def test_error_that_no_other_try_mends_arrives_as_what_it_is(
    name: str, error: type[Exception], child: Child, tmp_path: Path
) -> None:
    tasks = [Task("fine", tmp_path), Task(name, tmp_path), Task("never", tmp_path)]
    outcomes = child.run(Fails, tasks)
    assert next(outcomes) == Done(index=0, result=1)
    with pytest.raises(error):
        next(outcomes)
    assert [task.attempts() for task in tasks] == [1, 1, 0]


@pytest.mark.fault
def test_child_that_dies_or_whose_store_fails_leaves_the_rest_and_is_gone(
    child: Child, tmp_path: Path
) -> None:
    tasks = [Task("fine", tmp_path), Task("storage-once", tmp_path), Task("never", tmp_path)]
    assert list(child.run(Fails, tasks)) == [Done(index=0, result=1)]
    deadly = [Task("good", tmp_path), Task("kill-once", tmp_path), Task("never", tmp_path)]
    assert list(child.run(Dies, deadly)) == [Done(index=0, result=1)]
    assert [task.attempts() for task in (*tasks, *deadly)] == [1, 1, 0, 1, 1, 0]


_KILLED = """
import os, pathlib, signal, sys, threading
from pipeline.cluster.child import Child
from tests.support.pool_workers import Task, Waits

child, task = Child(), Task(sys.argv[2], pathlib.Path(sys.argv[1]))
threading.Thread(target=lambda: list(child.run(Waits, [task])), daemon=True).start()
while task.name == "waits" and not task.attempts():
    os.sched_yield()
print(child._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.fault
@pytest.mark.parametrize("name", ["waits", "starts"])
def test_child_of_a_driver_that_is_killed_ends_by_itself(name: str, tmp_path: Path) -> None:
    """In the middle of a task, and before it; nobody holds the driver's output then."""
    program = [sys.executable, "-c", _KILLED, str(tmp_path), name]
    done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    stat = Path(f"/proc/{int(done.stdout)}/stat")
    give_up_s = time.monotonic() + 30
    with suppress(OSError):  # it is gone
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < give_up_s
            time.sleep(0.02)


def test_pool_with_a_cluster_a_device_or_several_workers_has_no_child(tmp_path: Path) -> None:
    for options in (
        ClusterOptions(address="somewhere"), ClusterOptions(gpus_per_worker=1.0), ClusterOptions(n_workers=2),
    ):  # fmt: skip
        with RayPool(options) as pool:
            pool.prepare_few()
            assert list(pool.few(Squares, [1])) == []
            assert multiprocessing.active_children() == []


def test_child_that_is_prepared_for_nothing_does_not_stay() -> None:
    with RayPool() as pool:
        pool.prepare_few()
        assert len(multiprocessing.active_children()) == 1
        assert list(pool.run(Squares, [])) == []
        assert multiprocessing.active_children() == []
        assert not pool.started


def test_night_of_few_images_starts_no_ray_and_one_that_kills_its_child_does(
    command: Command, tmp_path: Path
) -> None:
    """The decoder of a worker ends it where an image takes too long; Ray finds out which."""
    source = write_folder(tmp_path / "source", {f"{number}.jpg": jpeg(number) for number in range(5)})
    (tmp_path / "model.onnx").write_bytes(pool_model())
    store = tmp_path / "store"
    night = ["reindex", source, "--store", store, "--model", tmp_path / "model.onnx", "--json"]
    first = command.json(*night)
    assert first["images"]["embedded"] == 5
    (ended,) = named(events(store, first["run"]), "run_ended")
    assert not ended["ray_started"]
    tasks = named(events(store, first["run"]), "task_succeeded")
    assert [task["worker"].partition(":")[0] for task in tasks if task["stage"] == "embed"] == ["child"]
