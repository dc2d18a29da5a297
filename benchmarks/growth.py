"""Growth of a step: seconds by phase and memory by process, against batch, response length, model size and ranks.

    python benchmarks/growth.py --work out/growth --out growth.json --png docs/growth.png     # --points: none is run

Every point is a run of the real command on the CPU platform. A point that is in --out is not run again, so the command
can be stopped and given again. The models have random weights and never end a reply: every reply is as long as
--rollout.max_new_tokens. The learning rate is 0, which keeps them so. The first step, which warms the engine, is
dropped.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from growth_report import KINDS, draw, memory_table, predict_memory, time_table

ROOT = Path(__file__).parents[1]
PHASES = {"generate": "generation", "experience": "make_experience", "train": "ppo_train", "sync": "broadcast"}
MODELS = {"1M": (128, 2), "4M": (256, 4), "22M": (512, 6), "95M": (768, 12)}  # hidden size, layers
VOCABULARY, GROUP, PROMPT = 4096, 8, 12
MICRO_TOKENS = 8192  # of a micro-batch, so that its memory is the same at every length


class Point(NamedTuple):
    model: str = "1M"
    sequences: int = 64
    response: int = 64
    ranks: int = 1
    zero: int = 2

    @property
    def steps(self) -> int:
        """The first of them is not measured."""
        heavy = self.model == "95M" or self.sequences * self.response > 2**17
        return 2 if heavy else 3

    @property
    def name(self) -> str:
        return f"{self.model}-{self.sequences}x{self.response}-ranks{self.ranks}-zero{self.zero}"

    @property
    def micro_batch(self) -> int:
        fits = max(1, MICRO_TOKENS // (self.response + PROMPT))
        return min(1 << (fits.bit_length() - 1), self.sequences // 2 // self.ranks)


AXES = {
    "sequences": {r: [Point(sequences=n, ranks=r) for n in (64, 256, 1024, 4096)] for r in (1, 2)},
    "response": {1: [Point(response=n) for n in (64, 128, 512, 2048, 4096)]},
    "model": {r: [Point(model=m, ranks=r) for m in MODELS] for r in (1, 2)},
}
POINTS = {p.name: p for axis in AXES.values() for points in axis.values() for p in points}
POINTS |= {p.name: p for p in [Point("95M", ranks=2, zero=3)]}


def make_model(folder: Path, hidden: int, layers: int) -> None:
    """Random weights, and an end token that is never sampled.

    Every embedding has 1 in its first place, where no layer writes, so the last hidden states have a positive number
    there, and the end token's row a very negative one: its logit lies far below all others.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    vocabulary = {token: i for i, token in enumerate(["<unk>", "<eos>", *"0123456789+="])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = {"eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **special).save_pretrained(folder)
    heads = {"num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64, "head_dim": 64}
    sizes = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers, **heads}
    ends = {"eos_token_id": 1, "pad_token_id": 1, "bos_token_id": None}
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, max_position_embeddings=8192, tie_word_embeddings=True, **sizes, **ends
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        rows[:, 0] = 1.0
        rows[1] = 0.0
        rows[1, 0] = -40.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
    model.to(torch.bfloat16).save_pretrained(folder)


def command(point: Point, work: Path, out: Path) -> list[str]:
    prompts = point.sequences // GROUP
    settings = {
        "config": f"{ROOT / 'configs/algorithm/rpg_reinforce_urkl.yaml'},{ROOT / 'configs/hardware/cpu.yaml'}",
        "actor.model_name_or_path": work / "models" / point.model,
        "actor.num_gpus_per_node": point.ranks,
        "actor.adam.lr": 0.0,
        "ds.zero_stage": point.zero,
        "data.prompt_dataset": work / "prompts.jsonl",
        "data.label_key": "label",
        "data.max_samples": prompts * point.steps,
        "data.max_len": point.response + PROMPT,
        "rollout.batch_size": prompts,
        "rollout.n_samples_per_prompt": GROUP,
        "rollout.max_new_tokens": point.response,
        "rollout.micro_batch_size": point.micro_batch,
        "train.batch_size": point.sequences // 2,  # two optimizer steps a rollout: with one, nothing is recomputed
        "train.micro_batch_size": point.micro_batch,
        "ckpt.output_dir": out / "model",
        "ckpt.path": out / "checkpoints",
        "logger.run_dir": out / "logs",
    }
    words = [*(f"--{k}={v}" for k, v in settings.items()), "--actor.gradient_checkpointing_enable"]
    return [sys.executable, "-m", "rpg_openrlhf.commands.train_rpg", *words]


