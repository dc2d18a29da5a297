"""Engines on other GPUs and machines: a Ray actor holds a LocalReplica, and dies together with its engine.

The only file that imports ray; it does so late, because `cluster` sets a variable that Ray reads on import. When an
actor is killed its pipe closes, and the engine then kills its process group.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.sampling.local_replica import LocalReplica, python_path
from evaluation.sampling.replicas import Completion, EngineSettings, Replica, ReplicaDied, Request, squeeze

SLICE = 0.25  # seconds of one remote call; new requests wait no longer than that for the actor
CLOSE_SECONDS = 15.0
CONNECT_SECONDS = 10.0


@contextlib.contextmanager
def cluster(address: str | None, dp: int, tp: int) -> Iterator[None]:
    """Join the cluster at `address`, or start one for this machine only; leave it unless it was joined before.

    RuntimeError if the cluster has fewer than `dp` x `tp` GPUs. A cluster without a GPU runs on its CPUs.
    """
    if not address:
        # 0 means that no other machine will join: Ray and its processes then listen on loopback.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    is_ours = not ray.is_initialized()
    try:
        if is_ours:
            _start(address, dp)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if gpus and gpus < dp * tp:
            raise RuntimeError(f"--dp {dp} --tp {tp} needs {dp * tp} GPUs, the Ray cluster has {gpus}: lower --dp")
        yield
    finally:
        if is_ours:
            ray.shutdown()


def _start(address: str | None, dp: int) -> None:
    import ray

    options: dict[str, Any] = {"runtime_env": {"env_vars": {"PYTHONPATH": python_path()}}, "log_to_driver": False}
    options["logging_level"] = "ERROR"
    if not address:
        cores = max(dp, len(os.sched_getaffinity(0)))
        ray.init(address="local", include_dashboard=False, num_cpus=cores, **options)
        return
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():
            # Checked first: Ray itself tries for minutes, then ends the process.
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        fix = "is it the head's HOST:PORT, or auto?"
        raise RuntimeError(f"--ray-address {address}: cannot be joined ({squeeze(error)}): {fix}") from error


class EngineActor(LocalReplica):
    """Actor that Ray starts where GPUs are free; its engine runs beside it."""

    def __init__(self, settings: EngineSettings, log: Path) -> None:
        super().__init__(settings, log)
        self.start()

    def turn(self) -> tuple[list[Completion], bool, str | None]:
        """Completions of one time slice, True if the engine is ready, and the dtype of its weights."""
        completions = self.poll(SLICE)
        return completions, self.ready(), self.dtype


class RayReplica(Replica):
    """Engine on any machine of the cluster with `tp` free GPUs, or one free CPU if the cluster has no GPU.

    Its log is written on that machine.
    """

    def __init__(self, settings: EngineSettings, log: Path, start_seconds: float = 1200) -> None:
        # The actor's own LocalReplica reports an engine that stalls.
        super().__init__(f"engine {log.stem}", 2 * settings.max_num_seqs, start_seconds, float("inf"))
        self.settings, self.log = settings, log
        self.actor: Any = None
        self._call: Any = None  # the remote turn() in flight

    def _open(self) -> None:
        """Request the actor, which waits until its resources are free."""
        import ray

        gpus = self.settings.tp if ray.cluster_resources().get("GPU", 0) else 0
        actor = ray.remote(EngineActor).options(
            num_gpus=gpus, num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self.actor = actor.remote(self.settings, self.log.resolve())

    def _send(self, requests: Sequence[Request]) -> None:
        self.actor.submit.remote(list(requests))

    def _receive(self, timeout: float) -> list[Completion]:
        """The result of the call in flight, if it comes in time."""
        import ray

        self._call = self._call or self.actor.turn.remote()
        try:
            if not ray.wait([self._call], timeout=timeout)[0]:
                return []
            call, self._call = self._call, None
            completions, self._is_ready, self.dtype = ray.get(call)
            return completions
        except ray.exceptions.RayError as error:
            self._failure = self._explain(error)
            return []

    def _leave(self) -> None:
        """Close a working engine, then kill the actor, which ends the engine in any case."""
        import ray

        actor, self.actor = self.actor, None
        if actor is None or not ray.is_initialized():
            return
        with contextlib.suppress(ray.exceptions.RayError):
            if self._failure is None and self._is_ready:
                ray.get(actor.close.remote(), timeout=CLOSE_SECONDS)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(actor)

    def _silence(self) -> ReplicaDied:
        return ReplicaDied(f"{self.name} did not start in {self.start_seconds:g} s: check that a GPU is free")

    def _explain(self, error: Exception) -> ReplicaDied:
        cause = getattr(error, "cause", None)
        if isinstance(cause, ReplicaDied):
            return cause
        what = squeeze(str(cause or error).strip().splitlines()[0])
        return ReplicaDied(f"{self.name} is gone ({type(error).__name__}): {what}  (log: {self.log} on its machine)")
