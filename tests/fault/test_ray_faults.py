"""Ray nodes that come, freeze and die in the middle of a night, and a cluster that loses its head.

``make test`` kills one driver whose tasks run in Ray, ``make soak`` ten.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import crash_driver
from tests.support.command import Command, Outcome, events, named
from tests.support.invariants import folder_state
from tests.support.models import pool_model
from tests.support.nights import Collection
from tests.support.pool_workers import Task
from tests.support.ray_nodes import RayNodes, ray_nodes
from tests.support.tally import judged, tally
from tests.support.tiny_catalogs import jpeg, write_folder

pytestmark = [pytest.mark.fault, pytest.mark.integration, pytest.mark.timeout(240)]
SOAK = "BITSIEVE_SOAK" in os.environ
N_POINTS = 10 if SOAK else 1
N_NOTICES = 4 if SOAK else 1
N_IMAGES = 600
SHARD_IMAGES = 10
_PUSH_TASK = "CoreWorkerService.grpc_client.PushTask"
HASTY = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}  # a minute, if nobody says otherwise


@pytest.fixture(scope="module")
def cluster(mark: str) -> Iterator[RayNodes]:
    """A head and two nodes of one CPU each; the tests use them up in order, and the last one the head."""
    with ray_nodes(0, 1, 1, every=HASTY) as nodes:
        yield nodes


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A catalog, and what the store of an undisturbed night over it holds."""

    source: Path
    model: Path
    settings: dict[str, Any]
    undisturbed: dict[str, bytes]

    @property
    def n_tasks(self) -> int:
        return sum(key.startswith("receipts/embed/") for key in self.undisturbed)

    def reindex(self, store: Path) -> list[object]:
        how = ("--set", f"embed.shard_images={SHARD_IMAGES}", "--json")
        return ["reindex", self.source, "--store", store, "--model", self.model, *how]

    def check(self, store: Path) -> dict[str, bytes]:
        """The store is sound and holds what nobody disturbed."""
        state = folder_state(store)
        assert judged(state, wanted=self.undisturbed) == []
        return state


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    source = write_folder(
        folder / "photos", {f"{number:04d}.jpg": jpeg(number) for number in range(N_IMAGES)}
    )
    settings = {"source": str(source), "embed": {"shard_images": SHARD_IMAGES}}
    Collection(folder, settings=settings).night()
    (folder / "model.onnx").write_bytes(pool_model())
    return Shop(
        source=source,
        model=folder / "model.onnx",
        settings=settings,
        undisturbed=folder_state(folder / "store"),
    )


def receipts(store: Path) -> set[str]:
    return {path.stem for path in (store / "receipts/embed").glob("*.json")}


