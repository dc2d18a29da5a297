"""Every layer under configs/ parses, passes the checks in the combinations it is made for, and means what it says."""

from pathlib import Path

import pytest

from rpg_openrlhf import config
from rpg_openrlhf.cli import checks, flags, settle, train_rpg

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ALGORITHMS = sorted((CONFIGS / "algorithm").glob("*.yaml"))
BASE, QUICKSTART = CONFIGS / "base.yaml", CONFIGS / "debug" / "quickstart_cpu.yaml"


def args_of(*layers: Path, platform: str = "cpu"):
    parsed = flags.parse(["--config", ",".join(map(str, layers)), "--actor.model_name_or_path", "model"])
    settle.fill_defaults(parsed)
    checks.check_flags(parsed, platform)
    return train_rpg.validate(parsed, platform)[0]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda p: p.stem)
@pytest.mark.parametrize("base", [BASE, QUICKSTART], ids=lambda p: p.stem)
def test_every_combination_passes_the_checks(base, algorithm):
    args = args_of(base, algorithm)
    assert args.algo.objective == ("rpg" if algorithm.stem.startswith("rpg") else "openrlhf")
    samples = args.rollout.batch_size * args.rollout.n_samples_per_prompt
    assert samples // args.train.batch_size == (16 if base == BASE else samples // args.train.batch_size) > 1


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda p: p.stem)
@pytest.mark.parametrize("base", [BASE, QUICKSTART], ids=lambda p: p.stem)
def test_the_optimizer_goes_over_any_algorithm(base, algorithm):
    args = args_of(base, algorithm, CONFIGS / "optimizer" / "schedulefree.yaml")
    assert (args.actor.optim, args.actor.lr_scheduler) == ("schedulefree", "constant")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_layer_parses_alone(path):
    flags.parse(["--config", str(path)])


def test_quickstart_and_algorithms_may_come_in_either_order():
    mine = set(config.read_layers([str(QUICKSTART)]))
    for algorithm in ALGORITHMS:
        theirs = config.read_layers([str(algorithm)])
        assert not mine & set(theirs), algorithm.stem


@pytest.mark.parametrize(
    ("name", "divergence", "estimator"),
    [
        ("rpg_urkl", "urkl", "differentiable"),
        ("rpg_ufkl", "ufkl", "differentiable"),
        ("rpg_reinforce_urkl", "urkl", "reinforce"),
        ("rpg_reinforce_ufkl", "ufkl", "reinforce"),
    ],
)
def test_rpg_layers(name, divergence, estimator):
    args = args_of(BASE, CONFIGS / "algorithm" / f"{name}.yaml")
    assert (args.rpg.divergence, args.rpg.gradient_estimator, args.rpg.beta) == (divergence, estimator, 1e-4)
    assert (args.algo.advantage.estimator, args.actor.eps_clip_low_high, args.actor.dual_clip) == (
        "dr_grpo",
        [0.2, 0.28],
        10,
    )
    assert args.algo.kl.init_coef == 0, "no reference model"
    assert args.algo.dynamic_filtering_enable
    assert args.reward.overlong_buffer_len == args.rollout.max_new_tokens / 4


@pytest.mark.parametrize(
    ("name", "estimator", "kl", "clip", "filtering"),
    [
        ("grpo", "group_norm", ("k3", 1e-3, True), [0.2, 0.2], False),
        ("dapo", "group_norm", ("k1", 0, False), [0.2, 0.28], True),
        ("reinforce++", "reinforce", ("k1", 1e-4, False), [0.2, 0.2], True),
        ("reinforce++_baseline", "reinforce_baseline", ("k2", 1e-5, True), [0.2, 0.2], True),
    ],
)
def test_baseline_layers(name, estimator, kl, clip, filtering):
    args = args_of(BASE, CONFIGS / "algorithm" / f"{name}.yaml")
    assert args.algo.advantage.estimator == estimator
    assert (args.algo.kl.estimator, args.algo.kl.init_coef, args.algo.kl.use_loss) == kl
    assert args.actor.eps_clip_low_high == clip
    assert args.algo.dynamic_filtering_enable == filtering
    assert (args.reward.overlong_buffer_len is None) == (name == "grpo")
