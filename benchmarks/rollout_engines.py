"""Subjects of rollouts.py: OpenRLHF's rollout actor and ours, each with its own generator of samples, on one model.

Real Ray and real vLLM. Both engines get the arguments of upstream's create_vllm_engines; ours also the prefix cache,
which is on by default here and off there.
"""

import contextlib
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace as Namespace

from rpg_openrlhf import cpu_platform

OPENRLHF, OURS = "OpenRLHF 0.11.2", "rpg_openrlhf"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHAPE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4096, "tie_word_embeddings": True,
    "eos_token_id": None, "bos_token_id": None,
}  # fmt: skip
REWARD = """from zlib import crc32

def reward_func(queries, prompts, labels):
    # A prompt whose label is "mixed" has right and wrong samples, by chance; others have right ones alone.
    score = float(labels[0] != "mixed" or crc32(queries[0].encode()) % 2)
    return {"rewards": score, "scores": score, "extra_logs": {}}
"""


def make_model(folder: Path, vocabulary: int, **shape: int) -> Path:
    """Random weights, and a byte-level tokenizer of `vocabulary` tokens whose merges are random too."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    draw = random.Random(0)
    tokens = dict.fromkeys(sorted(pre_tokenizers.ByteLevel.alphabet()))
    parts, merges = [*LETTERS, "Ġ"], []
    while len(tokens) < vocabulary:
        one, other = draw.choice(parts), draw.choice(parts)
        if "Ġ" not in other and one + other not in tokens:
            tokens[one + other] = None
            merges.append((one, other))
            parts += [one + other] if len(one + other) <= 4 else []  # so no token is longer than eight letters
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="!").save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(**{**SHAPE, **shape}, vocab_size=-(-vocabulary // 128) * 128)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    return folder


def texts(tokenizer, count: int, length: int, seed: int) -> list[str]:
    """Words of random letters, `length` tokens each, or one or two fewer."""
    draw = random.Random(seed)
    prompts = []
    for _ in range(count):
        words = " ".join("".join(draw.choices(LETTERS, k=draw.randint(2, 9))) for _ in range(length))
        ends = tokenizer(words, return_offsets_mapping=True)["offset_mapping"]
        prompts.append(words[: ends[length - 1][1]].rsplit(" ", 1)[0] if length > 20 else words[: ends[length - 1][1]])
    return prompts


def start_ray() -> None:
    """A Ray of its own, whose workers run without CUDA."""
    cpu_platform.install()
    import ray

    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's name for: no other machine joins
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
        runtime_env={
            "env_vars": {**cpu_platform.ENVIRONMENT, "PYTHONPATH": path},
            "worker_process_setup_hook": "rpg_openrlhf.cpu_platform.install",
        },
    )  # fmt: skip


def actor_classes() -> dict[str, type]:
    """Both actors, which also count what their engine was asked and what it has cost."""
    import psutil
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
            engine = 0.0
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    engine += sum(child.cpu_times()[:2])
            counted = {name: getattr(self, name) for name in ("prompted", "cached", "generated")}
            return {**counted, "actor_cpu": time.process_time(), "engine_cpu": engine}

    class Theirs(Observed, RolloutRayActor.__ray_actor_class__):
        pass

    class Ours(Observed, RPGRolloutActor):
        pass

    return {OPENRLHF: Theirs, OURS: Ours}


@dataclass
class Side:
    """One of the two: its generator, and the handle of its engine."""

    generator: object
    engine: object

    def rollout(self, prompts: list[str], samples: int, tokens: int, together: bool = True) -> dict[str, float]:
        """Sample, `together` in one dispatch or prompt by prompt -> what it took, by name."""
        import ray

        length = self.generator.args.data.max_len
        sampling = {"max_new_tokens": tokens, "min_new_tokens": tokens, "max_len": length}
        sampling |= {"temperature": 1.0, "n_samples_per_prompt": samples}
        before, begin, used = ray.get(self.engine.counters.remote()), time.perf_counter(), time.process_time()
        refs = []
        for batch in [prompts] if together else [[prompt] for prompt in prompts]:
            refs += self.generator._dispatch_prompts_to_vllm(batch, ["1"] * len(batch), **sampling)
        sent, dispatch_cpu = time.perf_counter() - begin, time.process_time() - used
        answers = ray.get(refs)
        seconds, driver_cpu = time.perf_counter() - begin, time.process_time() - used
        after = ray.get(self.engine.counters.remote())
        assert all(len(list(group)) == samples for group in answers)
        took = {name: after[name] - before[name] for name in before}
        assert took["generated"] == len(prompts) * samples * tokens
        return took | {
            "dispatch": sent, "dispatch_cpu": dispatch_cpu, "seconds": seconds, "driver_cpu": driver_cpu,
        }  # fmt: skip

    def keep_mixed(self, rows: list[tuple[str, str]], wanted: int, samples: int, tokens: int, ahead: bool) -> dict:
        """Sample prompts with labels until `wanted` groups are mixed, drawn ahead or one for one -> what it took."""
        import ray
        from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

        from rpg_openrlhf.sampling.dynamic_sampling import Prompts

        length = self.generator.args.data.max_len
        sampling = {"max_new_tokens": tokens, "max_len": length, "temperature": 1.0, "n_samples_per_prompt": samples}
        before, begin = ray.get(self.engine.counters.remote()), time.perf_counter()
        loader, kind = Prompts([("", [prompt], [label], [None]) for prompt, label in rows]), SamplesGenerator
        draw = kind._generate_vllm if not ahead else type(self.generator)._generate_vllm
        kept, drawn, _ = draw(self.generator, loader, wanted, True, **sampling)
        seconds, after = time.perf_counter() - begin, ray.get(self.engine.counters.remote())
        assert len(kept) == wanted * samples
        given_back = self.generator.given_back if ahead else 0
        generated = after["generated"] - before["generated"]
        return {"seconds": seconds, "drawn": drawn, "given_back": given_back, "generated": generated}


def start_sides(model: Path, max_len: int) -> dict[str, Side]:
    """Both, on one model, with log-probs of what is sampled."""
    import ray
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
    from transformers import AutoTokenizer

    from rpg_openrlhf.sampling.generator import RPGSamplesGenerator

    tokenizer = AutoTokenizer.from_pretrained(model)
    args = Namespace(
        train=Namespace(seed=1), data=Namespace(dataloader_num_workers=0, max_len=max_len),
        rollout=Namespace(n_samples_per_prompt=1, batch_size=1), vllm=Namespace(enable_sleep=False),
        algo=Namespace(advantage=Namespace(is_correction_level="token"), dynamic_filtering_enable=False,
                       dynamic_filtering_range=(0.0, 1.0)),
    )  # fmt: skip
    strategy = Namespace(args=args, setup_dataloader=lambda *_, **__: [])
    loader = Namespace(dataset=type("NoPrompts", (list,), {"collate_fn": None})())  # they are given to dispatch
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
