"""Stage `cluster`: all nodes of a running Ray cluster have the same versions and files as this one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import rpg_openrlhf
from rpg_openrlhf.check.machine import installed
from rpg_openrlhf.check.stages import Failed, Skipped


def identity() -> tuple[dict[str, str], str]:
    """Versions of packages, and a hash of this package's sources."""
    digest = hashlib.sha256()
    root = Path(rpg_openrlhf.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return installed(), digest.hexdigest()[:12]


def cluster(platform: str, address: str = "") -> str:
    """Compare every node with this one, through a task pinned to that node."""
    if not address:
        raise Skipped("no --address of a Ray cluster")
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    here, nodes = identity(), [node for node in ray.nodes() if node["Alive"]]
    tasks = {}
    for node in nodes:
        on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(identity).options(scheduling_strategy=on_node, num_cpus=0, max_retries=0)
        tasks[node["NodeManagerAddress"]] = task.remote()
    for name, task in tasks.items():
        try:
            versions, files = ray.get(task, timeout=60)
        except Exception as error:
            reason = " ".join(str(getattr(error, "cause", None) or error).strip().splitlines()[-1].split())[:200]
            raise Failed(
                f"node {name} cannot import this package ({reason})", "install the same environment there"
            ) from None
        for package, version in here[0].items():
            if versions.get(package) != version:
                wrong = f"{package} is {versions.get(package, 'not installed')} on node {name}, but {version} here"
                raise Failed(wrong, "install the same lock on every node")
        if files != here[1]:
            fix = "use one checkout under the same path on every node"
            raise Failed(f"node {name} has other files of rpg_openrlhf", fix)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if platform != "cpu" and not gpus:
        raise Failed("no node of the cluster has a GPU", "start Ray on nodes with GPUs")
    return f"{len(nodes)} identical nodes, {gpus} GPUs"
