"""A Ray cluster of two nodes of one core, in a process of its own: Ray ends a process in which it fails."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

_READY_S = 180.0


class RayCluster:
    """Two nodes on this machine, until it is closed.

    Attributes
    ----------
    address : str
        For ``executor.address``.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.address = self._answer()

    def remove_second(self) -> None:
        """Kill the processes of the second node."""
        assert self._process.stdin is not None
        self._process.stdin.write("remove\n")
        self._process.stdin.flush()
        self._answer()

    def close(self) -> None:
        """Kill the processes of all nodes."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate("close\n", timeout=60)

    def _answer(self) -> str:
        """Return the word behind the next ``ready``; other lines are Ray's greetings."""
        assert self._process.stdout is not None
        lines = []
        for line in self._process.stdout:
            if line.startswith("ready "):
                return line.split()[1]
            lines.append(line)
        raise OSError(f"the cluster ended with {self._process.wait()}:\n{''.join(lines)}")


@contextlib.contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """A cluster that is there as long as the context."""
    cluster = RayCluster()
    try:
        yield cluster
    finally:
        cluster.close()


def _serve() -> None:
    """Start both nodes, see that each runs a task, and do what the lines of stdin ask for."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    where = ray.remote(num_cpus=1)(lambda: ray.get_runtime_context().get_node_id())
    pinned = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    nodes = [node["NodeID"] for node in ray.nodes()]
    tasks = [where.options(scheduling_strategy=pinned(node, soft=False)).remote() for node in nodes]
    assert len(nodes) == 2
    assert ray.get(tasks, timeout=_READY_S) == nodes
    ray.shutdown()
    try:
        print("ready", cluster.address, flush=True)
        for line in sys.stdin:
            if line.strip() == "close":
                break
            cluster.remove_node(second, allow_graceful=False)
            print("ready", "removed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    _serve()
