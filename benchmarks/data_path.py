"""CPU time from the engines' answers to the batches of a training step: OpenRLHF's path and ours, same rollouts.

    python benchmarks/data_path.py --out data_path.json                            # T = 256
    python benchmarks/data_path.py --out data_path.json --tokens 4096 --sizes 8192 --micro_batch_size 8

No model, engine or Ray cluster is started. The code of the driver and of the engines' and policy's actors runs in one
process, and the models' time is not counted. Objects pass between actors as in Ray: with its pickler and the tensor
reducer that OpenRLHF turns on, one copy into the object store and none out of it.

Each sequence has T/4 prompt tokens and a response of half to all of the rest. Policy and reference give log-probs.
"""

import argparse
import contextlib
import pickle
import resource
import statistics
import time
import warnings
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace as Namespace

import harness
import numpy as np
from harness import Report, spread, table

from rpg_openrlhf import cpu_platform

cpu_platform.install()

import torch
import torch.distributed as dist
from openrlhf.trainer.ppo_utils import experience_maker
from openrlhf.trainer.ppo_utils.kl_controller import FixedKLController
from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ray import launcher
from openrlhf.utils.deepspeed import DeepspeedStrategy
from ray import cloudpickle
from ray._private.tensor_serialization_utils import zero_copy_tensors_reducer
from torch.utils.data import DataLoader

from rpg_openrlhf.sampling.generator import RPGSamplesGenerator
from rpg_openrlhf.sampling.samples import pack
from rpg_openrlhf.settings.arguments import arguments as upstreams_arguments
from rpg_openrlhf.settings.defaults import complete
from rpg_openrlhf.settings.parser import parse
from rpg_openrlhf.training import column_actors, measured_once, micro_batches
from rpg_openrlhf.training.experience import RPGExperienceMaker

GROUP = 16  # samples a prompt
METRICS = ("_num_action_tokens", "_num_samples", *map(str, range(15)))  # of a micro-batch
STAGES = {
    "split_rollout_samples": "micro-batches",
    "_dispatch_forward": "forward: in and out",
    "_flatten_results": "forward: in and out",
    "make_experience": "experience",
    "compute_advantages_and_returns": "advantages",
}


class Clock:
    """CPU seconds of this process in each stage, without its nested stages."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._within = 0.0  # seconds of the stages nested in the current one

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.seconds.setdefault(stage, 0.0)  # columns of the table keep the order in which stages begin
        begin, outer, self._within = time.process_time(), self._within, 0.0
        yield
        took = time.process_time() - begin
        self.seconds[stage] += took - self._within
        self._within = outer + took


class Stored:
    """An object in Ray's store: its pickle, and a copy of each of its buffers."""

    def __init__(self, value):
        buffers: list[pickle.PickleBuffer] = []
        self.pickled = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        self.buffers = [bytes(buffer.raw()) for buffer in buffers]

    def get(self):
        return pickle.loads(self.pickled, buffers=self.buffers)


RAY = Namespace(put=Stored, get=lambda refs: [ref.get() for ref in refs] if isinstance(refs, list) else refs.get())


def stand_in_for_ray() -> None:
    """Replace Ray by this process in OpenRLHF's modules, and use one thread."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    cloudpickle.CloudPickler.dispatch[torch.Tensor] = zero_copy_tensors_reducer
    launcher.ray = experience_maker.ray = RAY
    launcher.tqdm = lambda rows, **_: rows


def group_of(actor: launcher.BaseModelActor) -> launcher.RayActorGroup:
    """Upstream's actor group with a single actor."""
    group = object.__new__(launcher.RayActorGroup)
    remote = Namespace(remote=lambda *args: Stored(actor.execute_batch(args[0], args[1].get(), *args[2:])))
    group._actor_handlers, group.duplicate_actors = [Namespace(execute_batch=remote)], 1
    return group


def arguments(layer: str, prompts: int, group: int, tokens: int, *options: str, **values) -> Namespace:
    """Arguments that the launcher makes from a layer and a rollout's size; `a__b=value` is --a.b value."""
    values = {
        "config": harness.ROOT / "configs" / "algorithm" / f"{layer}.yaml",
        "data__prompt_dataset": "none.jsonl", "data__max_len": tokens, "rollout__max_new_tokens": tokens,
        "rollout__batch_size": prompts, "rollout__n_samples_per_prompt": group,
        "actor__num_gpus_per_node": 1, "vllm__num_engines": 1, **values,
    }  # fmt: skip
    words = [word for name, value in values.items() for word in (f"--{name.replace('__', '.')}", str(value))]
    return upstreams_arguments(complete(parse([*words, "--platform", "cpu", *options])))[0]


