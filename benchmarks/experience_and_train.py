"""CPU time from a finished rollout to trained weights: OpenRLHF's GRPO as shipped and RPG, on the same rollout.

    python benchmarks/experience_and_train.py --out experience_and_train.json

OpenRLHF's side uses its own classes: experience maker, policy and reference actors with DeepSpeed engines, trainer and
replay buffer. It uses ours only to start on a CPU (`cpu_platform.py`) and to parse flags (the launcher). Ray and vLLM
are not measured: the actors share one process, whose CPU seconds are counted, and objects between them are pickled as
in Ray. Each run has its own process, and the methods take turns.
"""

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace as Namespace

import harness
from data_path import Clock, answers, arguments, collect, group_of, stand_in_for_ray
from harness import Report, spread, table

METHODS = {
    "OpenRLHF GRPO": ["grpo_as_released"],
    "RPG fast path": ["rpg_reinforce_urkl", "--rpg.old_policy", "rollout"],
    "RPG fast path (half of the layers recomputed)": [
        *("rpg_reinforce_urkl", "--rpg.old_policy", "rollout"), *("--actor.gradient_checkpointing_layers", "2"),
    ],
    "RPG recompute": ["rpg_reinforce_urkl"],
    "GRPO here": ["grpo_as_released"],
}  # fmt: skip
PROMPT, RESPONSE, PROMPTS, GROUP, VOCABULARY = 128, 2048, 2, 4, 1024
RECOMPUTE = "--actor.gradient_checkpointing_enable"


def write_model(folder: Path) -> None:
    """Write a Qwen3 whose output layer is 8 % of its weights (Qwen3-4B's: 10 %), and a placeholder tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    harness.make_qwen3(VOCABULARY, 256, 4, max_position_embeddings=PROMPT + RESPONSE).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1}, "a"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<pad>").save_pretrained(folder)


def actors(args: Namespace, ours: bool) -> list:
    """Actors of the policy and the reference (None without one), each with its DeepSpeed engine."""
    from openrlhf.trainer.ray.launcher import ReferenceModelActor
    from openrlhf.trainer.ray.ppo_actor import PolicyModelActor
    from openrlhf.utils import get_strategy

    from rpg_openrlhf.training.actors import RPGPolicyActor, RPGReferenceActor

    upstream = [PolicyModelActor.__ray_actor_class__, ReferenceModelActor.__ray_actor_class__]
    kinds = [RPGPolicyActor, RPGReferenceActor] if ours else upstream
    policy, reference = (kind(1, 0, "127.0.0.1", 29_400 + os.getpid() % 2000) for kind in kinds)
    strategy = get_strategy(args)
    strategy.extra_writers = []
    policy.init_model_from_pretrained(strategy, args.actor.model_name_or_path, 100, None)
    if args.algo.objective == "rpg":
        return [policy, None]
    reference.init_model_from_pretrained(get_strategy(args), args.actor.model_name_or_path)
    return [policy, reference]


def measure(method: str, folder: Path, recompute: bool) -> dict[str, float]:
    """CPU seconds of a rollout by phase, after a short warm-up rollout, and this process's peak memory."""
    stand_in_for_ray()
    layer, *options = METHODS[method]
    args = arguments(
        layer, PROMPTS, GROUP, PROMPT + RESPONSE, *options, *([RECOMPUTE] if recompute else []),
        actor__model_name_or_path=folder, rollout__max_new_tokens=RESPONSE, ckpt__output_dir=folder / "out",
        rollout__micro_batch_size=1,  # no padding in a forward pass, as with packed samples
        train__micro_batch_size=1, train__batch_size=PROMPTS * GROUP // 2,  # two optimizer steps a rollout
        actor__adam__lr=0.0,
    )  # fmt: skip
    ours, is_rpg = method != "OpenRLHF GRPO", args.algo.objective == "rpg"
    policy, reference = actors(args, ours)
    groups = [group_of(actor) if actor else None for actor in (policy, reference)]
    seconds = {}
    for seed, budget in enumerate((64, RESPONSE)):
        clock, likely = Clock(), -6.93 if is_rpg else None  # -log(VOCABULARY): random weights
        rollout = answers(PROMPTS, GROUP, PROMPT, budget, seed=seed, vocabulary=VOCABULARY, likely=likely)
        collect(ours, rollout, *groups, policy.strategy, clock)
        begin = time.process_time()
        status = policy.fit(0.0 if is_rpg else args.algo.kl.init_coef)
        seconds = {"train": time.process_time() - begin}
        assert status["actor_grad_norm"] > 0
        clock.seconds.pop("engine to driver")
        seconds["experience"] = sum(clock.seconds.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {**seconds, "both": sum(seconds.values()), "peak_gib": peak}


def rows_of(results: dict[str, list[dict]]) -> Iterator[dict]:
    """A row per method: its medians, and the ratio to OpenRLHF's."""
    base = 1.0
    for method, turns in results.items():
        middle = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
        base = middle["both"] if method == "OpenRLHF GRPO" else base
        yield {
            "CPU s a rollout": method,
            **{phase: f"{middle[phase]:.2f}" for phase in ("experience", "train")},
            "both [min, max]": spread((turn["both"] for turn in turns), 2),
            "ratio": f"{middle['both'] / base:.2f}",
            "peak, GiB": f"{middle['peak_gib']:.2f}",
        }


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = harness.flags(__doc__)
    parser.add_argument("--methods", type=harness.words, default=list(METHODS), help="comma-separated (all)")
    parser.add_argument("--no_recompute", action="store_true", help="without gradient checkpointing")
    args = parser.parse_args()
    report = Report(args)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        ways = {
            method: lambda _, method=method: harness.alone(measure, method, Path(folder), not args.no_recompute)
            for method in args.methods
        }
        report.show(table(rows_of(report.in_turns(ways))))


if __name__ == "__main__":
    main()
