"""A Ray cluster of two nodes on this machine: ``python -m tests.support.two_nodes HEAD_CPUS CPUS``.

Prints its address as a line and lives until its standard input ends, so that it dies with whoever started
it. Token authentication is on: the environment must hold ``RAY_AUTH_TOKEN`` and ``RAY_AUTH_MODE``. What is
called ``SECOND_NODE_X`` there is ``X`` on the second node.
"""

import os
import shutil
import sys
import tempfile

_OWN = "SECOND_NODE_"


def main() -> None:
    """Starts the nodes, waits, ends them."""
    assert os.environ["RAY_AUTH_MODE"] == "token"  # Ray reads it when it is imported
    from ray.cluster_utils import Cluster

    head_cpus, n_cpus = int(sys.argv[1]), int(sys.argv[2])
    own = {name.removeprefix(_OWN): value for name, value in os.environ.items() if name.startswith(_OWN)}
    folder = tempfile.mkdtemp(prefix="two-", dir="/tmp")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": head_cpus, "include_dashboard": False, "temp_dir": folder},
    )
    try:
        cluster.add_node(num_cpus=n_cpus, env_vars=own)
        cluster.wait_for_nodes()
        print(f"address {cluster.address}", flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
