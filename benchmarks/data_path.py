"""Way from the engines' answers to the batches of a training step: OpenRLHF's path and ours, on the same rollouts.

    python benchmarks/data_path.py --out data_path.json                            # T = 256
    python benchmarks/data_path.py --out data_path.json --tokens 4096 --sizes 8192 --micro_batch_size 8

No model, engine or Ray cluster: what would run in the driver, the engines' and the policy's actors runs here, in one
process, and what a model would compute is not counted. Objects pass from one to another as through Ray: its pickler,
with the reducer for tensors that OpenRLHF turns on, one copy into the object store and none out of it.

Each sequence has T/4 prompt tokens and a response of one half to all of the rest. Policy and reference are asked.
"""

import argparse
import contextlib
import json
import os
import pickle
import resource
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace as Namespace

from rpg_openrlhf import cpu_platform

cpu_platform.install()

import numpy as np
import torch
import torch.distributed as dist
from openrlhf.trainer.ppo_utils import experience_maker as maker_module
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.trainer.ppo_utils.kl_controller import FixedKLController
from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ray import launcher
from openrlhf.utils.deepspeed import DeepspeedStrategy
from ray._private.tensor_serialization_utils import zero_copy_tensors_reducer
from ray.cloudpickle import CloudPickler
from ray.cloudpickle import dumps as cloudpickle_dumps
from torch.utils.data import DataLoader

from rpg_openrlhf.sampling.generator import RPGSamplesGenerator
from rpg_openrlhf.sampling.samples import pack
from rpg_openrlhf.training.column_actors import ColumnBuffer, ColumnForward
from rpg_openrlhf.training.measured_once import ReduceLater
from rpg_openrlhf.training.micro_batches import ColumnMaker

GROUP = 16  # samples a prompt
METRICS = ("_num_action_tokens", "_num_samples", *map(str, range(15)))  # of a micro-batch


