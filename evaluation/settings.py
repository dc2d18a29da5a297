"""The flags of `evaluation.run`, YAML under them, and what is refused before anything starts."""

import argparse
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evaluation.command_line import OneLineParser

PAPER_BENCHMARKS = ("aime24", "aime25", "amc23")


@dataclass(frozen=True)
class Settings:
    """One invocation. Field names are the flags' names with underscores."""

    model: str | None
    checkpoints: Path | None
    server: str | None
    output: Path
    benchmarks: tuple[str, ...]
    n: int
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    seed: int
    limit: int | None
    data_dir: Path | None
    benchmark_file: Path | None
    train_data: Path | None
    reward: Path | None
    prompt: str
    chat_template: bool | None
    system: str | None
    label: str | None
    start: str | None
    watch: bool
    watch_seconds: float
    dtype: str
    max_model_len: int | None
    dp: int
    tp: int
    ray_address: str | None
    gpu_memory_utilization: float
    max_num_seqs: int
    enforce_eager: bool | None
    trust_remote_code: bool
    concurrency: int
    request_timeout: float
    dry_run: bool


def parse(argv: list[str]) -> Settings:
    """Flags over the YAML file named by --config. Bad input ends the process with status 2 and one line."""
    parser = build_parser()
    config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config.add_argument("--config", type=Path)
    path = config.parse_known_args(argv)[0].config
    # YAML becomes flags before the user's own, so that both pass through the same checks and the later one wins.
    args = vars(parser.parse_args([*(_yaml_flags(parser, path) if path else []), *argv]))
    args.pop("config")
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
        flags += _flag(flag, value, isinstance(known[flag], argparse.BooleanOptionalAction))
    return flags


def _flag(flag: str, value: Any, is_switch: bool) -> list[str]:
    if value is None:
        return []
    if is_switch or isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    return [flag, *map(str, value)] if isinstance(value, list) else [f"{flag}={value}"]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        prog="evaluation.run",
        allow_abbrev=False,
        description="Sample, grade and report: checkpoints on benchmarks, with intervals and provenance. "
        "Killed at any moment, the same command resumes.",
    )
    _add_subject(parser.add_argument_group("what is evaluated"))
    _add_problems(parser.add_argument_group("benchmarks and prompts"))
    _add_sampling(parser.add_argument_group("sampling"))
    _add_machine(parser.add_argument_group("engine and machine"))
    return parser


def _add_subject(what: argparse._ArgumentGroup) -> None:
    what.add_argument("--model", help="Hugging Face folder or hub id; with --server the served name")
    what.add_argument("--checkpoints", type=Path, metavar="RUN_DIR", help="every Hugging Face checkpoint below it")
    what.add_argument("--server", metavar="URL", help="an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1")
    what.add_argument("--start", metavar="MODEL", help="with --checkpoints: the model the run began from, as step 0")
    what.add_argument("--watch", action=argparse.BooleanOptionalAction, default=False, help="wait for new checkpoints")
    what.add_argument("--watch-seconds", type=_positive_float, default=30.0, help="between two looks (%(default)s)")
    what.add_argument("--output", type=Path, required=True, metavar="DIR", help="created; reused to go on")
    what.add_argument("--label", help="name in tables (the folder's)")
    what.add_argument("--config", type=Path, metavar="YAML", help="flags as a mapping; the command line wins")
    what.add_argument("--dry-run", action=argparse.BooleanOptionalAction, default=False, help="count, render, stop")


def _add_problems(data: argparse._ArgumentGroup) -> None:
    data.add_argument("--benchmarks", nargs="+", default=list(PAPER_BENCHMARKS), help="names or .jsonl files")
    data.add_argument("--benchmark-file", type=Path, metavar="YAML", help="more benchmarks, a row each")
    data.add_argument("--data-dir", type=Path, metavar="DIR", help="NAME.jsonl files instead of the hub")
    data.add_argument("--limit", type=_positive, help="only the first so many problems of each benchmark")
    data.add_argument("--train-data", type=Path, metavar="JSONL", help="report the problems that training has seen")
    data.add_argument("--reward", type=Path, metavar="FILE.py", help="your reward_func decides what is right")
    data.add_argument("--prompt", default="dapo", help="dapo, boxed, raw, or a text file with one {problem}")
    data.add_argument(
        "--chat-template", action=argparse.BooleanOptionalAction, default=None, help="default: on if the model has one"
    )
    data.add_argument("--system", help="system message; needs the chat template")


