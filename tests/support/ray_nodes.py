"""A Ray cluster of several nodes on this machine; nodes can be added, frozen and killed.

``RayNodes`` starts it as a process of its own, ``python -m tests.support.ray_nodes CPUS…``, one node for each
number, the head first. That prints its address, then a line for each node. It adds a node for each number
that it reads, and gives notice to that of a raylet: ``drain PID SECONDS``. It lives until its standard input
ends, so that it dies with whoever started it.

Token authentication is on. A node that does not answer for two seconds is taken for dead.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import descendants
from tests.support.tally import tally

_OWN = "OTHER_NODES_"
_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONWARNINGS": "ignore",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node: its raylet, whose children are the workers and agents."""

    pid: int

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the raylet and then to all that it has started."""
        if number is not signal.SIGCONT:
            tally.faults[f"Ray node {number.name}"] += 1
        for pid in (self.pid, *descendants(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def is_alive(self) -> bool:
        """Whether its raylet still runs."""
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False


class RayNodes:
    """A running cluster: its address, what its drivers have in their environment, and its nodes."""

    def __init__(self, process: "subprocess.Popen[str]", secret: Mapping[str, str]) -> None:
        self._process = process
        self.secret = dict(secret)
        self.address = self._told("address")
        self.nodes: list[RayNode] = []

    @property
    def driver(self) -> dict[str, str]:
        """The environment in which ``bitsieve`` uses this cluster."""
        return {**self.secret, "BITSIEVE_EMBED__RAY_ADDRESS": self.address}

    def add(self, cpus: int) -> RayNode:
        """One more node."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{cpus}\n")
        self._process.stdin.flush()
        return self.joined()

    def give_notice(self, node: RayNode, seconds: float) -> None:
        """The node gets nothing to do any more: it will soon be taken away, as spot machines are."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"drain {node.pid} {seconds}\n")
        self._process.stdin.flush()
        assert self._told("drained") == str(node.pid)
        tally.faults["Ray node drained"] += 1

    def node_of(self, pid: int) -> RayNode:
        """The node that has started the worker ``pid``."""
        return next(node for node in self.nodes if pid in descendants(node.pid))

    def joined(self) -> RayNode:
        """The next node that has joined."""
        self.nodes.append(RayNode(int(self._told("node"))))
        return self.nodes[-1]

    def kill_head(self) -> None:
        """Everything of the head ends at once: the raylet, its workers, and the server of the cluster."""
        for pid in _servers(self._process.pid):
            os.kill(pid, signal.SIGKILL)
        self.nodes[0].signal(signal.SIGKILL)

    def _told(self, what: str) -> str:
        assert self._process.stdout is not None
        return next(line.split()[1] for line in self._process.stdout if line.startswith(f"{what} "))


@contextmanager
def ray_nodes(
    *cpus: int, others: Mapping[str, str] | None = None, every: Mapping[str, str] | None = None
) -> Iterator[RayNodes]:
    """A cluster with these CPUs on its nodes.

    ``every`` is in the environment of all nodes, ``others`` in that of all but the head.
    """
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    own = {f"{_OWN}{name}": value for name, value in (others or {}).items()}
    with subprocess.Popen(
        [sys.executable, "-m", __name__, *map(str, cpus)],
        env={**os.environ, **_SETTINGS, **secret, **(every or {}), **own},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        try:
            cluster = RayNodes(process, secret)
            for _ in cpus:
                cluster.joined()
            yield cluster
        finally:
            process.stdin.close()
            process.wait(timeout=60)


def _servers(pid: int) -> list[int]:
    """The processes below ``pid`` that hold the books of a Ray cluster."""
    return [one for one in descendants(pid) if b"gcs_server" in Path(f"/proc/{one}/cmdline").read_bytes()]


def main() -> None:
    """Starts the nodes, adds those that are asked for, ends them."""
    assert os.environ["RAY_AUTH_MODE"] == "token"  # Ray reads it when it is imported
    from ray.cluster_utils import Cluster

    head, *others = map(int, sys.argv[1:])
    own = {name.removeprefix(_OWN): value for name, value in os.environ.items() if name.startswith(_OWN)}
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": head, "include_dashboard": False, "temp_dir": folder},
    )
    try:
        added = [cluster.add_node(num_cpus=cpus, env_vars=own) for cpus in others]
        cluster.wait_for_nodes()
        print(f"address {cluster.address}", flush=True)
        ids = dict(_tell(node) for node in (cluster.head_node, *added))
        for line in sys.stdin:
            match line.split():
                case ["drain", pid, seconds]:
                    _drain(cluster.address, ids[int(pid)], float(seconds))
                    print(f"drained {pid}", flush=True)
                case [cpus]:
                    ids |= [_tell(cluster.add_node(num_cpus=int(cpus), env_vars=own))]
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _tell(node: Any) -> tuple[int, str]:
    """The raylet's process and what Ray calls the node."""
    (raylet,) = node.all_processes["raylet"]
    print(f"node {raylet.process.pid}", flush=True)
    return raylet.process.pid, node.node_id


def _drain(address: str, node_id: str, seconds: float) -> None:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int(1000 * (time.time() + seconds))
    accepted, why = GcsClient(address=address).drain_node(node_id, reason, "a test", deadline_ms)
    assert accepted, why


if __name__ == "__main__":
    main()
