"""Flags that this project adds to OpenRLHF's.

The YAML key, the dotted flag and the attribute path are the same words: `--rpg.beta` is `args.rpg.beta`,
is `rpg: {beta: ...}` in a layer (layers.py), and is `Config().rpg.beta` here.
Names of divergences and refresh rules are those of their tables.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.objectives.divergences import DIVERGENCES
from rpg_openrlhf.reference.schedule import RULES

# A new divergence or refresh rule is an entry of these tables; the flags take it from there.
DivergenceName = Literal[tuple(DIVERGENCES)]  # pyright: ignore[reportInvalidTypeForm]
RefreshName = Literal[tuple(RULES)]  # pyright: ignore[reportInvalidTypeForm]


def _check_choices(section: Any, prefix: str) -> None:
    for name, hint in get_type_hints(type(section)).items():
        value = getattr(section, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise Refusal(f"--{prefix}{name} must be one of {', '.join(get_args(hint))}; got {value!r}")


@dataclass(frozen=True)
class AlgoConfig:
    objective: Literal["rpg", "openrlhf"] = "rpg"
    """rpg: this package's losses; openrlhf: upstream's PolicyLoss untouched, for every baseline."""

    dynamic_filtering_max_draws: int = 20
    """A rollout that is not full after drawing so many times its prompts ends the run with an error; 0: no limit."""

    def __post_init__(self) -> None:
        _check_choices(self, "algo.")


@dataclass(frozen=True)
class ActorConfig:
    chunked_head: Literal["auto", "on", "off"] = "auto"
    """Log-probs and entropy without whole logits: where the model allows it (auto), or an error where not (on)."""

    gradient_checkpointing_layers: int | None = None
    """So many layers recompute their activations, the others keep them; all, if left out."""

    def __post_init__(self) -> None:
        _check_choices(self, "actor.")


@dataclass(frozen=True)
class RPGConfig:
    divergence: DivergenceName = "urkl"  # pyright: ignore[reportInvalidTypeForm]
    """Divergence: KL(ref || policy) (fkl), KL(policy || ref) (rkl), or an unnormalized form (ufkl, urkl)."""

    gradient_estimator: Literal["differentiable", "reinforce"] = "reinforce"
    """differentiable: autograd through the surrogate; reinforce: -SG(weight x regularized advantage) x log-prob."""

    beta: float = 1e-4
    """Strength of the KL term; 0 leaves it out."""

    importance_level: Literal["token", "sequence", "prefix"] = "token"
    """Importance weights per token (the paper's experiments), per reply, or, for the KL, of each token's prefix."""

    reward_weight: Literal["token", "sequence"] = "token"
    """With importance_level prefix, the weight of the reward: the token's (less noise) or the reply's (exact)."""

    clip_mode: Literal["gate", "truncate"] = "gate"
    """Outside the clip bounds: no gradient (gate), or the bound in the place of the weight (truncate; reinforce)."""

    old_policy: Literal["recompute", "rollout"] = "recompute"
    """Whose log-probs are the old policy's: the actor's forward pass (recompute) or vLLM's own (rollout)."""

    def __post_init__(self) -> None:
        _check_choices(self, "rpg.")


@dataclass(frozen=True)
class ReferenceConfig:
    refresh: RefreshName = "rollout"  # pyright: ignore[reportInvalidTypeForm]
    """When the KL's anchor moves: every rollout (no reference model), at intervals, by KL, at each step, or never."""

    interval: int | None = None
    """Optimizer steps between two refreshes; with kl as well, whichever comes first."""

    kl_target: float | None = None
    """A moving average of the mean token KL(policy || ref) above this moves the reference (kl)."""

    kl_decay: float | None = None
    """Decay of that average from rollout to rollout; 0 looks at the last one alone; unset: 0.9."""

    min_interval: int | None = None
    """Optimizer steps after a refresh, or the start, in which the KL moves nothing (kl)."""

    mix: float | None = None
    """ref <- mix x policy + (1 - mix) x ref, at a refresh (unset: 1, replace) or at every optimizer step (ema)."""

    reset_optimizer: bool = False
    """Clear the policy's optimizer moments at every refresh (interval, kl)."""

    model_name_or_path: str | None = None
    """The first reference; same architecture as the policy; unset: the start policy."""

    def __post_init__(self) -> None:
        _check_choices(self, "ref.")


@dataclass(frozen=True)
class TrainConfig:
    max_restarts: int = 3
    """Number of times a run whose processes died or hung is started again from its last checkpoint."""

    max_rollouts: int | None = None
    """The run ends after so many rollouts, or its episodes; dynamic filtering makes an episode's rollouts fewer."""


@dataclass(frozen=True)
class DeadlineConfig:
    start: float = 3600
    """Seconds from the launch to the first rollout, after which a run counts as hung; 0: no limit."""

    generate: float = 7200
    """The same for a rollout's samples."""

    experience: float = 7200
    """The same for their log-probs."""

    train: float = 7200
    """The same for the optimizer steps of a rollout."""

    sync: float = 1800
    """The same for sending the weights to the engines."""

    save: float = 3600
    """The same for a checkpoint, or the final model."""

    evaluate: float = 14400
    """The same for an evaluation."""


@dataclass(frozen=True)
class CkptConfig:
    merge_lora: bool = True
    """Save models with LoRA's adapters merged in, and the adapters in adapter/ below; =false: the adapters alone."""


@dataclass(frozen=True)
class LoggerConfig:
    run_dir: str | None = None
    """Folder of metrics.jsonl, the resolved config and the libraries' logs; unset: <ckpt.output_dir>/logs."""


@dataclass(frozen=True)
class Config:
    algo: AlgoConfig = field(default_factory=AlgoConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    rpg: RPGConfig = field(default_factory=RPGConfig)
    ref: ReferenceConfig = field(default_factory=ReferenceConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    deadline: DeadlineConfig = field(default_factory=DeadlineConfig)
    ckpt: CkptConfig = field(default_factory=CkptConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    resume: str = "auto"
    """auto: go on from the last whole checkpoint of --ckpt.path, if there is one; never: refuse one; or its folder."""

    platform: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of training and generation; auto: cuda where the launching machine has a CUDA device, else cpu."""

    trust_remote_code: bool = False
    """Let models, tokenizers and data sets run Python code of their own repository; without it they are refused."""

    def __post_init__(self) -> None:
        _check_choices(self, "")

    @classmethod
    def from_flags(cls, values: dict[str, Any]) -> Config:
        """Dotted flag values (a superset of ours is welcome) -> the checked config."""
        nested: dict[str, Any] = {}
        for flag in flags():
            *path, leaf = flag.name.split(".")
            node = nested
            for part in path:
                node = node.setdefault(part, {})
            node[leaf] = values[flag.name]
        hints = get_type_hints(cls)
        return cls(**{name: hints[name](**v) if isinstance(v, dict) else v for name, v in nested.items()})


class Flag(NamedTuple):
    name: str
    type: type
    default: Any
    choices: tuple[str, ...] | None
    sentence: str


def _sentences(section: type) -> dict[str, str]:
    """Field name -> the string under it, which Python itself does not keep."""
    body = ast.parse(inspect.getsource(section)).body[0].body  # pyright: ignore[reportAttributeAccessIssue]
    pairs = itertools.pairwise(body)
    return {
        a.target.id: b.value.value
        for a, b in pairs
        if isinstance(a, ast.AnnAssign) and isinstance(a.target, ast.Name)
        if isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant) and isinstance(b.value.value, str)
    }


def flags(section: type = Config, prefix: str = "") -> list[Flag]:
    """Every field of the config as a dotted flag, in the order written."""
    found, hints, sentences = [], get_type_hints(section), _sentences(section)
    for f in dataclasses.fields(section):
        hint = hints[f.name]
        if dataclasses.is_dataclass(hint):
            found += flags(hint, f"{prefix}{f.name}.")  # pyright: ignore[reportArgumentType]
            continue
        choices = get_args(hint) if get_origin(hint) is Literal else None
        # `int | None` is an int that may be left out.
        kind = next((kind for kind in (bool, float, int) if kind in (hint, *get_args(hint))), str)
        found.append(Flag(prefix + f.name, kind, f.default, choices, sentences[f.name]))
    return found
