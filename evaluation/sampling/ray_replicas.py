"""Engines on other GPUs and other machines: a Ray actor holds a LocalReplica, and dies together with its engine.

The only file that imports ray, and that late: start_ray sets what Ray reads while it is imported. An actor that is
killed closes the pipe, and the engine's process group follows.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.sampling.replicas import ROOT, Completion, EngineSettings, LocalReplica, ReplicaDied, Request, squeeze

SLICE = 0.25  # seconds of one remote call; new requests wait no longer than that for the actor
CLOSE_SECONDS = 15.0
CONNECT_SECONDS = 10.0


@contextlib.contextmanager
def cluster(address: str | None, dp: int, tp: int) -> Iterator[None]:
    """start_ray, and at the end shutdown of what it started."""
    started = start_ray(address, dp, tp)
    try:
        yield
    finally:
        shutdown(started)


def start_ray(address: str | None, dp: int, tp: int) -> bool:
    """Join the cluster at `address`, else start one only this machine can reach; False where Ray was joined before.

    RuntimeError, one line, where the cluster has fewer GPUs than `dp` x `tp`. One without any GPU runs on its CPUs.
    """
    if not address:
        # No other machine will join, in Ray's words: it then listens on loopback, and so do its processes.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    started = not ray.is_initialized()
    if started:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        options: dict[str, Any] = {"runtime_env": {"env_vars": {"PYTHONPATH": path}}, "log_to_driver": False}
        options["logging_level"] = "ERROR"
        if address:
            _join(address, options)
        else:
            cores = max(dp, len(os.sched_getaffinity(0)))
            ray.init(address="local", include_dashboard=False, num_cpus=cores, **options)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus and gpus < dp * tp:
        shutdown(started)
        raise RuntimeError(f"--dp {dp} --tp {tp} needs {dp * tp} GPUs, the Ray cluster has {gpus}: lower --dp")
    return started


def shutdown(started: bool = True) -> None:
    """Leave the cluster, which ends it where start_ray started it; one that the caller had joined before stays."""
    import ray

    if started:
        ray.shutdown()


def _join(address: str, options: dict[str, Any]) -> None:
    import ray

    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():
            # Asked first: Ray itself goes on trying for minutes, then ends the process.
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        mend = "is it the head's HOST:PORT, or auto?"
        raise RuntimeError(f"--ray-address {address}: cannot be joined ({squeeze(error)}): {mend}") from error


class EngineActor:
    """Runs beside its engine; Ray starts it where the GPUs are."""

    def __init__(self, settings: EngineSettings, log: Path) -> None:
        self.replica = LocalReplica(settings, log)
        self.replica.start()

    def ready(self) -> bool:
        """LocalReplica's, after a pause: the driver asks again as soon as it is answered."""
        time.sleep(SLICE)
        return self.replica.ready()

    def submit(self, requests: Sequence[Request]) -> None:
        """LocalReplica's."""
        self.replica.submit(requests)

    def poll(self) -> list[Completion]:
        """LocalReplica's, for a slice of time."""
        return self.replica.poll(SLICE)

    def pids(self) -> tuple[int, int | None]:
        """This process and the engine's."""
        return os.getpid(), self.replica.pid

    def close(self) -> None:
        """LocalReplica's."""
        self.replica.close()


class RayReplica:
    """An engine on whichever machine of the cluster has `tp` GPUs free, or one CPU where the cluster has no GPU.

    A log on another machine is written there. ReplicaDied after `start_seconds` without a place or an engine.
    """

    def __init__(self, settings: EngineSettings, log: Path, tp: int = 1, start_seconds: float = 1200) -> None:
        self.settings, self.log, self.tp, self.start_seconds = settings, Path(log), tp, start_seconds
        self.name = f"engine {self.log.stem}"
        self.capacity = 2 * settings.max_num_seqs
        self.actor: Any = None
        self._call: Any = None  # the one remote ready() or poll() that runs
        self._ready = False
        self._started = 0.0
        self._failure: ReplicaDied | None = None

    def start(self) -> None:
        """Ask for the actor; where nothing is free it waits."""
        import ray

        gpus = ray.cluster_resources().get("GPU", 0)
        actor = ray.remote(EngineActor).options(
            num_gpus=self.tp if gpus else 0, num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self.actor = actor.remote(self.settings, self.log.resolve())
        self._started = time.monotonic()

    def ready(self) -> bool:
        """True once the model is loaded."""
        return self._wait_ready(0.0)

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand requests over; what goes wrong with them is raised by poll."""
        if self._failure:
            raise self._failure
        self.actor.submit.remote(list(requests))

    def poll(self, timeout: float) -> list[Completion]:
        """Completions, as soon as there is one, or none after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        if not self._wait_ready(timeout):
            return []
        while True:
            completions = self._answer("poll", max(0.0, deadline - time.monotonic()))
            if completions or time.monotonic() >= deadline:
                return completions or []

    def close(self) -> None:
        """End the engine, then the actor; killing the actor alone ends both, without a farewell."""
        import ray

        actor, self.actor = self.actor, None
        if actor is None or not ray.is_initialized():
            return
        with contextlib.suppress(ray.exceptions.RayError):
            if self._failure is None and self._ready:
                ray.get(actor.close.remote(), timeout=CLOSE_SECONDS)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(actor)
        self._failure = self._failure or ReplicaDied(f"{self.name} is closed")

    def _wait_ready(self, timeout: float) -> bool:
        if not self._ready:
            self._ready = bool(self._answer("ready", timeout))
            if not self._ready and time.monotonic() - self._started > self.start_seconds:
                self._failure = ReplicaDied(
                    f"{self.name} is not up in {self.start_seconds:g} s: is a GPU free for it?"
                )
                raise self._failure
        return self._ready

    def _answer(self, method: str, timeout: float) -> Any:
        """The result of the call in flight if it comes in time, else None; ReplicaDied where the actor is gone."""
        import ray

        if self._failure:
            raise self._failure
        if self.actor is None:
            raise ReplicaDied(f"{self.name} was not started")
        if self._call is None:
            self._call = getattr(self.actor, method).remote()
        try:
            if not ray.wait([self._call], timeout=timeout)[0]:
                return None
            call, self._call = self._call, None
            return ray.get(call)
        except ray.exceptions.RayError as error:
            self._failure = self._explain(error)
            raise self._failure from None

    def _explain(self, error: Exception) -> ReplicaDied:
        cause = getattr(error, "cause", None)
        if isinstance(cause, ReplicaDied):
            return cause
        what = squeeze(str(cause or error).strip().splitlines()[0])
        return ReplicaDied(f"{self.name} is gone ({type(error).__name__}): {what}  (log: {self.log} on its machine)")
