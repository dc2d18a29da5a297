"""Rollouts: OpenRLHF's vLLM actor and generator, and ours, on the same prompts in turns.

    python benchmarks/rollouts.py --out rollouts.json

dispatch    a prompt to the engine and back, with a tokenizer of 151,643 tokens: many in one call, and one by one
front_end   CPU of the Ray actor that holds the engine, per sampled token, with log-probs: 256 requests at a time
prefix      4 prompts of 2,048 tokens, 16 samples of each: prompt tokens from the cache, CPU of the engine
dynamic     32 groups of 8 samples whose rewards differ, as for about half of the prompts; replies of any length

Ray and vLLM are real, with the arguments of upstream's create_vllm_engines; ours also has our default prefix cache.
CPU seconds are those of the driver, of the actor, and of the engine, whose processes are the actor's children.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace as Namespace

import harness
from harness import OPENRLHF, OURS, Report, cells, cpu_seconds, table

QWEN3_TOKENS = 151_643
LETTERS = "abcdefghijklmnopqrstuvwxyz"
REWARD = """from zlib import crc32

def reward_func(queries, prompts, labels):
    # A prompt whose label is "mixed" has right and wrong samples, by chance; others have right ones alone.
    score = float(labels[0] != "mixed" or crc32(queries[0].encode()) % 2)
    return {"rewards": score, "scores": score, "extra_logs": {}}
