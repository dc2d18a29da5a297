"""The reference's schedule on the command line: what cannot act is refused, what can is launched and read back."""

import json
import re

import pytest

from rpg_openrlhf.commands import train_rpg
from rpg_openrlhf.reference.schedule import RefreshSchedule
from rpg_openrlhf.settings import reference_checks, rules
from rpg_openrlhf.settings.parser import parse
from rpg_openrlhf.settings.run_settings import nested
from tests.unit.launcher_case import CONFIG, argv, good_flags, write_model

INTERVAL = {"ref.refresh": "interval", "ref.interval": "8"}
KL = {"ref.refresh": "kl", "ref.kl_target": "0.01"}
EMA = {"ref.refresh": "ema", "ref.mix": "0.1"}
NEVER = {"ref.refresh": "never"}
OURS = reference_checks.OURS


@pytest.fixture
def good(tmp_path):
    """3 rollouts of 4 optimizer steps."""
    return {**good_flags(tmp_path), "ref.offload": ""}


def outcome(capsys, values) -> str:
    """The refusal, or nothing where the run would be launched."""
    launched = []
    status = train_rpg.main(argv(values), launch=lambda args: launched.append(args) or 0)
    err = capsys.readouterr().err
    assert (status, len(launched)) == ((2, 0) if err else (0, 1)), err
    assert err.count("\n") <= 1
    return err


@pytest.mark.parametrize(
    "change",
    [
        {}, INTERVAL, KL, EMA, NEVER, {**KL, "ref.interval": "8"},
        {**KL, "ref.kl_decay": "0.5", "ref.min_interval": "5", "ref.interval": "8", "ref.mix": "0.5"},
        {**INTERVAL, "ref.mix": "1", "ref.reset_optimizer": ""}, {"ref.refresh": "interval", "ref.interval": "1"},
        {**INTERVAL, "rpg.old_policy": "rollout"}, {**NEVER, "train.batch_size": "256"},
        {**INTERVAL, "ref.interval": "2", "train.batch_size": "256"},
    ],
)  # fmt: skip
def test_accepted(good, capsys, change):
    assert outcome(capsys, {**good, **change}) == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        # a mode that has no use for it
        ({"ref.interval": "8"}, "--ref.interval 8: cannot act with --ref.refresh rollout; use --ref.refresh interval"),
        ({"ref.kl_target": "0.1"}, "--ref.kl_target 0.1: cannot act with --ref.refresh rollout; use --ref.refresh kl"),
        ({"ref.kl_decay": "0"}, "--ref.kl_decay 0.0: cannot act with --ref.refresh rollout"),
        ({"ref.mix": "0.5"}, "--ref.mix 0.5: cannot act with --ref.refresh rollout"),
        ({"ref.reset_optimizer": ""}, "--ref.reset_optimizer: cannot act with --ref.refresh rollout"),
        ({"ref.model_name_or_path": "x"}, "--ref.model_name_or_path x: cannot act with --ref.refresh rollout"),
        ({**INTERVAL, "ref.kl_target": "0.1"}, "--ref.kl_target 0.1: cannot act with --ref.refresh interval; use"),
        ({**INTERVAL, "ref.kl_decay": "0.5"}, "--ref.kl_decay 0.5: cannot act with --ref.refresh interval"),
        ({**INTERVAL, "ref.min_interval": "6"}, "--ref.min_interval 6: cannot act with --ref.refresh interval"),
        ({**EMA, "ref.kl_target": "0.1"}, "--ref.kl_target 0.1: cannot act with --ref.refresh ema"),
        ({**EMA, "ref.interval": "8"}, "--ref.interval 8: cannot act with --ref.refresh ema"),
        ({**EMA, "ref.reset_optimizer": ""}, "--ref.reset_optimizer: cannot act with --ref.refresh ema"),
        ({**NEVER, "ref.interval": "8"}, "--ref.interval 8: cannot act with --ref.refresh never"),
        ({**NEVER, "ref.mix": "0.5"}, "--ref.mix 0.5: cannot act with --ref.refresh never"),
        # what a mode needs
        ({"ref.refresh": "interval"}, "--ref.refresh interval: needs --ref.interval; give it, such as"),
        ({"ref.refresh": "kl"}, "--ref.refresh kl: needs --ref.kl_target; give it, such as --ref.kl_target 0.01"),
        ({"ref.refresh": "ema"}, "--ref.refresh ema: needs --ref.mix; give it, such as --ref.mix 0.01"),
        # out of range
        ({**INTERVAL, "ref.interval": "0"}, "--ref.interval 0: must be at least 1"),
        ({**KL, "ref.min_interval": "0"}, "--ref.min_interval 0: must be at least 1"),
        ({**KL, "ref.kl_target": "0"}, "--ref.kl_target 0.0: must be above 0"),
        ({**KL, "ref.kl_target": "nan"}, "--ref.kl_target nan: must be above 0"),
        ({**KL, "ref.kl_decay": "1"}, "--ref.kl_decay 1.0: must be at least 0 and below 1"),
        ({**EMA, "ref.mix": "0"}, "--ref.mix 0.0: must be above 0 and at most 1"),
        ({**EMA, "ref.mix": "1.5"}, "--ref.mix 1.5: must be above 0 and at most 1"),
        # combinations that cannot act
        ({**EMA, "ref.mix": "1"}, "--ref.mix 1: with --ref.refresh ema the reference would be the policy"),
        ({**KL, "ref.interval": "8", "ref.min_interval": "9"}, "--ref.min_interval 9: the KL cannot act"),
        ({**KL, "ref.min_interval": "4"}, "--ref.min_interval 4: cannot act, .* a rollout takes 4 optimizer steps"),
        ({**KL, "ref.interval": "4"}, "--ref.kl_target 0.01: cannot act, as --ref.interval 4 moves"),
        ({**INTERVAL, "ref.interval": "9"}, "--ref.interval 9: cannot act, as the run has 3 rollouts of 4"),
        ({**KL, "ref.min_interval": "9"}, "--ref.min_interval 9: cannot act, as the run has 3 rollouts"),
        ({**INTERVAL, "rpg.beta": "0"}, "--ref.refresh interval: no reference is used with --rpg.beta 0"),
        ({**NEVER, "rpg.beta": "0"}, "--ref.refresh never: no reference is used with --rpg.beta 0"),
        ({**INTERVAL, "ref.interval": "1", "train.batch_size": "256"}, "--rpg.beta 0.0001: the KL cannot act"),
        # weights that a snapshot cannot follow
        ({**NEVER, "ds.zpg": "2"}, "--ds.zpg 2: ZeRO"),
        ({**NEVER, "ds.deepcompile": ""}, "--ds.deepcompile: is not supported with a reference model"),
        ({**INTERVAL, "algo.objective": "openrlhf", "algo.advantage.estimator": "group_norm"}, "has no effect with"),
        # the first reference
        ({**NEVER, "ref.model_name_or_path": "./no"}, "--ref.model_name_or_path ./no: no such folder"),
    ],
)  # fmt: skip
def test_refused(good, capsys, change, says):
    line = outcome(capsys, {**good, **change})
    assert re.search(says, line), line


