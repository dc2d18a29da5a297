"""Kill -9 all of an asynchronous run in a phase that is named, and seen from outside: nothing in the product helps.

Ray gives each process the name of the method that it runs. The judge's record tells how many rollouts were drawn, the
log how many were trained on, and a checkpoint under way has a hidden folder.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.integration import recorded_reward
from tests.integration.conftest import environment
from tests.integration.killer import Killed, of_run, rows

POLICY, ENGINE = "ray::RPGPolicyActor", "ray::RPGRolloutActor"
ROLLOUT = 64  # samples


class Seen(NamedTuple):
    """A run at one moment."""

    policy: str  # names of the two processes
    engine: str  # Ray drops the method from it once one of several requests is answered
    is_saving: bool  # a checkpoint is being written, and has not got its name
    judged: int  # samples of the rollout under way; 0: none is, or none of it has been answered
    ahead: int  # rollouts that were drawn and are not in the log
    trained: int  # rollouts of this start that are in the log


class Phase(NamedTuple):
    """How to tell it, and the samples after which the judge lets the engine wait, so that it lasts."""

    is_it: Callable[[Seen], bool]
    limit: int = 10**9


# With a queue of 2 the fourth rollout is drawn once the first one is in the log. In "generating" the judge holds it
# up, and the next weight sync waits for it. In "training" one is drawn while the policy takes its steps.
PHASES = {
    "generating": Phase(lambda seen: seen.policy == POLICY and seen.judged > 0, limit=3 * ROLLOUT + 8),
    "syncing": Phase(lambda seen: seen.policy == f"{POLICY}.broadcast_to_vllm"),
    "queueing": Phase(lambda seen: (seen.policy, seen.engine, seen.ahead) == (f"{POLICY}.fit", ENGINE, 3)),
    "training": Phase(lambda seen: seen.policy == f"{POLICY}.fit" and seen.judged > 0),
    "saving": Phase(lambda seen: seen.policy == f"{POLICY}.save_checkpoint" and seen.is_saving),
}


class Watched(Killed):
    """A run on one rank, with one engine, whose judge keeps a record in the folder above it."""

    def kill_in(self, phase: str, seconds: float) -> Seen:
        """Start the run, and kill all of it in this phase, after a rollout of this start at least -> what was seen.

        AssertionError where it was missed. A start that ends before its first sample is made again: Ray gives up on a
        busy machine after 30 s.
        """
        recorded_reward.install(self.out.parent, limit=PHASES[phase].limit)
        last, deadline = None, time.monotonic() + seconds
        while last is None and time.monotonic() < deadline:
            with self._started() as process:
                for seen, found in self._looks(process, deadline):
                    if seen.trained and PHASES[phase].is_it(seen):
                        with stopped(found):  # it may have moved on in between
                            seen = self._look(found)
                            if seen and PHASES[phase].is_it(seen):
                                end(process)
                                self.say(f"killed while {phase}: {seen}")
                                return seen
                    last = seen or last
        text = (self.out / "console.txt").read_text(encoding="utf-8")
        raise AssertionError(f"{phase} was missed: status {process.returncode}, last seen {last}\n{text}")

    def _looks(self, process: subprocess.Popen, deadline: float) -> Iterator[tuple[Seen, list[int]]]:
        """What is seen every few milliseconds, and the processes of the policy and the engine; to the run's end."""
        while process.poll() is None and time.monotonic() < deadline:
            found = pids(process)
            while len(found) == 2 and all(map(name_of, found)) and time.monotonic() < deadline:
                if seen := self._look(found):
                    yield seen, found
                time.sleep(0.002)
            time.sleep(0.2)

    @contextlib.contextmanager
    def _started(self) -> Iterator[subprocess.Popen]:
        with (self.out / "console.txt").open("a", encoding="utf-8") as console:
            process = subprocess.Popen(self.command, stdout=console, stderr=console, env=environment())
            try:
                yield process
            finally:
                end(process)

    def _look(self, found: list[int]) -> Seen | None:
        """None before the engine's first sample: the log may hold steps that this start repeats."""
        policy, engine = map(name_of, found)
        try:
            judged = (self.out.parent / "record.jsonl").read_text(encoding="utf-8").count(f", {found[1]}, ")
            start, last = (
                max((int(row["step"]) for row in rows(self.out, k)), default=0) for k in ("resume", "train")
            )
        except (OSError, ValueError):  # not there yet, or a line that is half written
            return None
        is_saving = any((self.out / "checkpoints" / "_actor" / ".writing").glob("global_step*"))
        trained = max(0, last - start)
        return (
            Seen(policy, engine, is_saving, judged % ROLLOUT, judged // ROLLOUT - trained, trained) if judged else None
        )


def name_of(pid: int) -> str:
    """The name that a process has at this moment; of one that is gone, none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()
    except OSError:
        return ""


def pids(process: subprocess.Popen) -> list[int]:
    """Those of the policy and of the engine, in this order, as far as they are there."""
    names = {each.pid: name_of(each.pid) for each in of_run(process)}
    return [pid for kind in (POLICY, ENGINE) for pid, name in names.items() if name.startswith(kind)]


@contextlib.contextmanager
def stopped(processes: Iterable[int]) -> Iterator[None]:
    """Hold processes still inside."""
    with contextlib.ExitStack() as stack:
        for pid in processes:
            stack.enter_context(contextlib.suppress(ProcessLookupError))
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)
        yield


def end(process: subprocess.Popen) -> None:
    """Kill -9 a run, its supervisor first, and everything that it started."""
    everything = of_run(process)
    for each in everything:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    _, alive = psutil.wait_procs(everything, timeout=30)
    assert not alive, alive