def _add_sampling(sampling: argparse._ArgumentGroup) -> None:
    sampling.add_argument("--n", type=_positive, default=32, help="samples a problem (%(default)s)")
    sampling.add_argument("--temperature", type=_non_negative, default=1.0, help="%(default)s, the paper's")
    sampling.add_argument("--top-p", type=_fraction, default=1.0, help="%(default)s")
    sampling.add_argument("--top-k", type=_top_k, default=-1, help="%(default)s: all tokens")
    sampling.add_argument("--max-tokens", type=_positive, default=4096, help="of a response (%(default)s)")
    sampling.add_argument(
        "--seed", type=int, default=0, help="each sample's own seed is derived from it (%(default)s)"
    )


def _add_machine(engine: argparse._ArgumentGroup) -> None:
    engine.add_argument("--dp", type=_positive, default=1, help="engines side by side (%(default)s)")
    engine.add_argument("--tp", type=_positive, default=1, help="GPUs of one engine (%(default)s)")
    engine.add_argument("--ray-address", help="an existing Ray cluster, for engines on several nodes")
    engine.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"))
    engine.add_argument("--max-model-len", type=_positive, help="prompt and response (the model's own)")
    engine.add_argument("--gpu-memory-utilization", type=_fraction, default=0.9, help="%(default)s")
    engine.add_argument("--max-num-seqs", type=_positive, default=256, help="sequences in one step (%(default)s)")
    engine.add_argument(
        "--enforce-eager", action=argparse.BooleanOptionalAction, default=None, help="default: on a CPU only"
    )
    engine.add_argument("--trust-remote-code", action=argparse.BooleanOptionalAction, default=False)
    engine.add_argument("--concurrency", type=_positive, default=64, help="requests at a server (%(default)s)")
    engine.add_argument("--request-timeout", type=_positive_float, default=600.0, help="seconds, server (%(default)s)")


def _check(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Combinations that cannot mean anything."""
    chosen = [flag for flag in ("model", "checkpoints") if getattr(settings, flag)]
    if settings.server is None and len(chosen) != 1:
        parser.error("give --model PATH_OR_NAME or --checkpoints RUN_DIR" + (", not both" if chosen else ""))
    if settings.server is not None:
        if settings.checkpoints:
            parser.error("--server samples one served model; --checkpoints needs engines of its own")
        if not settings.server.startswith(("http://", "https://")):
            parser.error(f"--server {settings.server}: must begin with http:// or https://, e.g. http://host:8000/v1")
        if settings.dp > 1 or settings.tp > 1 or settings.ray_address:
            parser.error("--dp, --tp and --ray-address lay out engines of our own; a --server has its own layout")
    for flag in ("start", "watch"):
        if getattr(settings, flag) and not settings.checkpoints:
            parser.error(f"--{flag} goes with --checkpoints RUN_DIR")
    if settings.temperature == 0 and settings.n > 1:
        parser.error(f"--temperature 0 gives the same sample {settings.n} times: add --n 1")
    if settings.output.exists() and not settings.output.is_dir():
        parser.error(f"--output {settings.output} is a file: give a folder")
    if settings.checkpoints and not settings.checkpoints.is_dir() and not settings.watch:
        parser.error(f"--checkpoints {settings.checkpoints} is not a folder")
    for flag in ("data_dir", "benchmark_file", "train_data", "reward"):
        path = getattr(settings, flag)
        if path and not path.exists():
            parser.error(f"--{flag.replace('_', '-')} {path} does not exist")
    if settings.system is not None and settings.chat_template is False:
        parser.error("--system needs the chat template: leave --no-chat-template out")


def _number(text: str, kind: type, low: float, rule: str, high: float = float("inf"), open_low: bool = False) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    if not (low < value <= high if open_low else low <= value <= high) or value == float("inf"):
        raise argparse.ArgumentTypeError(f"must be {rule}, not {text!r}")
    return value


def _positive(text: str) -> int:
    return _number(text, int, 1, "a whole number from 1")


def _positive_float(text: str) -> float:
    return _number(text, float, 0, "a number above 0", open_low=True)


def _non_negative(text: str) -> float:
    return _number(text, float, 0, "0 or more")


def _fraction(text: str) -> float:
    return _number(text, float, 0, "above 0 and at most 1", 1, open_low=True)


def _top_k(text: str) -> int:
    value = _number(text, int, -1, "-1 (all tokens) or a whole number from 1")
    if value == 0:
        raise argparse.ArgumentTypeError("must be -1 (all tokens) or a whole number from 1, not '0'")
    return value
