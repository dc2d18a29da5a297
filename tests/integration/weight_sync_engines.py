"""Engines that stay while the ranks of several policies, each in processes of its own, bring them their weights.

python -m tests.integration.weight_sync_engines FOLDER     (writes FOLDER/report.json)

Three engines of tiny Qwen3 models: two of one with tied embeddings, started from different weights, and an untied one.
"""

import json
import os
import sys
from pathlib import Path

from rpg_openrlhf import cpu_platform
from rpg_openrlhf.launch.attempt import set_up_process

set_up_process("cpu")

import ray
import torch
from ray.exceptions import RayTaskError
from transformers import Qwen3Config, Qwen3ForCausalLM
from vllm import SamplingParams

from rpg_openrlhf.sampling.engine_actor import RPGRolloutActor
from tests.integration.ranks import Ranks

NAMESPACE = "weight_sync"
MODELS = {"tied0": True, "tied1": True, "untied0": False, "untied1": False}  # with what weights: its head is tied?
ENGINES = {"tied-a": "tied0", "tied-b": "tied1", "untied": "untied0"}  # and what each starts from
SHAPE = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512, "initializer_range": 0.3,
}  # fmt: skip
PROMPT = [1 + i * i % 127 for i in range(150)]  # more than a block of the prefix cache, which is 128 there


class ReadableEngine(RPGRolloutActor):
    async def weights(self) -> dict[str, torch.Tensor]:
        """Each parameter of its worker, as the engine names them."""
        (found,) = await self.llm.collective_rpc(
            lambda worker: {n: w.detach().clone() for n, w in worker.model_runner.model.named_parameters()}
        )
        return found

    async def call_as_if_quantized(self) -> None:
        """Its worker reloads layer by layer from now on."""
        await self.llm.collective_rpc(lambda worker: setattr(worker, "_layerwise", True))

    async def log_probs(self) -> tuple[list, int]:
        """The five best of eight greedy tokens, exactly; how much of the prompt came out of the cache."""
        self._is_lean = False  # all five are read
        greedy = SamplingParams(temperature=0, max_tokens=8, logprobs=5, detokenize=False, ignore_eos=True)
        output = await self.generate(PROMPT, greedy)
        found = [{t: p.logprob for t, p in best.items()} for best in output.outputs[0].logprobs]
        return found, output.num_cached_tokens


def start_engine(name: str, model: Path):
    """As upstream's create_vllm_engines asks for one."""
    actor = ray.remote(ReadableEngine).options(name=name, num_cpus=1)
    return actor.remote(
        model=str(model), worker_extension_cls="rpg_openrlhf.weight_sync.receiver.WeightReceiver",
        dtype="bfloat16", distributed_executor_backend="uni", enforce_eager=True, max_model_len=256, seed=1,
        enable_prefix_caching=True, skip_tokenizer_init=True, full_determinism=False, num_gpus=0, max_num_seqs=8,
    )  # fmt: skip


def refusal(engine) -> str:
    """What the engine says instead of generating."""
    try:
        ray.get(engine.log_probs.remote())
    except RayTaskError as error:
        return str(error.cause)
    return ""


def main(folder: Path) -> None:
    for seed, (name, tied) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=tied)).to(torch.bfloat16)
        model.save_pretrained(folder / name)
    env_vars = {**cpu_platform.ENVIRONMENT, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    hook = "rpg_openrlhf.launch.attempt.set_up_worker"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's name for: no other machine joins
    ray.init(
        address="local", num_cpus=8, include_dashboard=False, namespace=NAMESPACE, log_to_driver=False,
        runtime_env={"env_vars": env_vars, "worker_process_setup_hook": hook},
    )  # fmt: skip
    engines = {name: start_engine(name, folder / model) for name, model in ENGINES.items()}
    fresh = {name: ray.get(engine.log_probs.remote())[0] for name, engine in engines.items()}
    torch.save({ENGINES[name]: found for name, found in fresh.items()}, folder / "fresh.pt")
    ranks, cluster = Ranks(), {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}

    def statuses(world: int) -> list[int]:
        return ranks.statuses("weight_sync_of_ranks", folder, folder=folder, world=world, environment=cluster)

    report: dict = {"one rank": statuses(1)}  # it kills itself in the middle of a sync of the first engine
    report["refusal"] = refusal(engines["tied-a"])
    report["killed by itself"] = json.loads((folder / "files_of_the_killed.json").read_text())
    report["two ranks"] = statuses(2)
    ranks.close()
    report["refusal after another sync"] = refusal(engines["tied-a"])
    (folder / "report.json").write_text(json.dumps(report))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