class Clock:
    """Process CPU seconds of each stage, without those of the stages within it."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._stages: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._count()
        self._stages.append(stage)
        yield
        self._count()
        self._stages.pop()

    def _count(self) -> None:
        now = time.process_time()
        if self._stages:
            self.seconds[self._stages[-1]] = self.seconds.get(self._stages[-1], 0) + now - self._since
        self._since = now


class Stored:
    """An object in Ray's store: what was pickled, and its buffers side by side."""

    def __init__(self, value):
        buffers: list[pickle.PickleBuffer] = []
        self.pickled = cloudpickle_dumps(value, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        store = np.empty(sum(view.nbytes for view in views), np.uint8)
        self.buffers, start = [], 0
        for view in views:
            store[start : start + view.nbytes] = view
            self.buffers.append(memoryview(store[start : start + view.nbytes]).toreadonly())
            start += view.nbytes

    def get(self):
        return pickle.loads(self.pickled, buffers=self.buffers)


RAY = Namespace(put=Stored, get=lambda refs: [ref.get() for ref in refs] if isinstance(refs, list) else refs.get())


class Policy(launcher.BaseModelActor):
    """A rank of a policy or reference whose model costs nothing, and its replay buffer."""

    def __init__(self, buffer: NaiveReplayBuffer, log_probs: torch.Tensor, clock: Clock):
        self.strategy = Namespace(is_rank_0=lambda: False)
        self.trainer = Namespace(replay_buffer=buffer)
        self.log_probs, self.clock = log_probs, clock

    def forward(self, sequences, action_mask=None, attention_mask=None, mm_train_inputs_list=None):
        with self.clock("the model"):
            rows, actions = action_mask.shape
            return self.log_probs[:rows, :actions] * action_mask.float()

    def append(self, experience):
        self.trainer.replay_buffer.append(experience)


def group_of(actor: Policy) -> launcher.RayActorGroup:
    """Upstream's group of actors, of one."""
    group = object.__new__(launcher.RayActorGroup)
    remote = Namespace(remote=lambda *args: Stored(actor.execute_batch(args[0], args[1].get(), *args[2:])))
    group._actor_handlers, group.duplicate_actors = [Namespace(execute_batch=remote)], 1
    return group


def settings(micro_batch_size: int, dynamic: bool, tokens: int) -> Namespace:
    """Arguments of a run that the stages read: RPG, or GRPO with its KL in the loss."""
    advantage = Namespace(estimator="dr_grpo", gamma=1.0, no_std_norm=False, is_correction_level="off")
    return Namespace(
        algo=Namespace(advantage=advantage, kl=Namespace(use_loss=True, init_coef=1e-3, estimator="k3")),
        train=Namespace(
            dynamic_batch_enable=dynamic, colocate_all=False, colocate_actor_ref=False, colocate_critic_reward=False
        ),
        ds=Namespace(ring_attn_size=1, tensor_parallel_size=1),
        rollout=Namespace(
            micro_batch_size=micro_batch_size, n_samples_per_prompt=GROUP, max_tokens_per_gpu=micro_batch_size * tokens
        ),
        reward=Namespace(clip_range=None),
        actor=Namespace(num_nodes=1, num_gpus_per_node=1),
        rpg=Namespace(on_policy=False, old_policy="recompute"),
    )  # fmt: skip


def answers(sequences: int, tokens: int, seed: int = 0) -> Iterator[list[dict]]:
    """The executor's answers from an engine's outputs, prompt by prompt: lists of Python numbers."""
    random = np.random.default_rng(seed)
    prompt = tokens // 4
    for _ in range(sequences // GROUP):
        question = random.integers(1000, 150_000, prompt).tolist()
        group = []
        for _ in range(GROUP):
            length = int(random.integers((tokens - prompt) // 2, tokens - prompt, endpoint=True))
            reward = float(random.choice([-1.0, 1.0]))
            group.append({
                "prompt": "a question of the data set " * 8, "label": "42", "images": None, "mm_train_inputs": None,
                "observation_tokens": question + random.integers(1000, 150_000, length).tolist(),
                "action_ranges": [(prompt, prompt + length)],
                "rollout_log_probs": [0.0] * prompt + random.normal(-1, 0.5, length).tolist(),
                "truncated": False, "reward": reward, "scores": (reward + 1) / 2,
                "extra_logs": {"accuracy": (reward + 1) / 2, "formatted": 1.0},
            })  # fmt: skip
        yield group


def maker_of(kind: type, *, args: Namespace, policy, reference, clock: Clock) -> RemoteExperienceMaker:
    """An experience maker of that class whose stages are timed."""
    stages = {
        "split_rollout_samples": "micro-batches",
        "_dispatch_forward": "forward: in and out",
        "_flatten_results": "forward: in and out",
        "make_experience": "experience",
        "compute_advantages_and_returns": "advantages",
    }

    def timed(name: str, stage: str):
        def method(self, *arguments, **named):
            with clock(stage):
                return getattr(kind, name)(self, *arguments, **named)

        return method

    timed_kind = type("Timed", (kind,), {name: timed(name, stage) for name, stage in stages.items()})
    strategy = Namespace(args=args)
    tokenizer = Namespace(pad_token_id=0)
    return timed_kind(policy, None, None, reference, FixedKLController(0.0), strategy, tokenizer)


def path(ours: bool, sequences: int, tokens: int, micro_batch_size: int, log_probs: torch.Tensor) -> dict[str, float]:
    """One rollout through all stages -> CPU seconds of each."""
    clock = Clock()
    args = settings(micro_batch_size, False, tokens)
    buffer = (ColumnBuffer if ours else NaiveReplayBuffer)(micro_batch_size)
    actor = type("Rank", (ColumnForward, Policy), {}) if ours else Policy
    policy, reference = (group_of(actor(buffer, log_probs, clock)) for _ in range(2))
    generator = object.__new__(RPGSamplesGenerator if ours else SamplesGenerator)
    kind = ColumnMaker if ours else RemoteExperienceMaker
    maker = maker_of(kind, args=args, policy=policy, reference=reference, clock=clock)
    samples = []
    for group in answers(sequences, tokens):
        with clock("engine to driver"):
            received = Stored(pack(group, tokens) if ours else group).get()
        with clock("samples"):
            samples += [generator._process_response_into_experience(one, max_len=tokens) for one in received]
        del group, received
    experiences = maker.make_experience_batch(samples)
    with clock("driver to policy"):
        policy.async_run_method_batch(method_name="append", experience=experiences)
    del samples, experiences, maker
    strategy = strategy_of()
    strategy = ReduceLater(strategy) if ours else strategy
    loader = DataLoader(buffer, micro_batch_size, shuffle=True, drop_last=True, collate_fn=buffer.collate_fn)
    with clock("collate"):
        for _ in loader:
            with clock("metrics"):
                strategy.all_reduce(dict.fromkeys(METRICS, 0.5))
    clock.seconds.pop("the model")
    return clock.seconds


def strategy_of() -> DeepspeedStrategy:
    """Upstream's, of one rank that has joined a group."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    strategy = object.__new__(DeepspeedStrategy)
    strategy.world_size = 1
    return strategy


def measure(sizes: list[int], tokens: int, micro_batch_size: int, repeats: int, ways: dict[str, bool]) -> list[dict]:
    """Every size, the ways in turns."""
    log_probs = torch.randn(micro_batch_size, tokens)
    rows = []
    for sequences in sizes:
        results: dict[str, list] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, ours in ways.items():
                results[way].append(path(ours, sequences, tokens, micro_batch_size, log_probs))
        for way, runs in results.items():
            row = {"way": way, "sequences": sequences, "tokens": tokens, "micro_batch_size": micro_batch_size}
            rows.append(row | {"runs": runs})
    return rows


def table(rows: list[dict]) -> str:
    """Markdown: the stages of each size, in ms, and their sum a sequence."""
    stages = list(dict.fromkeys(stage for row in rows for run in row["runs"] for stage in run))
    names = ["sequences", "T", "", *stages, "sum, s [min, max]", "ms a sequence", "times less"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    base = 1.0
    for row in rows:
        sums = [sum(run.values()) for run in row["runs"]]
        middle = statistics.median(sums)
        base = middle if row["way"] == "OpenRLHF" else base
        cells = [row["sequences"], row["tokens"], row["way"]]
        cells += [f"{1000 * statistics.median(run.get(stage, 0.0) for run in row['runs']):.0f}" for stage in stages]
        cells += [f"{middle:.2f} [{min(sums):.2f}, {max(sums):.2f}]", f"{1000 * middle / row['sequences']:.3f}"]
        lines.append("| " + " | ".join(map(str, [*cells, f"{base / middle:.1f}"])) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="CPU seconds between the engines and the training steps.")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=[64, 512, 2048, 8192])
    parser.add_argument("--tokens", type=int, default=256, help="of the longest sequence (%(default)s)")
    parser.add_argument("--micro_batch_size", type=int, default=64, help="of forward passes and steps (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of each way, in turns (%(default)s)")
    parser.add_argument("--only", choices=("OpenRLHF", "ours"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    CloudPickler.dispatch[torch.Tensor] = zero_copy_tensors_reducer
    launcher.ray = maker_module.ray = RAY
    launcher.tqdm = lambda rows, **_: rows
    ways = {"OpenRLHF": False, "ours": True}
    ways = {way: ours for way, ours in ways.items() if args.only in (None, way)}
    rows = measure(args.sizes, args.tokens, args.micro_batch_size, args.repeats, ways)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    args.out.write_text(json.dumps({"peak_gib": peak, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, peak {peak:.1f} GiB", table(rows), sep="\n\n")


if __name__ == "__main__":
    main()
