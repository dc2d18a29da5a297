"""Sync of unchanged weights before the first rollout, which detects a transport that corrupts weights."""

from __future__ import annotations

from typing import Any

import ray
from openrlhf.trainer.ray.vllm_engine import batch_vllm_engine_call

TOKENS = 16  # of an answer


class WrongSync(RuntimeError):
    """A sync of unchanged weights changed an engine."""


def check(trainer: Any) -> None:
    """Compare every engine's greedy answer before and after a sync. Raise WrongSync if one differs.

    Engines sleep and wake as around any sync, so that memory peaks no higher than later. With a 4-bit base model the
    engines start with its 16-bit weights, so a sync that is not compared comes first.
    """
    if trainer.args.ds.load_in_4bit:
        trainer.broadcast_to_vllm()
    before = _answers(trainer)
    trainer.broadcast_to_vllm()
    after = _answers(trainer)
    wrong = [number for number, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    if wrong:
        how = (
            "CUDA IPC" if trainer.args.train.colocate_all else f"--vllm.sync_backend {trainer.args.vllm.sync_backend}"
        )
        raise WrongSync(
            f"a sync of unchanged weights changed the greedy answer of engine {wrong[0]} ({len(wrong)} of "
            f"{len(before)}): {how} corrupts weights; run rpg-check, or choose another transport"
        )


def _answers(trainer: Any) -> list[tuple[int, ...]]:
    from vllm import SamplingParams

    engines, sleeps = trainer.vllm_engines, trainer.args.vllm.enable_sleep
    if sleeps:
        batch_vllm_engine_call(engines, "wake_up")
    prompt = trainer.tokenizer.encode("1 + 1 =", add_special_tokens=False) or [trainer.tokenizer.eos_token_id]
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
    outputs = ray.get([engine.generate.remote(prompt, params) for engine in engines])
    if sleeps:
        batch_vllm_engine_call(engines, "sleep")
    return [tuple(output.outputs[0].token_ids) for output in outputs]
