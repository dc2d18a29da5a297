"""Replies that pause for other weights: whose log-probs an engine has recorded for their tokens.

python -m tests.integration.paused_replies FOLDER
prints, for keys and values that are dropped in the pause and for ones that are kept, the largest difference between
the recorded log-probs and those of transformers: of the first weights before the pause, of the second after it
"""

import asyncio
import json
import os
import sys
from pathlib import Path

os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"

from rpg_openrlhf.launch.attempt import set_up_process

set_up_process("cpu")

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from vllm import AsyncEngineArgs, SamplingParams, TokensPrompt
from vllm.v1.engine.async_llm import AsyncLLM

SHAPE = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 2048, "initializer_range": 0.1,
}  # fmt: skip
PROMPTS = [[1 + (i * i + k) % 127 for i in range(40)] for k in range(4)]
LENGTH = 600  # tokens of a reply


def model(folder: Path, seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    made = Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)).float()
    made.save_pretrained(folder)
    return made


def start_engine(folder: Path) -> AsyncLLM:
    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=str(folder), dtype="float32", enforce_eager=True, max_model_len=LENGTH + 100, max_num_seqs=8,
            skip_tokenizer_init=True, enable_prefix_caching=True, logprobs_mode="processed_logprobs", seed=1,
        )
    )  # fmt: skip


async def load(engine: AsyncLLM, model: Qwen3ForCausalLM) -> None:
    weights = [(name, weight.detach()) for name, weight in model.named_parameters()]
    await engine.collective_rpc(lambda worker: worker.model_runner.model.load_weights(iter(weights)) and None)


async def reply(engine: AsyncLLM, number: int, progress: list[int]) -> tuple[list[int], list[float]]:
    sampling = SamplingParams(max_tokens=LENGTH, ignore_eos=True, logprobs=0, seed=number, detokenize=False)
    prompt = TokensPrompt(prompt_token_ids=PROMPTS[number])
    async for output in engine.generate(prompt, sampling, f"{number}-{id(progress)}"):
        progress[number] = len(output.outputs[0].token_ids)
        last = output.outputs[0]
    return list(last.token_ids), [best[t].logprob for t, best in zip(last.token_ids, last.logprobs, strict=True)]


async def with_a_pause(engine: AsyncLLM, first: Qwen3ForCausalLM, second: Qwen3ForCausalLM, clear_cache: bool) -> list:
    """Replies of an engine that is given the second weights when the slowest has a third of its tokens."""
    await load(engine, first)
    await engine.reset_prefix_cache()
    progress = [0] * len(PROMPTS)
    replies = [asyncio.create_task(reply(engine, number, progress)) for number in range(len(PROMPTS))]
    while min(progress) < LENGTH // 3:
        await asyncio.sleep(0.005)
    await engine.pause_generation(mode="keep", clear_cache=clear_cache)
    await load(engine, second)
    at = list(progress)
    await asyncio.sleep(0.2)
    assert progress == at, "tokens in the pause"
    await engine.resume_generation()
    found = [await task for task in replies]
    return [(*answer, pause) for answer, pause in zip(found, at, strict=True)]


@torch.no_grad()
def log_probs(model: Qwen3ForCausalLM, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].double()
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]


async def main(folder: Path) -> None:
    first, second = model(folder / "first", 0), model(folder / "second", 1)
    engine, report = start_engine(folder / "first"), {}
    for name, clear_cache in (("dropped", True), ("kept", False)):
        answers = await with_a_pause(engine, first, second, clear_cache)
        before, after, apart = [], [], []
        for prompt, (tokens, recorded, pause) in zip(PROMPTS, answers, strict=True):
            old, new = (log_probs(m, prompt, tokens) for m in (first, second))
            recorded = torch.tensor(recorded, dtype=torch.double)
            before.append((recorded - old)[:pause].abs().max().item())
            after.append((recorded - new)[pause:].abs().max().item())
            apart.append((old - new).abs().mean().item())
        report[name] = {"before": max(before), "after": max(after), "policies apart": min(apart)}
    engine.shutdown()
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
