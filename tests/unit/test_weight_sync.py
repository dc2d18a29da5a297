"""Both ends of a weight sync without Ray and vLLM: shared memory, and what a commit and an engine refuse."""

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace as Namespace

import pytest
import torch

from tests import upstream

upstream.make_importable()

from rpg_openrlhf.weight_sync.engine import SyncedEngine
from rpg_openrlhf.weight_sync.plan import checksum, make_plan
from rpg_openrlhf.weight_sync.receiver import WeightReceiver
from rpg_openrlhf.weight_sync.sender import WeightSender
from rpg_openrlhf.weight_sync.transports import TOKEN, SharedMemory

NBYTES = 64 * 19_937  # of a slot; no other file has twice that size and the token

POLICY = f"""
import pickle, sys, time, torch
from rpg_openrlhf.weight_sync.transports import SharedMemory
memory = SharedMemory({NBYTES})
for slot, buffer in enumerate(memory.buffers): buffer.fill_(7 + slot)
print(pickle.dumps(memory.address).hex(), flush=True)
time.sleep(100)
"""
ENGINE = f"""
import pickle, sys, time
receive = pickle.loads(bytes.fromhex(sys.argv[1])).open(None)
print(*(sorted(set(receive(slot, {NBYTES}).tolist())) for slot in (0, 1)), flush=True)
time.sleep(100)
"""


def start(code: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def files_of_that_size() -> list[str]:
    found = []
    for entry in os.scandir("/dev/shm"):
        if entry.is_file() and entry.stat().st_size == 2 * NBYTES + TOKEN:
            found.append(entry.name)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="memfd")
def test_kill_9_leaves_no_shared_memory_behind():
    """While both sides have it, and after either was killed, there is no file; the other side's mapping holds on."""
    policy = start(POLICY)
    engine = start(ENGINE, policy.stdout.readline().strip())
    try:
        assert engine.stdout.readline() == "[7] [8]\n"
        assert not files_of_that_size()
        policy.send_signal(signal.SIGKILL)
        policy.wait()
        assert not files_of_that_size()
        assert engine.poll() is None
    finally:
        for process in (policy, engine):
            process.kill()
            process.wait()
    assert not files_of_that_size()


def test_memory_of_another_process_is_not_taken_for_the_policys(tmp_path):
    """Two slots between two pieces of memory of one size: only the token tells them apart."""
    one, other = SharedMemory(128), SharedMemory(128)
    here = Namespace(**vars(one.address))
    one.buffers[1].fill_(3)
    assert one.address.open(None)(1, 64).tolist() == [3] * 64
    small = tmp_path / "small"
    small.write_bytes(b"")
    for path in (other.address.path, "/proc/1/fd/100000", str(small)):
        here.path = path
        with pytest.raises(RuntimeError, match=r"--vllm.sync_backend shm: an engine cannot reach .* use gloo"):
            type(one.address)(**vars(here)).open(None)


class Model(torch.nn.Module):
    """An engine's, which calls the policy's weights by the same names."""

    def __init__(self):
        super().__init__()
        for name in ("a", "b", "c"):
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(64)))
        self.calls = []

    def load_weights(self, weights):
        weights = dict(weights)
        self.calls.append(list(weights))
        for name, weight in weights.items():
            getattr(self, name).data.copy_(weight)
        return set(weights)


class Policy:
    """Three tensors, a bucket of two and one of one, in shared memory."""

    def __init__(self, names=("a", "b", "c")):
        self.plan = make_plan([(name, (64,), torch.float32) for name in names], cap=512)
        self.memory = SharedMemory(512)

    def worker(self, dtype=torch.float32) -> WeightReceiver:
        worker = WeightReceiver()
        worker.model_config = Namespace(dtype=dtype, quantization=None)
        worker.model_runner = Namespace(model=Model())
        worker.open_weights(pickle.dumps((self.plan, self.memory.address, True)))
        return worker

    def pack(self, index: int, value: float) -> int:
        """Fill the bucket's slot -> its checksum."""
        for view in self.plan[index].views(self.memory.buffers[index]):
            view.fill_(value)
        return checksum(self.memory.buffers[index][: self.plan[index].nbytes])


