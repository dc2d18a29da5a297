"""Command line over layers over defaults; unknown names; printing and reading back."""

import os
import signal
import subprocess
import sys
from datetime import datetime
from types import SimpleNamespace

import pytest
import yaml

from rpg_openrlhf.commands import train_rpg
from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.settings import parser as flags
from rpg_openrlhf.settings import run_names
from tests.unit.launcher_case import settings_of


def layer(tmp_path, text, name="a.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_command_line_wins_over_layers_and_later_layers_over_earlier(tmp_path):
    a = layer(tmp_path, "rpg: {beta: 1, divergence: fkl}\ntrain: {seed: 1}")
    b = layer(tmp_path, "rpg: {beta: 2}\nref.refresh: never", "b.yaml")
    parsed = flags.parse(["--config", f"{a},{b}", "--train.seed", "3"])
    assert (parsed.values["rpg.beta"], parsed.values["rpg.divergence"], parsed.values["train.seed"]) == (2, "fkl", 3)
    assert parsed.values["ref.refresh"] == "never"
    assert parsed.explicit == {"rpg.beta", "rpg.divergence", "train.seed", "ref.refresh"}
    assert flags.parse(["--config", b, "--config", a]).values["rpg.beta"] == 1


def test_a_flag_given_with_its_default_value_is_explicit():
    assert flags.parse(["--rpg.beta", "1e-4"]).explicit == {"rpg.beta"}
    assert flags.parse([]).explicit == set()


def test_null_restores_the_default(tmp_path):
    parsed = flags.parse(["--config", layer(tmp_path, "rpg: {beta: null}\nactor.dual_clip: null")])
    assert parsed.values["rpg.beta"] == 1e-4
    assert parsed.explicit == set()


def test_yaml_values_become_what_argparse_makes_of_them(tmp_path):
    text = """
    actor: {adam: {lr: 1e-6, betas: [0.9, 1]}, eps_clip_low_high: [0.2, 0.28], muon: {no_nesterov: true}}
    train: {colocate_all: true}
    algo: {advantage: {is_correction_level: off, is_correction_threshold: 2}}
    logger: {wandb: {project: 7}}
    ds: {lora: {target_modules: [q_proj, v_proj]}}
    """
    v = flags.parse(["--config", layer(tmp_path, text)]).values
    assert (v["actor.adam.lr"], v["actor.adam.betas"], v["actor.eps_clip_low_high"]) == (1e-6, [0.9, 1.0], [0.2, 0.28])
    assert (v["actor.muon.nesterov"], v["train.colocate_all"]) == (False, True)
    assert (v["algo.advantage.is_correction_level"], v["algo.advantage.is_correction_threshold"]) == ("off", [2.0])
    assert (v["logger.wandb.project"], v["ds.lora.target_modules"]) == ("7", ["q_proj", "v_proj"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rpg: {divergance: fkl}", "unknown YAML key rpg.divergance: did you mean rpg.divergence?"),
        ("beta: 1", "unknown YAML key beta: did you mean rpg.beta?"),
        ("dry_run: true", "unknown YAML key dry_run"),
        ("rpg: {divergence: kl}", "rpg.divergence: invalid choice: 'kl'"),
        ("rpg: {beta: x}", "rpg.beta: invalid float value: 'x'"),
        ("train: {seed: 1.5}", "train.seed: invalid int value: 1.5"),
        ("train: {colocate_all: 1}", "train.colocate_all: 1 must be true or false"),
        ("train: {seed: [1]}", r"train.seed: \[1\] must be one int"),
        ("actor: {eps_clip_low_high: 0.2}", "actor.eps_clip_low_high: 0.2 must be a list of 2"),
        ("rpg: 3", r"a.yaml: key rpg is a section; write rpg: \{.*: value\}"),
    ],
)
def test_bad_yaml_values(tmp_path, text, says):
    with pytest.raises(Refusal, match=says):
        flags.parse(["--config", layer(tmp_path, text)])


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--rpg.divergance", "fkl"], "unknown flag --rpg.divergance: did you mean --rpg.divergence?"),
        (["--n_samples_per_prompt=4"], "did you mean --.*n_samples_per_prompt?"),
        (["--qqqqqqqq"], "unknown flag --qqqqqqqq: see --help"),
        (["--actor.lr", "1"], "did you mean --actor.adam.lr?"),
        (["--train_batch_size", "1"], "did you mean --train.batch_size?"),
        (["--n_samples", "1"], "did you mean --rollout.n_samples_per_prompt?"),
        (["--pretrain", "x"], "unknown flag --pretrain: see --help"),
        (["--train.dynamic_batch_enable=yes"], "=yes: is a switch; give --train.dynamic_batch_enable, or"),
        (["--rpg.div", "fkl"], "unknown flag --rpg.div"),  # no abbreviations: a typo must not become a flag
        (["word"], "unexpected argument 'word'"),
        (["--rpg.beta"], "--rpg.beta: expected one argument"),
        (["--rpg.beta", "x"], "--rpg.beta: invalid float value: 'x'"),
        (["--rpg.divergence", "kl"], "--rpg.divergence: invalid choice: 'kl'"),
    ],
)
def test_bad_command_lines(argv, says):
    with pytest.raises(Refusal, match=says):
        flags.parse(argv)