"""


def make_model(folder: Path, vocabulary: int, hidden: int = 64, layers: int = 1, heads: int = 2, **shape: int):
    """Write random weights, a reward and a byte-level tokenizer with random merges; return the tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    draw = random.Random(0)
    tokens = dict.fromkeys(sorted(pre_tokenizers.ByteLevel.alphabet()))
    parts, merges = [*LETTERS, "Ġ"], []
    while len(tokens) < vocabulary:
        left, right = draw.choice(parts), draw.choice(parts)
        if "Ġ" not in right and left + right not in tokens:
            tokens[left + right] = None
            merges.append((left, right))
            parts += [left + right] if len(left + right) <= 4 else []  # so no token is longer than eight letters
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="!")
    tokenizer.save_pretrained(folder)
    model = harness.make_qwen3(
        -(-vocabulary // 128) * 128, hidden, layers, heads, max_position_embeddings=4096, **shape
    )  # fmt: skip
    model.save_pretrained(folder)
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    return tokenizer


def texts(tokenizer, count: int, length: int, seed: int = 0) -> list[str]:
    """`count` prompts of random words, about `length` tokens each."""
    draw = random.Random(seed)
    prompts = []
    for _ in range(count):
        text = " ".join("".join(draw.choices(LETTERS, k=draw.randint(2, 9))) for _ in range(length))
        prompts.append(text[: tokenizer(text, return_offsets_mapping=True)["offset_mapping"][length - 1][1]])
    return prompts


def actor_classes() -> dict[str, type]:
    """Both actors, extended by counters of the engine's tokens and CPU seconds."""
    from openrlhf.trainer.ray.vllm_engine import RolloutRayActor

    from rpg_openrlhf.sampling.engine_actor import RPGRolloutActor

    class Observed:
        prompted = cached = generated = 0

        async def generate(self, *args, **kwargs):
            output = await super().generate(*args, **kwargs)
            assert len(output.outputs[0].logprobs) == len(output.outputs[0].token_ids)
            self.prompted += len(output.prompt_token_ids)
            self.cached += output.num_cached_tokens or 0
            self.generated += len(output.outputs[0].token_ids)
            return output

        async def counters(self) -> dict[str, float]:
            actor = time.process_time()
            counted = {name: getattr(self, name) for name in ("prompted", "cached", "generated")}
            return {**counted, "actor_cpu": actor, "engine_cpu": cpu_seconds() - actor}

    return {
        OPENRLHF: type("Theirs", (Observed, RolloutRayActor.__ray_actor_class__), {}),
        OURS: type("Ours", (Observed, RPGRolloutActor), {}),
    }


@dataclass
class Side:
    """One of the two implementations: its generator, and the handle of its engine."""

    generator: object
    engine: object

    def observe(self, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Run `work` -> its result, seconds and CPU seconds of this process, and the engine's counters."""
        import ray

        before, begin, used = ray.get(self.engine.counters.remote()), time.perf_counter(), time.process_time()
        measured = work()
        measured |= {"seconds": time.perf_counter() - begin, "driver_cpu": time.process_time() - used}
        after = ray.get(self.engine.counters.remote())
        return measured | {name: after[name] - before[name] for name in before}

    def rollout(self, prompts: list[str], samples: int, tokens: int, together: bool = True) -> dict[str, float]:
        """Sample, `together` in one dispatch or prompt by prompt -> measurements by name."""
        import ray

        sampling = {"max_new_tokens": tokens, "min_new_tokens": tokens, "max_len": self.generator.args.data.max_len}
        sampling |= {"temperature": 1.0, "n_samples_per_prompt": samples}

        answers = []

        def work() -> dict[str, float]:
            begin, used, refs = time.perf_counter(), time.process_time(), []
            for batch in [prompts] if together else [[prompt] for prompt in prompts]:
                refs += self.generator._dispatch_prompts_to_vllm(batch, ["1"] * len(batch), **sampling)
            sent = {"dispatch": time.perf_counter() - begin, "dispatch_cpu": time.process_time() - used}
            answers.extend(ray.get(refs))
            return sent

        took = self.observe(work)
        assert all(len(list(group)) == samples for group in answers)
        assert took["generated"] == len(prompts) * samples * tokens
        return took

    def keep_mixed(self, rows: list[tuple[str, str]], wanted: int, samples: int, tokens: int, ahead: bool) -> dict:
        """Sample until `wanted` groups are mixed, drawing ahead or one for one -> measurements by name."""
        from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

        from rpg_openrlhf.sampling.dynamic_sampling import Prompts

        sampling = {"max_new_tokens": tokens, "max_len": self.generator.args.data.max_len, "temperature": 1.0}
        loader = Prompts([("", [prompt], [label], [None]) for prompt, label in rows])
        draw = (type(self.generator) if ahead else SamplesGenerator)._generate_vllm

        def work() -> dict[str, float]:
            kept, drawn, _ = draw(self.generator, loader, wanted, True, n_samples_per_prompt=samples, **sampling)
            assert len(kept) == wanted * samples
            return {"drawn": drawn, "given_back": self.generator.given_back if ahead else 0}

        return self.observe(work)


def start_sides(model: Path, max_len: int) -> dict[str, Side]:
    """Start both sides on one model, with log-probs of the sampled tokens."""
    import ray
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
    from transformers import AutoTokenizer

    from rpg_openrlhf.sampling.generator import RPGSamplesGenerator

    tokenizer = AutoTokenizer.from_pretrained(model)
    args = Namespace(
        train=Namespace(seed=1), data=Namespace(dataloader_num_workers=0, max_len=max_len),
        rollout=Namespace(n_samples_per_prompt=1, batch_size=1), vllm=Namespace(enable_sleep=False),
        algo=Namespace(advantage=Namespace(is_correction_level="token"), dynamic_filtering_enable=False,
                       dynamic_filtering_range=(0.0, 1.0), dynamic_filtering_max_draws=0),
    )  # fmt: skip
    strategy = Namespace(args=args, setup_dataloader=lambda *_, **__: [], progress=Namespace(put=print))
    loader = Namespace(dataset=type("NoPrompts", (list,), {"collate_fn": None})())  # prompts go to dispatch
    generators = {OPENRLHF: SamplesGenerator, OURS: RPGSamplesGenerator}
    sides = {}
    for name, kind in actor_classes().items():
        engine = ray.remote(kind).options(num_cpus=1).remote(
            model=str(model), enforce_eager=True, tensor_parallel_size=1, seed=1, max_model_len=max_len,
            worker_extension_cls="rpg_openrlhf.weight_sync.receiver.WeightReceiver",
            distributed_executor_backend="uni", enable_prefix_caching=name == OURS, dtype="bfloat16",
            trust_remote_code=False, full_determinism=False, num_gpus=0, enable_sleep_mode=False,
            logprobs_mode="processed_logprobs", max_logprobs=1, max_num_seqs=256,
            remote_rm_url=[str(model / "reward.py")],
        )  # fmt: skip
        sides[name] = Side(generators[name](strategy, loader, None, tokenizer, [engine]), engine)
    for side in sides.values():
        ray.get(side.engine.counters.remote())
    return sides


def dispatch(folder: Path, report: Report, quick: bool) -> str:
    """Milliseconds per prompt, by side and way of dispatch."""
    tokenizer = make_model(folder, 4096 if quick else QWEN3_TOKENS)
    sides, count, rows = start_sides(folder, 256), 4 if quick else 16, []
    prompts = texts(tokenizer, count, 16)
    keys = {"driver CPU": "dispatch_cpu", "driver": "dispatch", "actor CPU": "actor_cpu", "there and back": "seconds"}

    def work(side: Side, together: bool, turn: int) -> dict[str, float]:
        return side.rollout(prompts, 1, 1, together)

    for way, together in ((f"{count} in one call", True), ("one by one", False)):
        ways = {name: partial(work, side, together) for name, side in sides.items()}
        for name, turns in report.in_turns(ways, way, warm=True).items():
            rows.append({"ms a prompt": way, "": name, **cells(turns, keys, 2, 1e3 / count)})
    return table(rows)


def front_end(folder: Path, report: Report, quick: bool) -> str:
    """Microseconds of CPU a sampled token, by side."""
    prompts, samples, tokens = texts(make_model(folder, 4096), 16, 16), 16, 32 if quick else 128
    keys, scale = {f"{end} CPU, µs a token": f"{end}_cpu" for end in ("actor", "driver")}, 1e6 / tokens / samples / 16

    def work(side: Side, turn: int) -> dict[str, float]:
        return side.rollout(prompts, samples, tokens)

    ways = {name: partial(work, side) for name, side in start_sides(folder, 256).items()}
    results = report.in_turns(ways, "front end", warm=True)
    return table(
        {"tokens a sample": tokens, "": name, **cells(turns, keys, 1, scale)} for name, turns in results.items()
    )


def prefix(folder: Path, report: Report, quick: bool) -> str:
    """Share of repeated prompt tokens from the cache, and CPU of the engine, by side."""
    size = {} if quick else {"hidden": 512, "layers": 6, "heads": 8, "head_dim": 64}
    tokenizer, samples = make_model(folder, 4096, **size), 16
    keys = {"repeated prompt tokens from the cache, %": "share", "engine CPU, s": "engine_cpu", "seconds": "seconds"}

    def work(side: Side, turn: int) -> dict[str, float]:
        took = side.rollout(texts(tokenizer, 4 if turn else 1, 2048, seed=turn), samples, 32)
        return took | {"share": 100 * took["cached"] / (took["prompted"] * (samples - 1) / samples)}

    ways = {name: partial(work, side) for name, side in start_sides(folder, 2200).items()}
    results = report.in_turns(ways, "prefix", warm=True)
    theirs, ours = (statistics.median(turn["engine_cpu"] for turn in results[name]) for name in (OPENRLHF, OURS))
    rows = table({"": name, **cells(turns, keys, 1)} for name, turns in results.items())
    return f"{rows}\n\nEngine CPU: 1/{theirs / ours:.1f}."


def dynamic(folder: Path, report: Report, quick: bool) -> str:
    """Seconds of a rollout: upstream's, and with our engine drawn one for one and ahead."""
    tokenizer = make_model(folder, 256, eos_token_id=0)  # random weights sample it once in 256 tokens
    sides, (wanted, samples) = start_sides(folder, 1024), (4, 4) if quick else (32, 8)
    prompts = texts(tokenizer, 20 * wanted, 16)
    keys = {"drawn for it": "drawn", "given back": "given_back", "sampled tokens": "generated"}

    def work(side: Side, ahead: bool, turn: int) -> dict[str, float]:
        draw = random.Random(turn)
        rows = [(draw.choice(prompts), draw.choice(("mixed", "easy"))) for _ in prompts]
        return side.keep_mixed(rows, wanted, samples, 64 if quick else 768, ahead)

    ways = {
        OPENRLHF: partial(work, sides[OPENRLHF], False),
        f"{OURS}, one for one": partial(work, sides[OURS], False),
        OURS: partial(work, sides[OURS], True),
    }
    return table(
        {"": name, **cells(turns, {"seconds": "seconds"}, 1), **cells(turns, keys, 0)}
        for name, turns in report.in_turns(ways, "dynamic", warm=True).items()
    )


PARTS = {part.__name__: part for part in (dispatch, front_end, prefix, dynamic)}


def main() -> None:
    """Run every part in its own Ray, so that its engines do not compete with those of another."""
    parser = harness.flags(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(all)")
    parser.add_argument("--quick", action="store_true", help="small sizes and one turn, to check that it runs")
    args = parser.parse_args()
    args.repeats = 1 if args.quick else args.repeats
    report, tables = Report(args), []
    for name in args.parts:
        harness.start_ray()
        import ray

        with tempfile.TemporaryDirectory() as folder:
            tables.append(PARTS[name](Path(folder), report, args.quick))
        ray.shutdown()
    report.show(*tables)


if __name__ == "__main__":
    main()