class Watcher:
    """Peak memory and CPU seconds of a run's processes, by kind, while it lasts."""

    def __init__(self, root: psutil.Process):
        self.root = root
        self.processes: dict[int, tuple[str, float, float]] = {}  # kind, peak MiB, CPU seconds
        self.samples: list[tuple[float, dict[str, float]]] = []  # time, CPU seconds of each kind up to then

    def look(self) -> None:
        for process in [self.root, *self.root.children(recursive=True)]:
            try:
                used = sum(process.cpu_times()[:2])
                self.processes[process.pid] = kind_of(process.name()), peak_mib(process.pid), used
            except (psutil.Error, OSError, KeyError):
                continue  # it has ended meanwhile; what was seen of it stays
        seconds = dict.fromkeys(KINDS, 0.0)
        for kind, _, used in self.processes.values():
            seconds[kind] += used
        self.samples.append((time.time(), seconds))

    def peaks(self, ranks: int) -> dict[str, float]:
        """MiB: the sum of the processes' own peaks; of policy ranks, one's."""
        total = dict.fromkeys(KINDS, 0.0)
        for kind, peak, _ in self.processes.values():
            total[kind] += peak
        return {**total, "policy rank": total["policy rank"] / ranks}

    def cpu(self, begin: float, end: float, steps: int) -> dict[str, float]:
        """CPU seconds a step, of all processes of a kind, between two times."""
        first, last = (min(self.samples, key=lambda sample: abs(sample[0] - at))[1] for at in (begin, end))
        return {kind: (last[kind] - first[kind]) / steps for kind in KINDS}


def kind_of(name: str) -> str:
    if name.startswith("ray::RPGPolicyActor"):
        return "policy rank"
    if name.startswith(("ray::RPGRolloutActor", "VLLM::")):
        return "engine"
    return "trainer" if name.startswith("ray::RPGTrainer") else "driver"  # with Ray's own services


def peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int({line.split(":")[0]: line for line in lines}["VmHWM"].split()[1]) / 1024


def measure(point: Point, work: Path, limit: float) -> dict:
    """One run, watched: medians of its steps without the first; what is left out says why."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        out = Path(folder)
        run = subprocess.Popen(command(point, work, out), stdout=subprocess.DEVNULL)
        watcher, ends = Watcher(psutil.Process(run.pid)), time.monotonic() + limit
        load = os.getloadavg()[0]
        try:
            while run.poll() is None:
                watcher.look()
                if time.monotonic() > ends:
                    return {"left_out": f"took more than {limit:.0f} s"}
                time.sleep(0.5)
        finally:
            run.terminate()  # the launcher ends its own processes
            run.wait()
        if run.returncode:
            print((out / "logs" / "train.log").read_text(errors="replace")[-4000:], file=sys.stderr)
            return {"left_out": f"the run ended with status {run.returncode}"}
        lines = (out / "logs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [report for report in map(json.loads, lines) if report["kind"] == "train"]
    assert all(step["rollout/response_length_mean"] == point.response for step in steps), "a reply ended early"
    seconds = {n: statistics.median(s[f"timing/{key}"] for s in steps[1:]) for n, key in PHASES.items()}
    seconds["step"] = statistics.median(s["timing/step_total"] for s in steps[1:])
    cpu = watcher.cpu(steps[0]["time"], steps[-1]["time"], len(steps) - 1)
    return {"seconds": seconds, "cpu": cpu, "peak_mib": watcher.peaks(point.ranks), "load": [load, os.getloadavg()[0]]}


def main() -> None:
    """Run what is missing, then write the tables and the figure."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without ending the run
    parser = argparse.ArgumentParser(description="Seconds and memory of a step against batch, length, model, ranks.")
    parser.add_argument("--work", type=Path, required=True, help="folder for models and prompts; kept")
    parser.add_argument("--out", type=Path, required=True, help="JSON of points; one that is in it is not run again")
    parser.add_argument("--png", type=Path, help="figure to write")
    parser.add_argument("--points", nargs="*", choices=POINTS, metavar="POINT", default=list(POINTS))
    parser.add_argument("--limit", type=float, default=400, help="seconds, then a point is left out (%(default)s)")
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.points:
        if name not in results:
            prepare(args.work, POINTS[name].model)
            results[name] = measure(POINTS[name], args.work, args.limit)
            args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(time_table(results, POINTS))
    measured = {name: point for name, point in POINTS.items() if "seconds" in results.get(name, {})}
    predicted = {name: predict_memory(command(p, args.work, args.work)[3:]) for name, p in measured.items()}
    print("", memory_table(results, POINTS, predicted), sep="\n")
    print("", *(f"left out: {name}, {r['left_out']}" for name, r in results.items() if "left_out" in r), sep="\n")
    if args.png:
        draw(results, AXES, {name: parameters(*size) for name, size in MODELS.items()}, predicted, args.png)


def parameters(hidden: int, layers: int) -> int:
    """Parameters of a model here: 13 hidden² a layer (four square matrices, three of the MLP), and the embedding."""
    return 13 * hidden**2 * layers + VOCABULARY * hidden


def prepare(work: Path, model: str) -> None:
    """Prompts and a model, made once."""
    (work / "models").mkdir(parents=True, exist_ok=True)
    rows = [{"input": f"{i:05d}+{i:05d}=", "label": str(2 * i)} for i in range(2000)]
    (work / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not (work / "models" / model).exists():
        make_model(work / "models" / model, *MODELS[model])


if __name__ == "__main__":
    main()