def test_a_switch_of_a_layer_can_be_turned_off(tmp_path):
    path = layer(tmp_path, "train: {colocate_all: true}\nactor.muon.nesterov: false")
    assert flags.parse(["--config", path]).values["train.colocate_all"]
    parsed = flags.parse(["--config", path, "--train.colocate_all=false", "--actor.muon.nesterov=true"])
    assert (parsed.values["train.colocate_all"], parsed.values["actor.muon.nesterov"]) == (False, True)
    assert "train.colocate_all" in parsed.explicit


@pytest.mark.parametrize("objective", ["rpg", "openrlhf"])
def test_print_config_reads_back_to_the_same_run_and_keeps_the_secret(tmp_path, capsys, objective, monkeypatch):
    # A run's default name has the minute, which may end in between.
    monkeypatch.setattr(run_names, "datetime", SimpleNamespace(now=lambda: datetime(2026, 1, 1)))
    argv = [
        "--algo.objective",
        objective,
        "--actor.adam.lr",
        "3e-7",
        "--logger.wandb.key",
        "s3cret",
        "--train.colocate_all",
    ]
    assert train_rpg.main([*argv, "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert "s3cret" not in printed
    first, second = settings_of(*argv), settings_of("--config", layer(tmp_path, printed))
    differing = {k for k in first.flags if _listed(first.flags[k]) != _listed(second.flags[k])}
    assert differing == {"logger.wandb.key"}
    assert not any(name.startswith("algo.kl.") for name in second.explicit) or objective == "openrlhf"


def _listed(value):
    return list(value) if isinstance(value, tuple) else value


def test_estimator_default_depends_on_the_objective(capsys):
    for argv, estimator in (
        ([], "dr_grpo"),
        (["--algo.objective", "openrlhf"], "gae"),
        (["--algo.advantage.estimator", "rloo"], "rloo"),
    ):
        assert train_rpg.main([*argv, "--print_config"]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["algo"]["advantage"]["estimator"] == estimator


def test_help_as_a_process_shows_both_sets_of_flags():
    done = subprocess.run(
        [sys.executable, "-m", "rpg_openrlhf.commands.train_rpg", "--help"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    for flag in (
        "--rpg.divergence {fkl,ufkl,rkl,urkl}",
        "--actor.dual_clip",
        "--config",
        "--dry_run",
        "--ref.refresh",
    ):
        assert flag in done.stdout


def test_interrupt_ends_quietly_with_130():
    code = (
        "import os, signal, sys\n"
        "from rpg_openrlhf.commands import train_rpg\n"
        "train_rpg.parse = lambda argv: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(train_rpg.main([]))"
    )
    env = dict(os.environ)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, preexec_fn=_default_sigint
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def _default_sigint():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with SIGINT ignored