def test_a_bucket_is_one_load_and_a_commit_wants_them_all():
    policy = Policy()
    worker = policy.worker()
    model = worker.model_runner.model
    sums = [policy.pack(0, 1.0), policy.pack(1, 2.0)]
    worker.load_bucket(1, 0, 0)
    with pytest.raises(RuntimeError, match=r"weight sync 1: buckets \[1\] of 2 missing or damaged"):
        worker.commit_weights(1, sums)
    worker.load_bucket(1, 1, 1)
    worker.commit_weights(1, sums)
    assert model.calls == [["a", "b"], ["c"]]
    assert [getattr(model, name)[0].item() for name in "abc"] == [1, 1, 2]


def test_a_commit_notices_other_bytes_and_another_sync():
    policy = Policy()
    worker = policy.worker()
    sums = [policy.pack(0, 1.0), policy.pack(1, 2.0)]
    for index in (1, 0):  # Ray may start two calls in either order
        worker.load_bucket(1, index, index)
    with pytest.raises(RuntimeError, match=r"weight sync 1: buckets \[1\] of 2"):
        worker.commit_weights(1, [sums[0], sums[1] + 1])
    with pytest.raises(RuntimeError, match=r"weight sync 2: buckets \[0, 1\] of 2"):
        worker.commit_weights(2, sums)
    worker.load_bucket(2, 0, 0)  # and one that starts anew has nothing of the old one
    with pytest.raises(RuntimeError, match=r"weight sync 2: buckets \[1\] of 2"):
        worker.commit_weights(2, sums)


def test_another_policy_begins_with_nothing_of_the_one_before():
    """Which may have died in a sync of the same number."""
    first, second = Policy(), Policy()
    worker = first.worker()
    sums = [policy.pack(index, 1.0) for index in (0, 1) for policy in (first, second)][::2]
    worker.load_bucket(1, 0, 0)
    worker.open_weights(pickle.dumps((second.plan, second.memory.address, True)))
    worker.load_bucket(1, 1, 1)
    with pytest.raises(RuntimeError, match=r"buckets \[0\] of 2"):
        worker.commit_weights(1, sums)


def test_a_weight_of_the_engine_that_nobody_sends_is_named():
    policy = Policy(names=("a", "c"))
    worker = policy.worker()
    sums = [policy.pack(0, 1.0)]
    worker.load_bucket(1, 0, 0)
    with pytest.raises(RuntimeError, match="the policy sent no weight for b of the engine"):
        worker.commit_weights(1, sums)


def test_dtypes_are_compared_before_anything_is_sent():
    with pytest.raises(AssertionError, match=r"weights are {torch.float32}, the engine's torch.bfloat16"):
        Policy().worker(dtype=torch.bfloat16)


class LLM:
    """vLLM's front end: notes what it is asked for."""

    def __init__(self, cache_resets=True):
        self.asked, self.cache_resets = [], cache_resets

    async def collective_rpc(self, method, args):
        self.asked.append(method)
        if method == "commit_weights" and args[1] == "damaged":
            raise RuntimeError("damaged")

    async def reset_prefix_cache(self):
        self.asked.append("reset_prefix_cache")
        return self.cache_resets

    async def pause_generation(self, mode):
        self.asked.append("pause")

    async def resume_generation(self):
        self.asked.append("resume")

    async def generate(self, *args, **kwargs):
        self.asked.append("generate")
        yield "tokens"


def engine(caching=True, **llm) -> SyncedEngine:
    """One without vLLM."""
    found = object.__new__(SyncedEngine)
    found.llm, found.kwargs, found._mm_pad_token_ids = LLM(**llm), {"enable_prefix_caching": caching}, None
    return found


