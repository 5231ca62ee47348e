"""A Ray cluster of two nodes on 127.0.0.1, in a process of its own, for test_ray_sweep.py.

python tests/end_to_end/two_nodes.py SECONDS

Prints the address and the two nodes' process ids, and ends itself when its input closes or time is up. The
nodes' processes end with it, even if it is killed.
"""

import json
import os
import select
import shutil
import sys
import tempfile

# What Ray does by default on other systems than Linux: this machine is 127.0.0.1, and nothing listens elsewhere.
ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
MEMORY = 80 * 2**20  # bytes of each node's object store, the least that Ray takes being 75 MiB


def raylet_of(node):
    return node.all_processes["raylet"][0].process.pid


def main(seconds):
    # Ray's sockets lie in it, whose paths have at most 107 bytes: the test's own folder is too deep.
    folder = tempfile.mkdtemp(prefix="ray-")
    # Ray notes the cluster's address in RAY_TMPDIR/ray, which it does not make on a fresh machine.
    os.environ["RAY_TMPDIR"] = folder
    os.mkdir(f"{folder}/ray")
    from ray.cluster_utils import Cluster

    each = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": MEMORY}
    each |= {"include_log_monitor": False, "include_dashboard": False, "no_monitor": True}
    # Ray hands out as many GPUs as it is told there are; none need be there.
    cluster = Cluster(
        initialize_head=True, head_node_args={**each, "num_gpus": 1, "temp_dir": folder}
    )
    try:
        second = cluster.add_node(**each)
        nodes = [raylet_of(cluster.head_node), raylet_of(second)]
        print(json.dumps({"address": cluster.address, "nodes": nodes}), flush=True)
        select.select([sys.stdin], [], [], seconds)
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    os.environ.update(ON_LOOPBACK)
    main(float(sys.argv[1]))