def answers(
    prompts: int, group: int, prompt: int, budget: int, *, seed=0, vocabulary=150_000, likely: float | None = -1
) -> Iterator[list[dict]]:
    """An engine's answers as the executor returns them, prompt by prompt: lists of Python numbers.

    Prompts have `prompt` tokens, responses half to all of `budget`; log-probs are around `likely` (None: none).
    """
    random = np.random.default_rng(seed)
    for _ in range(prompts):
        question = random.integers(1, vocabulary, prompt).tolist()
        lengths = random.integers(budget // 2, budget, group, endpoint=True).tolist()
        yield [
            {
                "prompt": "a question of the data set " * 8, "label": "42", "images": None, "mm_train_inputs": None,
                "observation_tokens": question + random.integers(1, vocabulary, length).tolist(),
                "action_ranges": [(prompt, prompt + length)],
                "rollout_log_probs": likely and [0.0] * prompt + random.normal(likely, 0.01, length).tolist(),
                "truncated": False, "reward": 1.0 - 2 * (i % 2), "scores": 1.0 - i % 2,
                "extra_logs": {"accuracy": 1.0 - i % 2, "formatted": 1.0},
            }
            for i, length in enumerate(lengths)
        ]  # fmt: skip


class Policy(launcher.BaseModelActor):
    """A rank of a policy or reference with its replay buffer; its model computes nothing."""

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


def timed(kind: type, clock: Clock) -> type:
    """Subclass of an experience maker that times its stages."""

    def method(name: str, stage: str):
        def run(self, *args, **kwargs):
            with clock(stage):
                return getattr(kind, name)(self, *args, **kwargs)

        return run

    return type("Timed", (kind,), {name: method(name, stage) for name, stage in STAGES.items()})


def collect(ours: bool, groups: Iterator[list[dict]], policy, reference, strategy, clock: Clock) -> None:
    """Move an engine's answers to the policy's replay buffer, by OpenRLHF's path or ours. Actors are groups."""
    args, samples = strategy.args, []
    is_rpg, limit = args.algo.objective == "rpg", args.data.max_len
    generator = object.__new__(RPGSamplesGenerator if ours else SamplesGenerator)
    for group in groups:
        with clock("engine to driver"):
            received = Stored(pack(group, limit) if ours else group).get()
        with clock("samples"):
            samples += [generator._process_response_into_experience(answer, max_len=limit) for answer in received]
        del group, received
    kind = experience_maker.RemoteExperienceMaker
    if ours:
        kind = RPGExperienceMaker if is_rpg else micro_batches.ColumnMaker
    coefficient = FixedKLController(0.0 if is_rpg else args.algo.kl.init_coef)
    maker = timed(kind, clock)(policy, None, None, reference, coefficient, strategy, Namespace(pad_token_id=0))
    with clock("experience"):
        experiences = maker.make_experience_batch(samples)
    with clock("driver to policy"):
        policy.async_run_method_batch(method_name="append", experience=experiences)


def path(ours: bool, sequences: int, flags: argparse.Namespace, turn: int) -> dict[str, float]:
    """Run one rollout through all stages -> CPU seconds of each."""
    clock, tokens, size = Clock(), flags.tokens, flags.micro_batch_size
    args = arguments(
        "grpo_as_released", sequences // GROUP, GROUP, tokens, algo__advantage__estimator="dr_grpo",
        rollout__micro_batch_size=size, train__micro_batch_size=size, train__batch_size=sequences,
    )  # fmt: skip
    buffer = (column_actors.ColumnBuffer if ours else NaiveReplayBuffer)(size)
    actor = type("Rank", (column_actors.ColumnForward, Policy), {}) if ours else Policy
    policy, reference = (group_of(actor(buffer, torch.randn(size, tokens), clock)) for _ in range(2))
    groups = answers(sequences // GROUP, GROUP, tokens // 4, tokens - tokens // 4)
    collect(ours, groups, policy, reference, Namespace(args=args), clock)
    strategy = object.__new__(DeepspeedStrategy)
    strategy.world_size = 1
    strategy = measured_once.ReduceLater(strategy) if ours else strategy
    loader = DataLoader(buffer, size, shuffle=True, drop_last=True, collate_fn=buffer.collate_fn)
    with clock("collate"):
        for _ in loader:
            with clock("metrics"):
                strategy.all_reduce(dict.fromkeys(METRICS, 0.5))
    clock.seconds.pop("the model")
    return clock.seconds


def rows_of(sequences: int, tokens: int, results: dict[str, list[dict[str, float]]]) -> Iterator[dict]:
    """Milliseconds of each way's stages, their sum, and the sum per sequence."""
    stages = dict.fromkeys(stage for turns in results.values() for turn in turns for stage in turn)
    base = None
    for way, turns in results.items():
        sums = [sum(turn.values()) for turn in turns]
        middle = statistics.median(sums)
        base = base or middle
        yield {
            "sequences": sequences, "T": tokens, "": way,
            **{s: f"{1000 * statistics.median(turn.get(s, 0.0) for turn in turns):.0f}" for s in stages},
            "sum, s [min, max]": spread(sums, 2), "ms a sequence": f"{1000 * middle / sequences:.3f}",
            "times less": f"{base / middle:.1f}",
        }  # fmt: skip


def main() -> None:
    """Measure, print the table, write the JSON."""
    flags = harness.flags(__doc__, repeats=5)
    flags.add_argument("--sizes", type=harness.numbers, default=[64, 512, 2048, 8192])
    flags.add_argument("--tokens", type=int, default=256, help="tokens of the longest sequence (%(default)s)")
    flags.add_argument("--micro_batch_size", type=int, default=64, help="of forward passes and steps (%(default)s)")
    flags.add_argument("--only", choices=("OpenRLHF", "ours"))
    args = flags.parse_args()
    stand_in_for_ray()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    report, rows = Report(args), []
    sides = [args.only] if args.only else ["OpenRLHF", "ours"]
    for size in args.sizes:
        ways = {side: partial(path, side == "ours", size, args) for side in sides}
        rows += rows_of(size, args.tokens, report.in_turns(ways, f"{size} sequences"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    report.show(f"peak {peak:.1f} GiB", table(rows))


if __name__ == "__main__":
    main()
