"""Idle workers import what the actors will need, while the driver imports it too.

Half of a start is imports: 5 of 6 CPU seconds of every actor are the libraries that all of them share. Ray gives an
actor an idle worker where there is one, so what it has imported stays.
"""

from types import SimpleNamespace
from typing import Any

import ray


def start(args: SimpleNamespace) -> list[Any]:
    """As many workers as the run will have actors begin; what `wait` is to be given.

    None on a cluster of several nodes, where nobody knows beforehand which of them an actor will be on.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if len(alive) != 1:
        return []
    # Running at once they are in different workers. No CPU is asked for: a busy machine may have none to give.
    load = ray.remote(num_cpus=0, max_retries=0)(_load)
    return [load.remote() for _ in range(args.num_gpus + 1)]  # the models, the engines and the trainer


def _load() -> None:
    import openrlhf.models  # noqa: F401  (with torch, transformers and deepspeed)


def wait(loading: list[Any]) -> None:
    """Until they have: an actor that comes before would be given a worker of its own, which imports it all again.

    What fails here fails again in the actors, where it is told with its reason.
    """
    if loading:
        ray.wait(loading, num_returns=len(loading), timeout=120)
