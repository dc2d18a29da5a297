"""Way from a finished rollout to trained weights: OpenRLHF's GRPO as it is shipped, and RPG, on the same rollout.

    python benchmarks/experience_and_train.py --out experience_and_train.json

OpenRLHF's side is its own classes: the experience maker, the policy's and the reference's actors with their DeepSpeed
engines, the trainer, the replay buffer. Of ours it has `cpu_platform.py` alone, without which it does not start on a
CPU; the launcher's part is only to parse its flags. Ray and vLLM have no part in what is measured: the actors live in
one process, which makes it process CPU seconds, and what passes between them is pickled as Ray does. Each run is a
process of its own; the methods take turns.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace as Namespace

from rpg_openrlhf import cpu_platform

ROOT = Path(__file__).parents[1]
METHODS = {
    "OpenRLHF GRPO": ["grpo_as_released"],
    "RPG fast path": ["rpg_reinforce_urkl", "--rpg.old_policy", "rollout"],
    "RPG fast path (half of the layers recomputed)": [
        *("rpg_reinforce_urkl", "--rpg.old_policy", "rollout"), *("--actor.gradient_checkpointing_layers", "2"),
    ],
    "RPG recompute": ["rpg_reinforce_urkl"],
    "GRPO here": ["grpo_as_released"],
}  # fmt: skip
# Its output layer is 8 % of its weights, as it is 10 % of Qwen3-4B's.
SHAPE = {
    "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "tie_word_embeddings": True,
}  # fmt: skip
PROMPT, RESPONSE, PROMPTS, GROUP = 128, 2048, 2, 4


def write_model(folder: Path) -> None:
    """A Qwen3 of that shape with random weights, and a tokenizer, which nobody asks."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape = SHAPE | {"max_position_embeddings": PROMPT + RESPONSE}
    Qwen3ForCausalLM(Qwen3Config(**shape)).to(torch.bfloat16).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1}, "a"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<pad>").save_pretrained(folder)


def arguments(method: str, folder: Path, recompute: bool = True) -> Namespace:
    """Arguments that the launcher makes of the method's layer and the size of the rollout."""
    from rpg_openrlhf.commands import train_rpg
    from rpg_openrlhf.settings import defaults as settle
    from rpg_openrlhf.settings import parser as flags

    layer, *more = METHODS[method]
    chosen = {
        "config": f"{ROOT / 'configs' / 'algorithm' / layer}.yaml",
        "actor.model_name_or_path": folder / "model",
        "data.prompt_dataset": folder / "none.jsonl",
        "data.max_len": PROMPT + RESPONSE,
        "rollout.max_new_tokens": RESPONSE,
        "rollout.batch_size": PROMPTS,
        "rollout.n_samples_per_prompt": GROUP,
        "rollout.micro_batch_size": 1,  # no padding in any forward pass, as none is where samples are packed
        "train.batch_size": PROMPTS * GROUP // 2,  # two optimizer steps a rollout
        "train.micro_batch_size": 1,
        "actor.num_gpus_per_node": 1,
        "actor.adam.lr": 0.0,
        "vllm.num_engines": 1,
        "ckpt.output_dir": folder / "out",
    }
    options = [part for name, value in chosen.items() for part in (f"--{name}", str(value))]
    if recompute:
        options.append("--actor.gradient_checkpointing_enable")
    parsed = flags.parse([*options, *more])
    settle.fill_defaults(parsed)
    return train_rpg.validate(parsed, "cpu")[0]


