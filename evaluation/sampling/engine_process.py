"""The child that holds a vLLM engine: requests in, completions out, as each finishes; the only file that imports vllm.

    python -m evaluation.sampling.engine_process SOCKET_FD PARENT_PID        (started by local_replica.LocalReplica)

The engine runs step after step and takes what has arrived in between, so it never drains between batches, problems or
benchmarks. When the parent is gone, however it went, the child kills its process group, and vLLM's workers with it.
"""

import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.checkpoints import base_model
from evaluation.sampling.local_replica import send_all
from rpg_openrlhf import garbage

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams

ALIVE_SECONDS = 5.0  # a step at least this long after the last message is worth one of its own
GIB = 1 << 30


def main() -> None:
    """Load, sample until told to stop; the exit status is 1 where the engine failed."""
    connection, parent = Connection(int(sys.argv[1])), int(sys.argv[2])
    os.set_inheritable(connection.fileno(), False)
    if os.getpgrp() != os.getpid():
        os.setsid()
    inbox: queue.SimpleQueue = queue.SimpleQueue()
    outbox: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=read, args=(connection, parent, inbox), daemon=True).start()
    # A thread sends: a parent that reads slowly must not hold the engine up.
    sender = threading.Thread(target=send_all, args=(connection, outbox), daemon=True)
    sender.start()
    engine, status, failure = None, 0, "refused"
    try:
        garbage.rarely()
        engine = Engine(inbox.get())
        garbage.as_usual()
        outbox.put({"ready": True, "dtype": str(engine.engine.model_config.dtype).removeprefix("torch.")})
        failure = "died"
        engine.run(inbox, outbox)
    except Exception as error:
        traceback.print_exc()
        outbox.put({failure: f"{type(error).__name__}: {error}"})
        status = 1
    outbox.put(None)
    sender.join(5)
    if engine:
        engine.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of native libraries would hold an ordinary exit up


def read(connection: Connection, parent: int, inbox: queue.SimpleQueue) -> None:
    """Pass messages on; kill the whole group when the parent is gone, even in the middle of a step or of loading."""
    try:
        while True:
            # A process that the parent forked may hold its end of the pipe open: then only the parent's id tells.
            while not connection.poll(1.0):
                if os.getppid() != parent:
                    raise EOFError
            inbox.put(json.loads(connection.recv_bytes()))
    except (EOFError, OSError):
        os.killpg(os.getpgrp(), signal.SIGKILL)


class Engine:
    """A vLLM engine fed between steps; `settings` are the fields of replicas.EngineSettings and a `scratch` folder."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        model, merged = Path(settings["model"]), Path(settings["scratch"]) / "merged"
        if base_model(model) is not None:
            # Imported late: peft takes seconds.
            from rpg_openrlhf.weight_sync.adapters import write_merged

            write_merged(model, merged, settings["trust_remote_code"])
            model = merged
        try:
            self.llm = build(settings | {"model": str(model)})
        finally:  # also of a model that is refused: the killed actor of a RayReplica does not clean its scratch folder
            shutil.rmtree(merged, ignore_errors=True)
        self.engine = self.llm.llm_engine
        self.room = self.engine.model_config.max_model_len
        self.keys: dict[str, list] = {}  # of the requests inside the engine, by vLLM's name for them
        self.accepted = 0
        self.params(0, settings["max_tokens"])  # settings that vLLM refuses are refused now

    def params(self, seed: int, max_tokens: int) -> "SamplingParams":
        """One sample's own seed: what it draws does not depend on what is sampled beside it."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=self.settings["temperature"],
            top_p=self.settings["top_p"],
            top_k=self.settings["top_k"],
            seed=seed,
            max_tokens=max_tokens,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_special_tokens=True,
        )

    def run(self, inbox: queue.SimpleQueue, outbox: queue.SimpleQueue) -> None:
        """Step until a None arrives."""
        spoke = time.monotonic()
        while True:
            done = []
            # Waits only where nothing is left to do or to tell of.
            while not inbox.empty() or not (self.keys or done):
                message = inbox.get()
                if message is None:
                    return
                done += [refusal for row in message if (refusal := self.add(*row))]
            if self.keys:
                done += self.step()
            now = time.monotonic()
            if done or now - spoke > ALIVE_SECONDS:
                outbox.put({"done": done})
                spoke = now

    def add(self, key: list, ids: list[int], seed: int) -> list | None:
        """Hand one request to vLLM; the finished row where it cannot be sampled."""
        try:
            room = self.room - len(ids)
            if room < 1 or not ids:
                raise ValueError(f"a prompt of {len(ids)} tokens leaves no room in {self.room}")
            name = str(self.accepted)
            self.accepted += 1
            params = self.params(seed, min(self.settings["max_tokens"], room))
            self.engine.add_request(name, {"prompt_token_ids": ids}, params)
        except (ValueError, TypeError) as error:  # vLLM's validation; the other requests are fine
            print(f"request {key}: {error}", file=sys.stderr, flush=True)
            return [key, "", 0, "error"]
        self.keys[name] = key
        return None

    def step(self) -> list[list]:
        """One forward pass of everything running; the rows that it finished."""
        done = []
        for output in self.engine.step():
            if output.finished:
                sample = output.outputs[0]
                reason = sample.finish_reason or "error"
                done.append([self.keys.pop(output.request_id), sample.text, len(sample.token_ids), reason])
        return done

    def shutdown(self) -> None:
        """End vLLM's own processes."""
        self.engine.engine_core.shutdown()


def build(settings: dict[str, Any]) -> "LLM":
    """vLLM with the settings' model; whatever it raises says why not."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # Before torch loads: threads that spin while they wait make a shared CPU several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    if on_cpu:
        prepare_cpu(settings["tp"])
    from vllm import LLM

    eager = settings["enforce_eager"]
    return LLM(
        model=settings["model"],
        dtype=settings["dtype"],
        max_model_len=settings["max_model_len"],
        tensor_parallel_size=settings["tp"],
        gpu_memory_utilization=settings["gpu_memory_utilization"],
        enforce_eager=on_cpu if eager is None else eager,
        trust_remote_code=settings["trust_remote_code"],
        max_num_seqs=settings["max_num_seqs"],
        # On a CPU vLLM 0.29.0 fails on a seeded request whose prompt it splits over two steps: "CPU Generator does not
        # use offset". Unsplit, a step must be able to hold the longest prompt; vLLM sees to that itself.
        enable_chunked_prefill=False if on_cpu else None,
        enable_prefix_caching=True,  # the samples of one problem share its prefill
        generation_config="vllm",  # else top_p, top_k and more of the checkpoint's own sharpen what is measured
    )


def prepare_cpu(tensor_parallel: int) -> None:
    """vLLM's environment on a CPU, where it is not set."""
    import psutil  # vLLM needs it too

    if tensor_parallel == 1:
        # In this process: two fewer that import torch and poll each other, and no pinning of every engine to the
        # same cores, which vLLM's own worker does.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # vLLM would otherwise take gpu_memory_utilization of the whole machine's memory for its cache.
    free = psutil.virtual_memory().available // GIB
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, min(16, free // 8))))


if __name__ == "__main__":
    main()