def wait_until(enough: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 100
    while not enough():
        assert time.monotonic() < give_up_s
        time.sleep(0.002)


def test_nodes_that_join_freeze_and_die_in_the_middle_change_nothing(
    cluster: RayNodes, shop: Shop, command: Command, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    doomed, zombie = cluster.nodes[1:3]
    with command.with_environment(**cluster.driver).start(*shop.reindex(store)) as driver:
        wait_until(lambda: len(receipts(store)) >= 3)
        doomed.signal(signal.SIGKILL)
        wait_until(lambda: len(receipts(store)) >= 8)
        zombie.signal(signal.SIGSTOP)
        frozen_with = len(receipts(store))
        cluster.add(1)
        stdout, stderr = driver.communicate()
    assert driver.returncode == 0, stderr
    assert frozen_with < shop.n_tasks
    said = Outcome(code=0, stdout=stdout, stderr=stderr).json
    assert said["images"]["embedded"] == N_IMAGES
    assert said["images"]["set_aside"] == 0
    published = shop.check(store)
    zombie.signal(signal.SIGCONT)
    wait_until(lambda: not zombie.is_alive)
    assert judged(folder_state(store), before=published, wanted=published, at_once=True) == []
    workers = {
        event["worker"].partition(":")[0]
        for event in named(events(store, said["run"]), "task_succeeded")
        if event["stage"] == "embed"
    }
    assert len(workers) >= 2


def test_driver_killed_at_a_write_while_ray_works_ends_as_if_it_had_not_been(
    cluster: RayNodes, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "photos", {f"{number}.jpg": jpeg(number) for number in range(7)})
    settings: dict[str, Any] = {"source": str(source), "embed": {"shard_images": 3}}
    inline, whole = tmp_path / "inline", tmp_path / "whole"
    on_ray = crash_driver.OnRay(address=cluster.address, environment=cluster.secret)
    assert crash_driver.night(inline, settings, 1) == 0
    assert crash_driver.night(whole, settings, 1, None, on_ray) == 0
    wanted = folder_state(inline / "store")
    assert judged(folder_state(whole / "store"), wanted=wanted) == []
    n_writes = crash_driver.n_writes(whole)  # fewer than in line: the workers' are not the driver's
    assert n_writes >= 10
    for point in range(1, N_POINTS + 1):
        folder, at = tmp_path / "killed", point * n_writes // (N_POINTS + 1)
        assert crash_driver.night(folder, settings, 1, at, on_ray) == crash_driver.KILLED
        killed = folder_state(folder / "store")
        assert judged(killed) == []
        assert crash_driver.night(folder, settings, 2, None, on_ray) == 0
        resumed = folder_state(folder / "store")
        assert judged(resumed, before=killed, wanted=wanted) == [], at
        shutil.rmtree(folder)


def test_night_some_of_whose_calls_to_workers_are_lost_is_as_any_other(
    cluster: RayNodes, shop: Shop, command: Command, tmp_path: Path
) -> None:
    """Ray itself loses two of the driver's calls or their answers, at random: no task can be set aside."""
    lost = {_PUSH_TASK: {"num_failures": 2, "req_failure_prob": 25, "resp_failure_prob": 25}}
    losing = command.with_environment(**cluster.driver, RAY_testing_rpc_failure=json.dumps(lost))
    said = losing.run(*shop.reindex(tmp_path / "store"))
    tally.faults["Ray call lost"] += 2
    assert said.code == 0, said.stderr
    assert (said.json["images"]["embedded"], said.json["images"]["set_aside"]) == (N_IMAGES, 0)
    assert len(re.findall("event=actor_(?:died|start_failed)", said.stderr)) == 2
    shop.check(tmp_path / "store")


_PREEMPTED = """
import sys
from pathlib import Path
from pipeline.cluster.pool import ClusterOptions
from pipeline.cluster.ray_pool import RayPool
from tests.support.pool_workers import Task, Waits

with RayPool(ClusterOptions(address=sys.argv[1], n_workers=1)) as pool:
    (outcome,) = pool.run(Waits, [Task("long", Path(sys.argv[2]))])
    print(type(outcome).__name__, getattr(outcome, "result", None))
"""


def test_task_whose_node_is_taken_away_with_notice_is_done_elsewhere_however_often_that_happens(
    cluster: RayNodes, tmp_path: Path
) -> None:
    task = Task("long", tmp_path)
    program = [sys.executable, "-c", _PREEMPTED, cluster.address, str(tmp_path)]
    environment = {**os.environ, **cluster.secret}
    with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True) as driver:
        for number in range(1, N_NOTICES + 1):
            wait_until(lambda: task.attempts() == number)  # noqa: B023 - called at once
            node = cluster.node_of(int((tmp_path / f"long-{number}").read_text()))
            cluster.add(1)
            cluster.give_notice(node, 0.2)
            time.sleep(0.3)
            node.signal(signal.SIGKILL)
        wait_until(lambda: task.attempts() == N_NOTICES + 1)
        (tmp_path / "go").touch()
        stdout, _ = driver.communicate()
    assert stdout.split() == ["Done", str(N_NOTICES + 1)]


def test_run_whose_workers_get_no_memory_ends_soon_and_blames_no_image(
    command: Command, tmp_path: Path
) -> None:
    """Ray's memory monitor ends every worker that is started: what a node lacks is no image's fault."""
    write_folder(tmp_path / "source", {"1.jpg": jpeg(1)})
    (tmp_path / "model.onnx").write_bytes(pool_model())
    poor = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "20"}
    said = command.with_environment(**poor).run(
        "reindex", tmp_path / "source", "--store", tmp_path / "store",
        "--model", tmp_path / "model.onnx", "--set", "embed.few_images=0", "--json",
    )  # fmt: skip
    error = said.json["error"]
    assert (said.code, error["kind"]) == (1, "worker"), said.stderr
    assert "memory" in error["fix"]
    state = folder_state(tmp_path / "store")
    assert [key for key in state if key.startswith(("receipts/", "rejects/", "collections/"))] == []
    assert Collection(tmp_path).night().manifest.coverage.embedded == 1


def test_run_whose_cluster_loses_its_head_ends_soon_and_goes_on_elsewhere(
    cluster: RayNodes, shop: Shop, command: Command, tmp_path: Path
) -> None:
    """The workers are frozen before, so that they cannot do everything before Ray gives the head up."""
    store = tmp_path / "store"
    with command.with_environment(**cluster.driver, **HASTY).start(*shop.reindex(store)) as driver:
        wait_until(lambda: len(receipts(store)) >= 3)
        others = [node for node in cluster.nodes[1:] if node.is_alive]
        for node in others:
            node.signal(signal.SIGSTOP)
        assert len(receipts(store)) < shop.n_tasks
        cluster.kill_head()
        begun_s = time.monotonic()
        _, stderr = driver.communicate()
    assert driver.returncode == 1, stderr  # by Ray, when nothing can be said any more
    assert time.monotonic() - begun_s < 60
    for node in others:
        node.signal(signal.SIGCONT)
    state = folder_state(store)
    assert judged(state) == []
    assert not (store / "collections/main/snapshots").exists()
    found = Collection(tmp_path, settings=shop.settings).night().manifest.coverage
    assert found.embedded + found.reused == N_IMAGES
    assert judged(folder_state(store), before=state, wanted=shop.undisturbed) == []
