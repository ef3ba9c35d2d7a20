"""A Ray cluster of two nodes on this machine: ``python -m tests.support.two_nodes CPUS_PER_NODE``.

Prints its address as a line and lives until its standard input ends, so that it dies with whoever started
it. Token authentication is on: the environment must hold ``RAY_AUTH_TOKEN`` and ``RAY_AUTH_MODE``.
"""

import os
import shutil
import sys
import tempfile


def main() -> None:
    """Starts the nodes, waits, ends them."""
    assert os.environ["RAY_AUTH_MODE"] == "token"  # Ray reads it when it is imported
    from ray.cluster_utils import Cluster

    n_cpus = int(sys.argv[1])
    folder = tempfile.mkdtemp(prefix="two-", dir="/tmp")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": n_cpus, "include_dashboard": False, "temp_dir": folder},
    )
    try:
        cluster.add_node(num_cpus=n_cpus)
        cluster.wait_for_nodes()
        print(f"address {cluster.address}", flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
