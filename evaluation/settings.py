"""Flags of `evaluation.run`, the YAML file below them, and checks before anything starts."""

# ruff: noqa: RUF009 (`_flag` calls `dataclasses.field`)

import argparse
import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from evaluation.command_line import OneLineParser, folder

PAPER_BENCHMARKS = ("aime24", "aime25", "amc23")
GROUPS = {  # headings of --help, by the first flag below each
    "model": "what is evaluated",
    "benchmarks": "benchmarks and prompts",
    "n": "sampling",
    "dp": "engine and machine",
}


def _number(kind: type, rule: str, holds: Callable[[Any], bool], text: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    if not holds(value) or value == float("inf"):
        raise argparse.ArgumentTypeError(f"must be {rule}, not {text!r}")
    return value


# Types of flags; nan fails every comparison.
_positive = partial(_number, int, "a whole number from 1", lambda value: value >= 1)
_positive_float = partial(_number, float, "a number above 0", lambda value: value > 0)
_non_negative = partial(_number, float, "0 or more", lambda value: value >= 0)
_fraction = partial(_number, float, "above 0 and at most 1", lambda value: 0 < value <= 1)
_top_k = partial(_number, int, "-1 (all tokens) or a whole number from 1", lambda value: value == -1 or value >= 1)


def _flag(help: str | None = None, default: Any = None, **options: Any) -> Any:
    """A field and its flag: `options` are those of argparse."""
    return field(default=default, metadata={"help": help, "default": default, **options})


def _switch(help: str | None = None, default: bool | None = False) -> Any:
    return _flag(help, default, action=argparse.BooleanOptionalAction)


@dataclass(frozen=True)
class Settings:
    """One invocation. Field names are the flags' names with underscores."""

    model: str | None = _flag("Hugging Face folder or hub id; with --server the served name")
    checkpoints: Path | None = _flag("every Hugging Face checkpoint below it", type=Path, metavar="RUN_DIR")
    server: str | None = _flag("an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1", metavar="URL")
    start: str | None = _flag("with --checkpoints: the model from which the run began, as step 0", metavar="MODEL")
    watch: bool = _switch("wait for new checkpoints")
    watch_seconds: float = _flag("seconds between checks (%(default)s)", 30.0, type=_positive_float)
    output: Path = _flag("output folder; reused to resume", type=folder, required=True, metavar="DIR")
    label: str | None = _flag("name in tables (default: the folder's)")
    config: Path | None = _flag("flags as a mapping; the command line wins", type=Path, metavar="YAML")
    dry_run: bool = _switch("print sample counts and a prompt of each benchmark, then stop")

    benchmarks: tuple[str, ...] = _flag("names or .jsonl files", PAPER_BENCHMARKS, nargs="+")
    benchmark_file: Path | None = _flag("more benchmarks, one row each", type=Path, metavar="YAML")
    data_dir: Path | None = _flag("NAME.jsonl files instead of the hub", type=Path, metavar="DIR")
    limit: int | None = _flag("use only the first problems of each benchmark", type=_positive)
    train_data: Path | None = _flag("training file; report the benchmark problems in it", type=Path, metavar="JSONL")
    reward: Path | None = _flag("its reward_func decides what is right", type=Path, metavar="FILE.py")
    prompt: str = _flag("dapo, boxed, raw, or a text file with one {problem}", "dapo")
    chat_template: bool | None = _switch("default: on if the model has one", None)
    system: str | None = _flag("system message; needs the chat template")

    n: int = _flag("samples a problem (%(default)s)", 32, type=_positive)
    temperature: float = _flag("%(default)s, the paper's", 1.0, type=_non_negative)
    top_p: float = _flag("%(default)s", 1.0, type=_fraction)
    top_k: int = _flag("%(default)s: all tokens", -1, type=_top_k)
    max_tokens: int = _flag("tokens of a response (%(default)s)", 4096, type=_positive)
    seed: int = _flag("each sample's own seed is derived from it (%(default)s)", 0, type=int)

    dp: int = _flag("number of engines (%(default)s)", 1, type=_positive)
    tp: int = _flag("GPUs of one engine (%(default)s)", 1, type=_positive)
    ray_address: str | None = _flag("an existing Ray cluster, for engines on several nodes")
    dtype: str = _flag(default="auto", choices=("auto", "bfloat16", "float16", "float32"))
    max_model_len: int | None = _flag("tokens of prompt and response (default: the model's limit)", type=_positive)
    gpu_memory_utilization: float = _flag("%(default)s", 0.9, type=_fraction)
    max_num_seqs: int = _flag("sequences in one step (%(default)s)", 256, type=_positive)
    enforce_eager: bool | None = _switch("default: on a CPU only", None)
    trust_remote_code: bool = _switch()
    concurrency: int = _flag("concurrent requests to a server (%(default)s)", 64, type=_positive)
    request_timeout: float = _flag("seconds for one request to a server (%(default)s)", 600.0, type=_positive_float)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    group = parser = OneLineParser(
        prog="evaluation.run",
        allow_abbrev=False,
        description="Sample, grade and report: checkpoints on benchmarks, with intervals and provenance. "
        "Killed at any moment, the same command resumes.",
    )
    for each in fields(Settings):
        if each.name in GROUPS:
            group = parser.add_argument_group(GROUPS[each.name])
        group.add_argument("--" + each.name.replace("_", "-"), **each.metadata)
    return parser


def parse(argv: list[str]) -> Settings:
    """Flags over the YAML file named by --config. Bad input ends the process with status 2 and one line."""
    parser = build_parser()
    config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config.add_argument("--config", type=Path)
    path = config.parse_known_args(argv)[0].config
    # YAML becomes flags before the user's own, so that both pass through the same checks and the later one wins.
    args = vars(parser.parse_args([*(_yaml_flags(parser, path) if path else []), *argv]))
    settings = Settings(**args | {"benchmarks": tuple(dict.fromkeys(args["benchmarks"]))})
    _check(parser, settings)
    return settings


def _yaml_flags(parser: argparse.ArgumentParser, path: Path) -> list[str]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.error(f"--config {path}: {' '.join(str(error).split())}")
    if not isinstance(content, dict):
        parser.error(f"--config {path}: must be a mapping of flags to values")
    known = {flag: action for action in parser._actions for flag in action.option_strings}
    flags: list[str] = []
    for key, value in content.items():
        flag = "--" + str(key).replace("_", "-")
        if flag not in known or flag == "--config":
            near = difflib.get_close_matches(flag, known, 1)
            parser.error(f"--config {path}: unknown key {key!r}{f', did you mean {near[0][2:]!r}?' if near else ''}")
        flags += _as_flags(flag, value, isinstance(known[flag], argparse.BooleanOptionalAction))
    return flags


def _as_flags(flag: str, value: Any, is_switch: bool) -> list[str]:
    if value is None:
        return []
    if is_switch or isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    return [flag, *map(str, value)] if isinstance(value, list) else [f"{flag}={value}"]


def _check(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Refuse contradictory flags and missing paths."""
    chosen = [flag for flag in ("model", "checkpoints") if getattr(settings, flag)]
    if settings.server is None and len(chosen) != 1:
        parser.error("give --model PATH_OR_NAME or --checkpoints RUN_DIR" + (", not both" if chosen else ""))
    if settings.server is not None:
        if settings.checkpoints:
            parser.error("--server samples one served model, not --checkpoints: give --model, or leave --server out")
        if not settings.server.startswith(("http://", "https://")):
            parser.error(f"--server {settings.server}: must begin with http:// or https://, e.g. http://host:8000/v1")
        if settings.dp > 1 or settings.tp > 1 or settings.ray_address:
            parser.error("--dp, --tp and --ray-address are for local engines, not for a --server: leave them out")
    for flag in ("start", "watch"):
        if getattr(settings, flag) and not settings.checkpoints:
            parser.error(f"--{flag} goes with --checkpoints RUN_DIR")
    if settings.temperature == 0 and settings.n > 1:
        parser.error(f"--temperature 0 gives the same sample {settings.n} times: add --n 1")
    if settings.checkpoints and not settings.checkpoints.is_dir() and not settings.watch:
        parser.error(f"--checkpoints {settings.checkpoints} is not a folder")
    for flag in ("data_dir", "benchmark_file", "train_data", "reward"):
        path = getattr(settings, flag)
        if path and not path.exists():
            parser.error(f"--{flag.replace('_', '-')} {path} does not exist")
    if settings.system is not None and settings.chat_template is False:
        parser.error("--system needs the chat template: leave --no-chat-template out")
