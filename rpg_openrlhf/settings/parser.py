"""Command line: one parser for upstream's flags and ours, over YAML layers. It records which flags the user gave."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import Any, NamedTuple

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.settings import own_flags, upstream
from rpg_openrlhf.settings.layers import merged, read_layer

LESS_LIKELY = {"muon", "critic", "ref", "reward", "eval"}  # sections that repeat the flags of others
LAUNCHER_ONLY = ("config", "print_config", "dry_run", "help")
REWARD_HELP = (  # upstream's text does not mention the file
    "a .py file that defines reward_func(queries, prompts, labels), or http:// addresses of reward servers, "
    "comma-separated; without a reward or an agent, this package's grader"
)
_UNSET = object()


class Layer(NamedTuple):
    path: str
    flags: dict[str, Any]


class Parsed(NamedTuple):
    values: dict[str, Any]  # every flag by its dotted name
    explicit: set[str]  # the flags given on the command line or in a layer
    print_config: bool
    dry_run: bool
    layers: tuple[Layer, ...] = ()  # files given with --config


def build_parser() -> argparse.ArgumentParser:
    """Upstream's parser with three more choices and one other help text, our flags and the launcher's own flags."""
    parser = upstream.build_parser()
    actions = by_flag(parser)
    # none: no baseline, implemented by our experience maker; fp32: for comparisons in CPU tests; schedulefree: our
    # policy actor passes it to DeepSpeed.
    added = (("algo.advantage.estimator", "none"), ("ds.param_dtype", "fp32"), ("actor.optim", "schedulefree"))
    for flag, choice in added:
        actions[flag].choices = [*(actions[flag].choices or ()), choice]
    actions["reward.remote_url"].help = REWARD_HELP
    group = parser.add_argument_group("RPG")
    for flag in own_flags.FLAGS:
        if flag.type is bool:
            group.add_argument(f"--{flag.name}", action="store_true", default=flag.default, help=flag.sentence)
            continue
        text = f"{flag.sentence} (default: {flag.default})"
        group.add_argument(f"--{flag.name}", type=flag.type, default=flag.default, choices=flag.choices, help=text)
    group = parser.add_argument_group("launcher")
    group.add_argument(
        "--config", action="append", default=None, metavar="FILE.yaml",
        help="YAML layer, repeatable or comma-separated; a later layer wins, the command line wins over all",
    )  # fmt: skip
    group.add_argument("--print_config", action="store_true", help="print the resolved flags as YAML and exit")
    group.add_argument(
        "--dry_run", action="store_true", help="check everything, count steps, estimate memory, and exit"
    )
    return parser


def by_flag(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Flag name without dashes -> its action."""
    return {s.removeprefix("--"): a for a in parser._actions for s in a.option_strings if s.startswith("--")}


def nearest(name: str, names: Any) -> str:
    """Hint at the end of a refusal: the known name that was probably meant."""
    words = _words(name)
    # Users often remember some words of a flag: beta, actor.lr, train_batch_size.
    likely = [known for known in names if words <= _words(known)]
    likely.sort(key=lambda known: (bool(_words(known) & LESS_LIKELY), len(known)))
    close = likely or difflib.get_close_matches(name, list(names), 1, 0.7)
    return f"did you mean {close[0]}?" if close else "see --help for all flags"


def _words(name: str) -> set[str]:
    return set(re.split(r"[._-]+", name.strip("-")))


def coerce(name: str, value: Any, action: argparse.Action) -> Any:
    """Convert a value from YAML to what argparse would make of it."""
    if action.nargs == 0:  # a switch: its constant if true, the opposite if false
        if not isinstance(value, bool):
            raise Refusal(f"{name}: {value!r} must be true or false")
        return action.const if value else not action.const
    if action.nargs is not None and value != action.default:
        words = value if isinstance(value, list) else [value]
        if isinstance(action.nargs, int) and len(words) != action.nargs:
            raise Refusal(f"{name}: {value!r} must be a list of {action.nargs} values")
        return [_scalar(name, word, action) for word in words]
    return value if action.nargs is not None else _scalar(name, value, action)


