"""Detection of dead processes. A run that lost a process may succeed on restart; any other error would repeat."""

import threading
import time
from collections.abc import Callable

import ray
from ray._private.state import actors

EVERY = 2.0  # seconds between two reads of Ray's actor table
KNOWN_AFTER = 5.0  # seconds: the error of a process that lost its peer often arrives before Ray records the death
NODE_KNOWN_AFTER = 30.0  # seconds: Ray counts another node as alive until it has missed five health checks
IN_THE_TEXT = {
    "EngineDeadError": "vLLM's engine process died",
    "LocalRayletDiedError": "Ray's raylet died",
    "NodeDiedError": "a node of the Ray cluster died",
    # Raised before the table records the death: a node counts as alive until it has missed its health checks.
    "ActorUnavailableError": "a process of the run, or its raylet, died",
    "WorkerCrashedError": "a worker of the run died",
    "OwnerDiedError": "the trainer died",
}


def watch(report: Callable[[dict], None], stopped: threading.Event) -> None:
    """Poll for a dead process and call `report` once, with a dictionary like that of `death`.

    The main thread may never raise: a broadcast to a dead engine blocks for ever. Set `stopped` before the actors
    of a finished run exit.
    """
    while not stopped.wait(EVERY):
        died = _first()
        if died and not stopped.wait(KNOWN_AFTER):  # the main thread may report its own error first
            report(died)
            return


def death(error: BaseException) -> dict | None:
    """Return {"what": one line, "pid": its process, if known} if a process of the run has died, else None."""
    if not ray.is_initialized():  # reading the actor table would make Ray start or join a cluster
        return None
    text = f"{type(error).__name__} {error}"
    # A restart must not find the dead node's GPUs in the table either: it would wait for them.
    deadline = time.monotonic() + (NODE_KNOWN_AFTER if _has_other_nodes() else KNOWN_AFTER)
    while not (died := _first()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return died or next(({"what": what} for name, what in IN_THE_TEXT.items() if name in text), None)


def _first() -> dict | None:
    try:
        dead = _dead()
    except Exception as lost:  # Ray's control store does not answer
        return {"what": f"Ray itself died ({type(lost).__name__})"}
    return dead and {"what": f"{dead['ActorClassName']} (pid {dead['Pid']}) died{_place(dead)}", "pid": dead["Pid"]}


def _has_other_nodes() -> bool:
    try:
        return sum(node["Alive"] for node in ray.nodes()) > 1
    except Exception:  # as in `_first`
        return False


def _place(dead: dict) -> str:
    """The node that an actor died with; "" where its process alone died."""
    died = dead["DeathCause"].actor_died_error_context
    if type(died).Reason.Name(died.reason) != "NODE_DIED":
        return ""
    return f" with its node {died.node_ip_address}"


def _dead() -> dict | None:
    """The actor of this job whose process died first, according to Ray's actor table; None if all live."""
    job = ray.get_runtime_context().get_job_id()
    dead = actors(job_id=ray.JobID.from_hex(job), actor_state_name="DEAD").values()
    lost = [actor for actor in dead if _was_lost(actor["DeathCause"])]
    return min(lost, key=lambda actor: actor["EndTime"], default=None)


def _was_lost(cause) -> bool:
    """True if the actor's worker or node died; False after an error in its constructor or a normal exit."""
    context = cause.WhichOneof("context")
    if context == "oom_context":
        return True
    reasons = ("WORKER_DIED", "NODE_DIED")
    died = cause.actor_died_error_context
    return context == "actor_died_error_context" and type(died).Reason.Name(died.reason) in reasons
