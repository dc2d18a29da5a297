"""Ranks of a script under DeepSpeed, forked from one process that has imported for all of them.

python -m tests.integration.ranks     reads jobs, a line of JSON each, and answers each with the ranks' exit statuses

A rank of its own interpreter takes eight seconds to import torch, DeepSpeed and OpenRLHF, and less to do its work.
"""

import contextlib
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 300  # seconds for a job


class Ranks:
    """A process to fork ranks from, until it is closed."""

    def __init__(self):
        command = [sys.executable, "-m", "tests.integration.ranks"]
        self.server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, module: str, *arguments, folder: Path, world: int = 1) -> list[str]:
        """Run `python -m module arguments` as each of `world` ranks, to a good end -> what each printed."""
        statuses = self.statuses(module, *arguments, folder=folder, world=world)
        outputs = [log_of(module, folder, rank, world).read_text(errors="replace") for rank in range(world)]
        assert statuses == [0] * world, "\n".join([str(statuses), *(output[-3000:] for output in outputs)])
        return outputs

    def statuses(self, module: str, *arguments, folder: Path, world: int = 1, environment=None) -> list[int]:
        """Run them -> their exit statuses; what they print is in `log_of`."""
        logs = [str(log_of(module, folder, rank, world)) for rank in range(world)]
        job = {"module": f"tests.integration.{module}", "arguments": [str(a) for a in arguments], "logs": logs}
        print(json.dumps(job | {"environment": environment or {}}), file=self.server.stdin, flush=True)
        answer = self.server.stdout.readline()
        assert answer, f"the process that ranks are forked from ended with {self.server.wait()}"
        return json.loads(answer)

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait(timeout=60)


def log_of(module: str, folder: Path, rank: int, world: int) -> Path:
    return folder / f"{module}.{rank}_of_{world}.log"


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print while they are imported

    from rpg_openrlhf.launch.attempt import set_up_process

    set_up_process("cpu")
    import rpg_openrlhf.training.actors  # noqa: F401  with it DeepSpeed, OpenRLHF and vLLM's client

    for line in sys.stdin:
        job = json.loads(line)
        port, world = random.SystemRandom().randrange(20_000, 32_768), len(job["logs"])
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
        ranks = [start(job, rank, job["environment"] | meeting) for rank in range(world)]
        print(json.dumps(statuses_of(ranks)), file=answers, flush=True)


def start(job: dict, rank: int, environment: dict[str, str]) -> int:
    """Fork a rank -> its process id."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        log = os.open(job["logs"][rank], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        sys.argv = [job["module"], *job["arguments"]]
        runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # not on into the loop of the process it was forked from


def statuses_of(ranks: list[int]) -> list[int]:
    """Wait for all; those that take longer than the limit, or wait for another that failed, are killed."""
    statuses: dict[int, int] = {}
    deadline = time.monotonic() + LIMIT
    while len(statuses) < len(ranks):
        for pid in [pid for pid in ranks if pid not in statuses]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        if any(statuses.values()) or time.monotonic() > deadline:
            for pid in [pid for pid in ranks if pid not in statuses]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return [statuses[pid] for pid in ranks]


if __name__ == "__main__":
    main()