def test_another_first_reference_must_have_the_policys_architecture(good, tmp_path, capsys):
    folder = write_model(tmp_path / "other")
    change = {**INTERVAL, "ref.model_name_or_path": str(folder)}
    assert outcome(capsys, {**good, **change}) == ""
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 3}))
    assert "its num_hidden_layers is 3, the policy's 2; give" in outcome(capsys, {**good, **change})


def test_a_written_config_reads_back_to_the_same_run(good, tmp_path, capsys):
    """Unset arguments are written as null, which is no argument."""
    for number, change in enumerate((INTERVAL, KL, EMA, NEVER, {})):
        values = {**good, **change, "ckpt.output_dir": str(tmp_path / f"out{number}")}
        assert outcome(capsys, values) == ""
        written = str(tmp_path / f"out{number}" / "logs" / "config.yaml")
        assert outcome(capsys, {"config": written}) == ""
        read = parse(["--config", written]).values
        assert {name: read[name] for name in OURS} == {name: parse(argv(values)).values[name] for name in OURS}


def test_a_note_where_the_anchor_moves_after_every_rollout(good, capsys):
    values = {**good, **INTERVAL, "ref.interval": "4"}
    assert outcome(capsys, values) == ""

    def notes(rollouts, **ref):
        settings = nested(parse(argv(values)).values)
        vars(settings.ref).update(ref)
        return reference_checks.check_run_length(settings, rollouts)

    assert "--ref.refresh rollout is the same without a reference model" in notes(100)[0]
    assert notes(100, mix=0.5) == []
    assert notes(None, interval=1000) == [], "the data set does not say"


def test_the_launcher_and_the_schedule_refuse_alike():
    """Every mode with every pair of arguments: what the launcher lets through, the schedule takes."""
    arguments = {"interval": 8, "kl_target": 0.01, "kl_decay": 0.5, "min_interval": 6}
    defaults = parse([]).values | {"rollout.batch_size": 4, "rollout.n_samples_per_prompt": 4, "train.batch_size": 4}
    for mode in ("rollout", "interval", "kl", "ema", "never"):
        for chosen in range(16):
            given = {name: value for i, (name, value) in enumerate(arguments.items()) if chosen >> i & 1}
            v = defaults | {"ref.refresh": mode} | {f"ref.{name}": value for name, value in given.items()}
            v |= {"ref.mix": 0.5} if mode == "ema" else {}
            refused = rules.first(reference_checks.REFERENCE, nested(v)) is not None
            assert refused == refuses(lambda mode=mode, given=given: RefreshSchedule(mode, **given)), (mode, given)


def refuses(build) -> bool:
    try:
        build()
    except ValueError:
        return True
    return False


def test_defaults_move_nothing():
    values = parse([]).values
    assert values["ref.refresh"] == "rollout"
    assert all(values[name] is None or values[name] is False for name in OURS if name != "ref.refresh")
