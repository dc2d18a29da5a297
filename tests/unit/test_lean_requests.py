"""An engine asked for no more than is read: what the executor makes of it is what it makes of the whole answer."""

import asyncio
from types import SimpleNamespace

import pytest
import torch

from tests.upstream import make_importable

make_importable()

from openrlhf.utils.agent import SingleTurnAgentExecutor
from vllm import SamplingParams
from vllm.logprobs import FlatLogprobs, Logprob
from vllm.sampling_params import RequestOutputKind

from rpg_openrlhf.sampling.lean_requests import OncePerPrompt, lean, readable


@pytest.mark.parametrize(("asked", "expected"), [(None, None), (1, 0)])
def test_lean_asks_for_the_end_alone(asked, expected):
    given = SamplingParams(logprobs=asked, max_tokens=9, temperature=0.5, seed=3)
    params = lean(given)
    assert (params.output_kind, params.detokenize) == (RequestOutputKind.FINAL_ONLY, False)
    assert (params.logprobs, params.flat_logprobs) == (expected, asked is not None)
    assert (params.max_tokens, params.temperature, params.seed) == (9, 0.5, 3)
    assert (given.output_kind, given.detokenize, given.logprobs) == (RequestOutputKind.CUMULATIVE, True, asked)


def answer(logprobs) -> SimpleNamespace:
    return SimpleNamespace(outputs=[SimpleNamespace(token_ids=[5, 6], finish_reason="stop", logprobs=logprobs)])


def executed(output, params) -> dict:
    async def generate(*args, **kwargs):
        return output

    execution = SingleTurnAgentExecutor().execute(
        prompt="1+",
        label="2",
        sampling_params=params,
        max_length=16,
        hf_tokenizer=lambda **_: {"input_ids": torch.tensor([[1, 2]])},
        llm_engine=SimpleNamespace(generate=generate),
    )
    return asyncio.run(execution)


def test_the_executor_reads_the_same():
    flat = FlatLogprobs()
    flat.append_fast([5], [-0.5], iter([1]), [None])
    flat.append_fast([6], [-0.25], iter([1]), [None])
    params = SamplingParams(logprobs=1, max_tokens=4)
    whole = executed(answer([{5: Logprob(-0.5), 9: Logprob(-2)}, {6: Logprob(-0.25)}]), params)
    assert executed(readable(answer(flat)), params) == whole
    assert whole["rollout_log_probs"] == [0.0, 0.0, -0.5, -0.25]
    none = SamplingParams(logprobs=None, max_tokens=4)
    assert executed(readable(answer(None)), none) == executed(answer(None), none)


def test_more_than_one_log_prob_a_token_is_no_lean_answer():
    flat = FlatLogprobs()
    flat.append_fast([5, 9, 8], [-0.5, -2.0, -3.0], iter([1, 2, 3]), [None] * 3)
    with pytest.raises(AssertionError, match="one log-prob per token"):
        readable(answer(flat))


class Tokenizer:
    pad_token_id = 7

    def __init__(self):
        self.asked = []

    def __call__(self, text=None, **kwargs):
        self.asked.append(text)
        return {"input_ids": torch.tensor([[len(text)]])}

    def decode(self, ids):
        return f"decoded {ids}"


def test_a_prompt_is_tokenized_once():
    tokenizer = OncePerPrompt(inner := Tokenizer())
    for text in ("ab", "ab", "abc", "ab"):
        found = tokenizer(text=text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        assert found.tolist() == [[len(text)]]
    assert inner.asked == ["ab", "abc"]
    tokenizer("ab")
    tokenizer(text="ab", images=["picture"])
    assert inner.asked == ["ab", "abc", "ab", "ab"], "what may not be kept is asked anew"
    assert tokenizer.pad_token_id == 7
    assert tokenizer.decode([1]) == "decoded [1]"
