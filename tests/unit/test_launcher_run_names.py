"""What a run is called where the user does not say."""

import re
from pathlib import Path

import pytest
import yaml

from rpg_openrlhf.commands import train_rpg
from rpg_openrlhf.settings import run_names
from tests.unit.launcher_case import argv, good_flags, settings_of

CONFIGS = Path(__file__).parents[2] / "configs"


def layers(*names: str) -> list[str]:
    return [word for name in names for word in ("--config", str(CONFIGS / f"{name}.yaml"))]


def named(*words: str) -> tuple[str, str]:
    """Run name without its time, and group."""
    wandb = settings_of("--train.seed", "3", *words).logger.wandb
    name, _, time = wandb.run_name.rpartition("_")
    assert re.fullmatch(r"\d{4}T\d\d:\d\d", time)
    return name, wandb.group


@pytest.mark.parametrize(
    ("words", "name", "group"),
    [
        ([], "rpg_reinforce_urkl_seed3", "rpg_reinforce_urkl"),
        (["--rpg.gradient_estimator", "differentiable", "--rpg.divergence", "fkl"], "rpg_fkl_seed3", "rpg_fkl"),
        (["--algo.objective", "openrlhf", "--algo.advantage.estimator", "rloo"], "rloo_seed3", "rloo"),
        (
            layers("base", "model/qwen3_4b", "algorithm/grpo", "hardware/8xh100"),
            "grpo_seed3",
            "qwen3_4b+grpo",
        ),
        (layers("algorithm/rpg_reinforce_as_released"), "rpg_reinforce_as_released_seed3",
         "rpg_reinforce_as_released"),
        # A flag over the layer has made it another method; the group is of the layers.
        ([*layers("algorithm/rpg_urkl"), "--rpg.divergence", "rkl"], "rpg_rkl_seed3", "rpg_urkl"),
        (["--logger.wandb.group", "mine"], "rpg_reinforce_urkl_seed3", "mine"),
    ],
)  # fmt: skip
def test_names(words, name, group):
    assert named(*words) == (name, group)


def test_a_given_name_is_kept():
    assert settings_of("--logger.wandb.run_name", "mine").logger.wandb.run_name == "mine"


@pytest.mark.parametrize(
    ("key", "environ", "says"),
    [
        (None, {"WANDB_MODE": "nonsense"}, None),
        ("word", {}, "has 4 characters, and W&B's keys have 40 or more"),
        ("word", {"WANDB_MODE": "online"}, "has 4 characters"),
        ("word", {"WANDB_MODE": "offline"}, None),
        ("word", {"WANDB_MODE": "disabled"}, None),
        ("word", {"WANDB_API_KEY": "x" * 40}, None),
        ("x" * 40, {}, None),
        ("x" * 40, {"WANDB_MODE": "off"}, "WANDB_MODE=off must be one of online, offline, disabled"),
    ],
)
def test_what_wandb_would_refuse_after_the_start(tmp_path, key, environ, says):
    """Also no netrc: NETRC names a file that is not there."""
    environ = {"NETRC": str(tmp_path / "netrc"), **environ}
    refusal = run_names.refused_by_wandb(key, environ)
    if says is None:
        assert refusal is None
        return
    assert says in refusal
    assert key not in refusal
    (tmp_path / "netrc").touch()
    assert "keys have" not in says or run_names.refused_by_wandb(key, environ) is None


def test_what_wandb_is_given(tmp_path, monkeypatch):
    """A tag a layer; the configuration is that of config.yaml, and the key is in neither."""
    monkeypatch.chdir(CONFIGS.parent)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "over.yaml").write_text("rpg: {beta: 0.25}\n")
    launched = []
    words = [*layers("algorithm/rpg_reinforce_urkl"), "--config", str(tmp_path / "over.yaml")]
    words += [*argv(good_flags(tmp_path)), "--logger.wandb.key", "nobody-reads-this"]
    assert train_rpg.main(words, launch=lambda args: launched.append(args) or 0) == 0
    logger = launched[0].logger
    assert logger.tags == ["algorithm/rpg_reinforce_urkl", "over"]
    text = (tmp_path / "out" / "logs" / "config.yaml").read_text()
    assert yaml.safe_load(text) == logger.config
    assert logger.config["rpg"]["beta"] == 0.25
    assert logger.config["logger"]["wandb"]["run_name"] == logger.wandb.run_name
    assert "nobody-reads-this" not in text
    assert "nobody-reads-this" not in str(logger.config)