def rollout(seed: int, with_log_probs: bool, budget: int) -> list[list[dict]]:
    """Groups of answers of one half to all of a budget of tokens; log-probs as those of random weights are."""
    import numpy as np

    random = np.random.default_rng(seed)
    groups = []
    for _ in range(PROMPTS):
        question = random.integers(1, SHAPE["vocab_size"], PROMPT).tolist()
        lengths = random.integers(budget // 2, budget, GROUP, endpoint=True).tolist()
        groups.append([
            {
                "prompt": "question", "label": "42", "images": None, "mm_train_inputs": None, "truncated": False,
                "observation_tokens": question + random.integers(1, SHAPE["vocab_size"], length).tolist(),
                "action_ranges": [(PROMPT, PROMPT + length)],
                "rollout_log_probs": [0.0] * PROMPT + [-6.93] * length if with_log_probs else None,
                "reward": 1.0 - 2 * (i % 2), "scores": 1.0 - i % 2, "extra_logs": {},
            }
            for i, length in enumerate(lengths)
        ])  # fmt: skip
    return groups


def actors(args: Namespace, shipped: bool) -> tuple:
    """The policy's actor, the reference's where there is one, the classes of maker and generator, the strategy."""
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
    from openrlhf.trainer.ray.launcher import ReferenceModelActor
    from openrlhf.trainer.ray.ppo_actor import PolicyModelActor
    from openrlhf.utils import get_strategy

    kinds = [PolicyModelActor.__ray_actor_class__, ReferenceModelActor.__ray_actor_class__]
    maker, generator = RemoteExperienceMaker, SamplesGenerator
    if not shipped:
        from rpg_openrlhf.sampling.generator import RPGSamplesGenerator
        from rpg_openrlhf.training.actors import RPGPolicyActor, RPGReferenceActor
        from rpg_openrlhf.training.experience import RPGExperienceMaker
        from rpg_openrlhf.training.micro_batches import ColumnMaker

        kinds, generator = [RPGPolicyActor, RPGReferenceActor], RPGSamplesGenerator
        maker = RPGExperienceMaker if args.algo.objective == "rpg" else ColumnMaker
    policy, reference = (kind(1, 0, "127.0.0.1", 29_400 + os.getpid() % 2000) for kind in kinds)
    strategy = get_strategy(args)
    strategy.beside = []
    policy.init_model_from_pretrained(strategy, args.actor.model_name_or_path, 100, None)
    if args.algo.objective == "rpg":
        return policy, None, maker, generator, strategy
    reference.init_model_from_pretrained(get_strategy(args), args.actor.model_name_or_path)
    return policy, reference, maker, generator, strategy


def run(method: str, folder: Path, rollouts: int, recompute: bool = True) -> dict:
    """CPU seconds of each rollout after a short one, by phase, in this process."""
    cpu_platform.install()
    import torch
    from data_path import RAY, group_of
    from openrlhf.trainer.ppo_utils import experience_maker as maker_module
    from openrlhf.trainer.ppo_utils.kl_controller import FixedKLController
    from openrlhf.trainer.ray import launcher
    from ray._private.tensor_serialization_utils import zero_copy_tensors_reducer
    from ray.cloudpickle import CloudPickler

    from rpg_openrlhf.sampling.samples import pack

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    CloudPickler.dispatch[torch.Tensor] = zero_copy_tensors_reducer
    launcher.ray = maker_module.ray = RAY
    args, shipped = arguments(method, folder, recompute), method == "OpenRLHF GRPO"
    policy, reference, kind, generator_kind, strategy = actors(args, shipped)
    groups = [group_of(actor) if actor else None for actor in (policy, None, None, reference)]
    rpg = args.algo.objective == "rpg"
    coefficient = FixedKLController(0.0 if rpg else args.algo.kl.init_coef)
    maker = kind(*groups, coefficient, strategy, Namespace(pad_token_id=0))
    generator, limit = object.__new__(generator_kind), args.data.max_len
    seconds = []
    for seed in range(rollouts + 1):
        answers = rollout(seed, with_log_probs=rpg, budget=RESPONSE if seed else 64)
        received = [answer if shipped else pack(answer, limit) for answer in answers]
        begin = time.process_time()
        samples = [generator._process_response_into_experience(one, max_len=limit) for g in received for one in g]
        experiences = maker.make_experience_batch(samples)
        groups[0].async_run_method_batch(method_name="append", experience=experiences)
        middle = time.process_time()
        status = policy.fit(coefficient.value)
        seconds.append({"experience": middle - begin, "train": time.process_time() - middle})
        assert status["actor_grad_norm"] > 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"rollouts": seconds[1:], "peak_gib": peak}


def table(results: dict[str, list[dict]]) -> str:
    """Markdown: medians with their range, and the ratio to OpenRLHF's."""
    lines = ["| CPU s a rollout | experience | train | both [min, max] | ratio | peak, GiB |", "|---" * 6 + "|"]
    base = 1.0
    for method, runs in results.items():
        rows = [row for run in runs for row in run["rollouts"]]
        both = [row["experience"] + row["train"] for row in rows]
        base = statistics.median(both) if method == "OpenRLHF GRPO" else base
        cells = [f"{statistics.median(row[name] for row in rows):.2f}" for name in ("experience", "train")]
        cells.append(f"{statistics.median(both):.2f} [{min(both):.2f}, {max(both):.2f}]")
        cells += [f"{statistics.median(both) / base:.2f}", f"{statistics.median(r['peak_gib'] for r in runs):.2f}"]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="CPU seconds from a rollout to trained weights.")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each method, in turns (%(default)s)")
    parser.add_argument("--rollouts", type=int, default=1, help="measured in each (%(default)s)")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS), help="all of them")
    parser.add_argument("--no_recompute", action="store_true", help="without gradient checkpointing")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)  # what a process of its own does
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.method:
        found = run(args.method, args.folder, args.rollouts, not args.no_recompute)
        args.out.write_text(json.dumps(found), encoding="utf-8")
        return
    results: dict[str, list[dict]] = {method: [] for method in args.methods}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        for _ in range(args.repeats):
            for method in args.methods:
                found = folder / "found.json"
                options = ["--folder", folder, "--rollouts", str(args.rollouts), "--out", found, "--method", method]
                options += ["--no_recompute"] * args.no_recompute
                command = [sys.executable, __file__, *map(str, options)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                results[method].append(json.loads(found.read_text(encoding="utf-8")))
                args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", table(results), sep="\n\n")


if __name__ == "__main__":
    main()
