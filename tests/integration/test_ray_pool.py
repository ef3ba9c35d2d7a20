"""The pool of Ray actors: order, errors, deaths, and what it leaves behind."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pipeline.cluster.pool import ClusterOptions, Done, SetAside
from pipeline.cluster.ray_pool import RayPool
from pipeline.errors import SourceError, StorageError, WorkerError
from pipeline.storage.open import S3Access, use_accesses
from tests.support.pool_workers import (
    CannotBeMade,
    Dies,
    DiesWithAll,
    Environment,
    Fails,
    Reaches,
    Rendezvous,
    Squares,
    Task,
)
from tests.support.processes import ray_processes_left

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

N_WORKERS = (os.cpu_count() or 1) + 1


@pytest.fixture(scope="module")
def pool(mark: str) -> Iterator[RayPool]:
    """An embedded Ray with one worker more than this machine has cores."""
    with RayPool(ClusterOptions(n_workers=N_WORKERS)) as pool:
        yield pool
    assert ray_processes_left(mark) == []


def test_pool_without_tasks_does_not_import_ray() -> None:
    program = (
        "import sys; from pipeline.cluster.ray_pool import RayPool\n"
        "with RayPool() as pool: print(list(pool.run(dict, [])), pool.started, 'ray' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[] False False"


def test_tasks_each_come_back_once_with_their_own_result(pool: RayPool) -> None:
    done = list(pool.run(Squares, range(20)))
    assert sorted(outcome.index for outcome in done) == list(range(20))
    assert all(isinstance(outcome, Done) and outcome.result[0] == outcome.index**2 for outcome in done)


def test_workers_run_at_the_same_time_in_processes_of_their_own_even_if_they_outnumber_the_cores(
    pool: RayPool, tmp_path: Path
) -> None:
    assert len(list(pool.run(partial(Rendezvous, tmp_path, N_WORKERS), range(N_WORKERS)))) == N_WORKERS
    assert str(os.getpid()) not in os.listdir(tmp_path)


def test_a_workers_error_arrives_as_itself(pool: RayPool, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        list(pool.run(Fails, [Task("source", tmp_path)]))
    assert (caught.value.message, caught.value.fix) == ("no such catalog", "look again")
    assert Task("source", tmp_path).attempts() == 1


def test_the_error_of_a_worker_that_cannot_be_made_arrives_as_itself(pool: RayPool) -> None:
    with pytest.raises(SourceError, match="cannot be made"):
        list(pool.run(CannotBeMade, [1, 2]))


def test_a_foreign_error_is_a_worker_error_and_not_retried(pool: RayPool, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        list(pool.run(Fails, [Task("bug", tmp_path)]))
    assert Task("bug", tmp_path).attempts() == 1


def test_workers_reach_s3_as_the_driver_does(pool: RayPool) -> None:
    use_accesses([S3Access(uri="s3://photos", profile="mine")])
    try:
        done = list(pool.run(Reaches, ["s3://photos/new", "s3://other"]))
    finally:
        use_accesses([])
    assert {one.index: one.result for one in done if isinstance(one, Done)} == {0: "mine", 1: None}


def test_past_the_deadline_what_runs_ends_and_nothing_is_begun(pool: RayPool) -> None:
    done = list(pool.run(Squares, range(200), deadline_s=time.monotonic()))
    assert 1 <= len(done) < 100
    assert all(isinstance(outcome, Done) and outcome.result[0] == outcome.index**2 for outcome in done)


def test_what_a_frozen_worker_holds_is_done_by_another(pool: RayPool, tmp_path: Path) -> None:
    names = ["freeze-once", "fine", "good"]
    hasty = replace(pool, options=replace(pool.options, straggler_s=1.0))
    done = list(hasty.run(Dies, [Task(name, tmp_path) for name in names]))
    assert sorted((one.index, one.result) for one in done if isinstance(one, Done)) == [
        (0, 2),
        (1, 1),
        (2, 1),
    ]


def test_a_storage_error_is_tried_again_while_other_tasks_go_on(pool: RayPool, tmp_path: Path) -> None:
    tasks = [Task(name, tmp_path) for name in ("storage-once", "fine", "disk-full-once")]
    outcomes = {outcome.index: outcome for outcome in pool.run(Fails, tasks)}
    assert [outcomes[index] for index in range(3)] == [
        Done(index=0, result=2),
        Done(index=1, result=1),
        Done(index=2, result=2),
    ]


def test_a_storage_error_that_lasts_is_raised_after_three_attempts(pool: RayPool, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="attempt 3 failed"):
        list(pool.run(Fails, [Task("storage-always", tmp_path)]))
    assert Task("storage-always", tmp_path).attempts() == 3


def test_the_pool_still_works_after_a_run_that_failed(pool: RayPool) -> None:
    assert [outcome.index for outcome in pool.run(Squares, [5])] == [0]


@pytest.mark.fault
@pytest.mark.parametrize("death", ["exit-once", "kill-once"])
def test_the_task_of_a_dead_worker_is_given_to_another(death: str, pool: RayPool, tmp_path: Path) -> None:
    tasks = [Task(death, tmp_path), *(Task(f"fine{number}", tmp_path) for number in range(4))]
    outcomes = {outcome.index: outcome for outcome in pool.run(Dies, tasks)}
    assert outcomes[0] == Done(index=0, result=2)
    assert all(outcomes[index] == Done(index=index, result=1) for index in range(1, 5))
    processes = {(tmp_path / f"{death}-{attempt}").read_text() for attempt in (1, 2)}
    assert len(processes) == 2


@pytest.mark.fault
def test_a_task_that_kills_three_workers_is_set_aside_and_the_others_are_done(
    pool: RayPool, tmp_path: Path
) -> None:
    tasks = [Task("fine0", tmp_path), Task("kill-always", tmp_path), Task("fine1", tmp_path)]
    outcomes = {outcome.index: outcome for outcome in pool.run(Dies, tasks)}
    aside = outcomes.pop(1)
    assert isinstance(aside, SetAside)
    assert (aside.index, aside.attempts) == (1, 3)
    assert aside.reason
    assert outcomes == {0: Done(index=0, result=1), 2: Done(index=2, result=1)}
    assert tasks[1].attempts() == 3


@pytest.mark.fault
def test_a_task_whose_node_dies_is_not_given_to_the_idle_workers_that_died_with_it(
    pool: RayPool, tmp_path: Path
) -> None:
    """It would count as one that has killed three workers, though it was begun once."""
    tasks = [Task(name, tmp_path) for name in ("node-once", "fine0", "fine1")[:N_WORKERS]]
    outcomes = list(pool.run(partial(DiesWithAll, len(tasks)), tasks))
    assert {one.index: one.result for one in outcomes if isinstance(one, Done)} == {0: 2} | dict.fromkeys(
        range(1, len(tasks)), 1
    )


def test_workers_know_the_token_and_their_print_does_not_reach_the_driver(
    pool: RayPool, capfd: pytest.CaptureFixture[str]
) -> None:
    (outcome,) = pool.run(Environment, ["RAY_AUTH_MODE"])
    assert outcome == Done(index=0, result="token")
    assert capfd.readouterr().out == ""


@pytest.mark.fault
def test_workers_that_find_no_room_do_not_hold_up_those_that_do(
    pool: RayPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker more than the cluster has room for, as when somebody else uses it too."""
    monkeypatch.setattr(pool, "options", ClusterOptions(n_workers=N_WORKERS + 1))
    assert len(list(pool.run(Squares, range(9)))) == 9


def test_a_new_token_is_only_for_its_owner_whatever_the_umask(tmp_path: Path) -> None:
    program = (
        "import os; os.umask(0)\n"
        "from pipeline.cluster.ray_pool import RayPool\n"
        "from pipeline.cluster.pool import ClusterOptions\n"
        "from tests.support.pool_workers import Squares\n"
        "with RayPool(ClusterOptions(n_workers=1)) as pool: print(len(list(pool.run(Squares, [3]))))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert done.stdout.strip() == "1"
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text().strip()) >= 32
