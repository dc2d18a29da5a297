"""Report of `--dry_run`: everything that can be checked without an engine or a GPU."""

from __future__ import annotations

import logging
import statistics
import warnings
from types import SimpleNamespace
from typing import Any

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.preflight.data import FIRST_ROWS, room_for_prompts
from rpg_openrlhf.preflight.eval_sets import EvalSets
from rpg_openrlhf.preflight.files import NO_TEMPLATE
from rpg_openrlhf.problems.hub import hub_is_reachable
from rpg_openrlhf.problems.prompt_sets import PromptSet
from rpg_openrlhf.settings import memory


def report(args: SimpleNamespace, sources: list[PromptSet], sets: EvalSets | None) -> tuple[str, int]:
    """Report printed below the banner, and the exit status: 1 if the run is not expected to fit in memory.

    A Refusal if the model, tokenizer and prompts do not fit together.
    """
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        config, tokenizer = _load(args)
        first = [PromptSet(source.name, source.rows[:FIRST_ROWS]) for source in sources]
        lines = _prompt_lines(args, _prompts(args, "data.prompt_dataset", first, tokenizer), tokenizer)
        if sets:
            texts = _prompts(args, "eval.dataset", [PromptSet(args.eval.dataset, sets.rows)], tokenizer)
            _, most, room = _lengths(args, texts, tokenizer)
            lines.append(f"  all {len(texts)} prompts of the evaluation: {most} tokens at most, {room}")
        shapes = memory.count_shapes(config, args.ds.lora.rank, args.trust_remote_code)
    estimate = memory.estimate(args, shapes)
    lines += _memory_lines(estimate, shapes)
    if estimate.needed <= estimate.available:
        return "\n".join([*lines, "dry run: all checks passed, nothing was started"]), 0
    return "\n".join([*lines, "dry run: the run is not expected to fit in memory; nothing was started"]), 1


def _load(args: SimpleNamespace) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer

    name = args.actor.model_name_or_path
    how = {"trust_remote_code": args.trust_remote_code, "local_files_only": not hub_is_reachable()}
    try:
        config = AutoConfig.from_pretrained(name, **how)
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=not args.data.disable_fast_tokenizer, **how)
    except Exception as error:  # with a broken file, transformers' parsers may raise anything
        why = " ".join(str(error).split())[:300]
        raise Refusal(f"--actor.model_name_or_path {name}: cannot be loaded: {why}") from None
    if args.data.apply_chat_template and not tokenizer.chat_template:
        raise Refusal(NO_TEMPLATE)
    vocabulary = config.get_text_config().vocab_size
    if len(tokenizer) > vocabulary:
        raise Refusal(
            f"--actor.model_name_or_path {name}: its tokenizer has {len(tokenizer)} tokens, its model only "
            f"{vocabulary}; save the model with its own tokenizer"
        )
    return config, tokenizer


def _prompts(args: SimpleNamespace, flag: str, sources: list[PromptSet], tokenizer: Any) -> list[str]:
    """Render prompts with upstream's own template code."""
    from openrlhf.datasets.prompts_dataset import preprocess_data

    template = tokenizer.apply_chat_template if args.data.apply_chat_template else None
    prompts = []
    for source in sources:
        for row in source.rows:
            try:
                prompt, _ = preprocess_data(
                    row, args.data.input_template, args.data.input_key, args.data.label_key, template
                )
            except Exception as error:  # a chat template is code and may raise anything
                raise Refusal(f"--{flag} {source.name}: row {len(prompts) + 1} cannot be rendered: {error}") from None
            prompts.append(prompt)
    return prompts


def _prompt_lines(args: SimpleNamespace, prompts: list[str], tokenizer: Any) -> list[str]:
    if not prompts:
        return ["  prompts: not checked, as OpenRLHF reads this data set itself (ModelScope's hub, or images)"]
    median, most, room = _lengths(args, prompts, tokenizer)
    shown = [f"    | {line}" for line in prompts[0].splitlines() or [""]]
    return [
        f"  first {len(prompts)} prompts: {median:g} tokens in the median, {most} at most, {room}",
        "  the first one, as the model reads it:",
        *shown,
    ]


def _lengths(args: SimpleNamespace, prompts: list[str], tokenizer: Any) -> tuple[float, int, str]:
    """Median and maximum length of the prompts in tokens, and the room for them as text."""
    lengths = [len(tokenizer(text=prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts]
    room = room_for_prompts(args.data.max_len, args.rollout.max_new_tokens)
    long = sum(length > room for length in lengths)
    cut = f"; {long} are longer and would lose their beginning" if long else ""
    return statistics.median(lengths), max(lengths), f"room for {room}{cut}"


def _memory_lines(estimate: memory.Estimate, shapes: memory.Shapes) -> list[str]:
    width = max(len(name) for name, _ in estimate.lines)
    lines = [f"  memory per rank, estimated ({shapes.parameters / 1e6:,.1f}M parameters):"]
    lines += [f"    {name:<{width}}  {_gib(gib)}" for name, gib in estimate.lines]
    verdict = "fits" if estimate.needed <= estimate.available else "DOES NOT FIT"
    return [
        *lines,
        f"  {verdict}: {estimate.needed:.1f} of {estimate.available:.1f} GiB at the peak ({estimate.remark})",
    ]


def _gib(gib: float) -> str:
    return f"{gib:8.2f} GiB" if gib >= 0.1 or gib == 0 else f"{gib * 1024:8.2f} MiB"
