"""Child process that holds a vLLM engine and returns each completion as it finishes; the only file that imports vllm.

    python -m evaluation.sampling.engine_process SOCKET_FD PARENT_PID        (started by local_replica.LocalReplica)

The engine takes new requests between two steps, so it never drains between batches, problems or benchmarks. When the
parent ends for any reason, the child kills its process group, which includes vLLM's workers.
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

ALIVE_SECONDS = 5.0  # without a message for this long, a step sends one as a sign of life
GIB = 1 << 30


def main() -> None:
    """Load and sample until told to stop; the exit status is 1 if the engine failed."""
    connection, parent = Connection(int(sys.argv[1])), int(sys.argv[2])
    os.set_inheritable(connection.fileno(), False)
    if os.getpgrp() != os.getpid():
        os.setsid()
    inbox: queue.SimpleQueue = queue.SimpleQueue()
    outbox: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=read, args=(connection, parent, inbox), daemon=True).start()
    # A thread sends, so that a parent that reads slowly does not delay the engine.
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
    os._exit(status)  # an ordinary exit would wait for threads of native libraries


def read(connection: Connection, parent: int, inbox: queue.SimpleQueue) -> None:
    """Put messages into the inbox; kill the process group when the parent ends, also during a step or loading."""
    try:
        while True:
            # A process forked by the parent may keep the pipe open; then only the parent's id shows its end.
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
        finally:  # also after a refusal: the killed actor of a RayReplica does not remove its scratch folder
            shutil.rmtree(merged, ignore_errors=True)
        self.engine = self.llm.llm_engine
        self.room = self.engine.model_config.max_model_len
        self.keys: dict[str, list] = {}  # keys of the requests inside the engine, by vLLM's request id
        self.accepted = 0
        self.params(0, settings["max_tokens"])  # raises now if vLLM refuses the settings

    def params(self, seed: int, max_tokens: int) -> "SamplingParams":
        """Sampling parameters with the sample's own seed, so that other samples do not change it."""
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
        """Step until None arrives."""
        last_sent = time.monotonic()
        while True:
            done = []
            # Waits only if there is nothing to sample or to report.
            while not inbox.empty() or not (self.keys or done):
                message = inbox.get()
                if message is None:
                    return
                done += [refusal for row in message if (refusal := self.add(*row))]
            if self.keys:
                done += self.step()
            now = time.monotonic()
            if done or now - last_sent > ALIVE_SECONDS:
                outbox.put({"done": done})
                last_sent = now

    def add(self, key: list, ids: list[int], seed: int) -> list | None:
        """Hand one request to vLLM; return a finished row only if it cannot be sampled."""
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
        """Run one engine step; return the rows of the samples that it finished."""
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
    """vLLM with the settings' model; its error is passed on if it refuses them."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # Set before torch loads: spinning threads make a shared CPU several times slower.
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
        # use offset". Unsplit, a step must hold the longest prompt, which vLLM ensures itself.
        enable_chunked_prefill=False if on_cpu else None,
        enable_prefix_caching=True,  # the samples of one problem share its prefill
        generation_config="vllm",  # else the checkpoint's own top_p, top_k and others would apply
    )


def prepare_cpu(tensor_parallel: int) -> None:
    """Set vLLM's environment variables for a CPU unless they are set."""
    import psutil  # vLLM needs it too

    if tensor_parallel == 1:
        # Run vLLM in this process: its own two processes would import torch and poll each other, and its worker
        # would pin every engine to the same cores.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # vLLM would otherwise take gpu_memory_utilization of the whole machine's memory for its cache.
    free = psutil.virtual_memory().available // GIB
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, min(16, free // 8))))


if __name__ == "__main__":
    main()