def _scalar(name: str, value: Any, action: argparse.Action) -> Any:
    kind = action.type or str
    if isinstance(value, bool | list | dict) or value is None:
        raise Refusal(f"{name}: {value!r} must be one {kind.__name__}")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        typed = kind(str(value))  # pyright: ignore[reportCallIssue]
    except ValueError:
        raise Refusal(f"{name}: invalid {kind.__name__} value: {value!r}") from None  # pyright: ignore
    if action.choices is not None and typed not in action.choices:
        raise Refusal(f"{name}: invalid choice: {value!r} (choose from {', '.join(map(repr, action.choices))})")
    return typed


def _take_switches(argv: list[str], actions: dict[str, argparse.Action]) -> tuple[list[str], dict[str, Any]]:
    """Take `--switch=false` and `--switch=true` out of the command line: argparse knows only `--switch`."""
    rest, values = [], {}
    for word in argv:
        name, equals, value = word.removeprefix("--").partition("=")
        action = actions.get(name)
        if not (word.startswith("--") and equals and action and action.nargs == 0):
            rest.append(word)
        elif value.lower() in ("true", "false"):
            values[action.dest] = coerce(name, value.lower() == "true", action)
        else:
            raise Refusal(f"{word}: is a switch; give --{name}, or --{name}=false")
    return rest, values


def _typed(layers: tuple[Layer, ...], actions: dict[str, argparse.Action]) -> dict[str, Any]:
    """Values of all layers, as argparse would have made them."""
    for path, flags in layers:
        for name in flags:
            if name not in actions or name in LAUNCHER_ONLY:
                raise Refusal(f"--config {path}: {_unknown_key(name, actions)}")
    typed = (
        {name: _typed_value(layer.path, name, value, actions) for name, value in layer.flags.items()}
        for layer in layers
    )
    return {actions[name].dest: value for name, value in merged(typed).items() if value is not None}


def _typed_value(path: str, name: str, value: Any, actions: dict[str, argparse.Action]) -> Any:
    return None if value is None else coerce(f"--config {path}: key {name}", value, actions[name])


def _unknown_key(name: str, actions: dict[str, argparse.Action]) -> str:
    section = next((known for known in actions if known.startswith(f"{name}.")), None)
    if section:
        leaf = section.removeprefix(f"{name}.")
        return f"key {name} is a section; write {name}: {{{leaf}: value}}"
    return f"unknown YAML key {name}: {nearest(name, actions)}"


def parse(argv: list[str]) -> Parsed:
    """Command line over YAML layers over defaults -> every flag's value, and which of them the user gave."""
    parser = build_parser()
    actions = by_flag(parser)
    argv, switched = _take_switches(argv, actions)
    dests = {a.dest for a in parser._actions if a.dest != "help"}
    unset = dict.fromkeys(dests - set(LAUNCHER_ONLY), _UNSET)  # argparse sets a default only if none is there
    namespace, extra = parser.parse_known_args(argv, argparse.Namespace(**unset))
    if extra:
        name = extra[0].partition("=")[0]
        if not name.startswith("--"):
            raise Refusal(f"unexpected argument {extra[0]!r}: it belongs to no flag")
        raise Refusal(f"unknown flag {name}: {nearest(name, ['--' + known for known in actions])}")
    typed = {dest: value for dest, value in vars(namespace).items() if value is not _UNSET} | switched
    paths = (path.strip() for paths in typed.get("config") or [] for path in paths.split(","))
    layers = tuple(Layer(path, read_layer(path)) for path in paths if path)
    layered = _typed(layers, actions)
    values = {dest: parser.get_default(dest) for dest in sorted(dests)} | layered | typed
    launcher = {dest: values.pop(dest) for dest in LAUNCHER_ONLY if dest in values}
    explicit = (set(layered) | set(typed)) - set(LAUNCHER_ONLY)
    return Parsed(values, explicit, bool(launcher["print_config"]), bool(launcher["dry_run"]), layers)