def run(*coroutines):
    async def all_of_them():
        return [await each for each in coroutines]

    return asyncio.run(all_of_them())


def test_an_engine_generates_before_and_after_a_sync_and_not_within():
    actor = engine()
    assert run(actor.generate([1], None)) == ["tokens"]
    run(actor.load_bucket(1, 0, 0))
    with pytest.raises(RuntimeError, match="weight sync 1 was interrupted: this engine holds a mixture"):
        run(actor.generate([1], None))
    with pytest.raises(RuntimeError, match="damaged"):
        run(actor.commit_weights(1, "damaged"))
    with pytest.raises(RuntimeError, match="weight sync 1 was interrupted"):
        run(actor.generate([1], None))
    assert actor.llm.asked == ["generate", "load_bucket", "commit_weights"]
    run(actor.load_bucket(2, 0, 0), actor.commit_weights(2, []))
    assert actor.llm.asked[-2:] == ["commit_weights", "reset_prefix_cache"]
    assert run(actor.generate([1], None)) == ["tokens"]


def test_only_a_cache_that_exists_is_reset_and_one_in_use_is_an_error():
    actor = engine(caching=False)
    run(actor.commit_weights(1, []))
    assert actor.llm.asked == ["commit_weights"]
    with pytest.raises(RuntimeError, match="the prefix cache is in use"):
        run(engine(cache_resets=False).commit_weights(1, []))


def test_held_back_requests_wait_for_the_commit():
    """Upstream's partial rollouts: a request that comes in between is queued by vLLM and answered by new weights."""
    actor = engine(cache_resets=False)
    run(actor.pause_generation(), actor.load_bucket(1, 0, 0), actor.generate([1], None))
    with pytest.raises(RuntimeError, match="weight sync 1 was interrupted"):
        run(actor.resume_generation())
    run(actor.commit_weights(1, []), actor.resume_generation(), actor.generate([1], None))
    assert actor.llm.asked[-2:] == ["resume", "generate"]


class Calls:
    """Ray, for calls that are done, fail or never end."""

    def wait(self, calls, num_returns=1, timeout=None):
        done = [call for call in calls if call != "hangs"][:num_returns]
        assert done or timeout == 0, "it would wait for ever"
        return done, [call for call in calls if call not in done]

    def get(self, calls):
        if "fails" in calls:
            raise RuntimeError("ray::SyncedEngine.load_bucket()\nValueError: no such weight")


def sender(monkeypatch, transport) -> WeightSender:
    monkeypatch.setattr("rpg_openrlhf.weight_sync.sender.ray", Calls())
    found = object.__new__(WeightSender)
    found.version, found.transport = 3, transport
    return found


def test_an_engines_error_does_not_wait_for_those_that_hang(monkeypatch):
    """One engine that fails before it takes part in a broadcast leaves all others in it."""
    made = sender(monkeypatch, None)
    made._finish("load_bucket", ["done", "also done"])
    says = r"weight sync 3: engine 2 of 3 failed in load_bucket: ValueError: no such weight"
    with pytest.raises(RuntimeError, match=says):
        made._finish("load_bucket", ["hangs", "done", "fails"])


def test_a_transfer_that_blocks_is_given_up_once_an_engine_has_failed(monkeypatch):
    never = threading.Event()
    made = sender(monkeypatch, Namespace(send=lambda slot, nbytes: never.wait()))
    with pytest.raises(RuntimeError, match="engine 1 of 2 failed in load_bucket"):
        made._send_watching(0, 8, ["hangs", "fails"])
    never.set()
    made = sender(monkeypatch, Namespace(send=lambda slot, nbytes: None))
    made._send_watching(0, 8, ["hangs", "hangs"])
    made = sender(monkeypatch, Namespace(send=lambda slot, nbytes: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        made._send_watching(0, 8, ["hangs"])
