"""A pool that is told what will come: Ray starts aside, serves all calls, goes early, and leaves nothing."""

import subprocess
import sys

import pytest

from tests.support.processes import ray_processes_left

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_PROGRAM = """
import multiprocessing, os, signal, threading, time
from pipeline.cluster.pool import ClusterOptions
from pipeline.cluster.ray_pool import RayPool
from tests.support.pool_workers import Squares

def handler(*_):
    raise KeyboardInterrupt

def stopped():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except KeyboardInterrupt:
        return "ours"

signal.signal(signal.SIGTERM, handler)
if __name__ == "__main__":
    with RayPool(ClusterOptions(n_workers=1)) as pool:
        pool.prepare_few()
        pool.prepare()
        pool.prepare()
        while not pool.started:
            time.sleep(0.01)
        print(stopped(), multiprocessing.active_children())
        for _ in range(2):
            print(sorted(done.result[0] for done in pool.run(Squares, range(3))))
        print(signal.getsignal(signal.SIGTERM) is handler, stopped())
        pool.release()
        print(threading.active_count())
        print([done.result[0] for done in pool.run(Squares, [2])], stopped())
    with RayPool(ClusterOptions(n_workers=1)) as pool:
        pool.prepare()
    print(pool.started, threading.active_count())
"""


def test_pool_that_is_prepared_serves_every_call_and_is_gone_with_or_without_tasks(mark: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=170
    )
    assert done.stdout.splitlines() == [
        "ours []", "[0, 1, 4]", "[0, 1, 4]", "True ours", "1", "[4] ours", "True 1",
    ]  # fmt: skip
    assert done.stderr == ""
    assert ray_processes_left(mark) == []
