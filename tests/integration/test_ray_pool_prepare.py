"""A pool that is told that tasks will come: Ray starts aside, serves all calls, and leaves nothing behind."""

import subprocess
import sys

import pytest

from tests.support.processes import ray_processes_left

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_PROGRAM = """
import os, signal, threading
from pipeline.cluster.pool import ClusterOptions
from pipeline.cluster.ray_pool import RayPool
from tests.support.pool_workers import Squares

def handler(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, handler)
if __name__ == "__main__":
    with RayPool(ClusterOptions(n_workers=1)) as pool:
        pool.prepare()
        pool.prepare()
        for _ in range(2):
            print(sorted(done.result[0] for done in pool.run(Squares, range(3))))
        print(pool.started, signal.getsignal(signal.SIGTERM) is handler)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            print("ours")
    with RayPool(ClusterOptions(n_workers=1)) as pool:
        pool.prepare()
    print(pool.started, threading.active_count())
"""


def test_pool_that_is_prepared_serves_every_call_and_is_gone_with_or_without_tasks(mark: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=170
    )
    assert done.stdout.splitlines() == ["[0, 1, 4]", "[0, 1, 4]", "True True", "ours", "False 1"]
    assert ray_processes_left(mark) == []
