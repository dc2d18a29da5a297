"""Where the launcher goes on from, and what it refuses to go on with."""

import json
import shutil
import threading
from pathlib import Path

import pytest

from rpg_openrlhf.commands import train_rpg
from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.runs import checkpoints, resuming
from rpg_openrlhf.runs import lock as run_lock
from tests.unit.launcher_case import argv, good_flags, write_model, write_rows
from tests.unit.test_checkpoints import write


@pytest.fixture
def good(tmp_path):
    return good_flags(tmp_path)


def launched(values):
    """The settings of a run that is started; None where it was not."""
    found = []
    assert train_rpg.main(argv(values), launch=lambda args: found.append(args) or 0) == 0
    return found[0] if found else None


def refused(values, capsys) -> str:
    assert train_rpg.main(argv(values), launch=lambda args: pytest.fail("it was launched")) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def path_of(values) -> Path:
    return Path(values.get("ckpt.path", values["ckpt.output_dir"] + "/checkpoints"))


def train_to(values, *tags: str) -> Path:
    """What a run of these flags leaves when it is killed after its last checkpoint."""
    args = launched(values)
    return [write(path_of(values), tag, **args.ckpt.record) for tag in tags][-1]


def test_the_same_command_goes_on(good, capsys):
    assert not launched(good).ckpt.load_enable
    folder = train_to(good, "global_step2", "global_step4")
    capsys.readouterr()
    args = launched(good)
    assert (args.ckpt.load_enable, args.ckpt.resume_from, args.ckpt.resumed_step) == (True, str(folder), 4)
    said = capsys.readouterr().out
    assert f"note: resumes after step 4, from {folder}" in said
    assert "in the checkpoint" not in said
    assert args.ckpt.changed == {}
    assert args.logger.wandb.run_name == args.ckpt.record["flags"]["logger.wandb.run_name"]


def test_what_a_killed_run_writes_while_it_ends_is_gone_on_from(good, capsys):
    """Its supervisor is dead, its driver writes two more checkpoints and deletes the one that was the newest."""
    folder, record = train_to(good, "global_step2"), launched(good).ckpt.record

    def end(lock):
        write(path_of(good), "global_step4", **record)
        shutil.rmtree(folder)
        lock.__exit__(None, None, None)

    lock = run_lock.only_run(path_of(good))
    lock.__enter__()
    threading.Timer(1.0, end, [lock]).start()
    assert launched(good).ckpt.resumed_step == 4
    said = capsys.readouterr().out
    assert f"waiting: another run is still writing to {path_of(good)}" in said
    assert "note: resumes after step 4" in said


def test_checkpoints_lie_in_the_runs_own_folder(good, tmp_path):
    """Upstream's default is one folder for all runs."""
    assert launched(good).ckpt.path == str(tmp_path / "out" / "checkpoints")
    assert launched(good | {"ckpt.path": str(tmp_path / "mine")}).ckpt.path == str(tmp_path / "mine")


def test_other_settings_are_told_and_logged(good, capsys):
    train_to(good, "global_step4")
    args = launched(good | {"rpg.divergence": "rkl", "actor.adam.lr": "2e-6", "logger.run_dir": "/tmp/elsewhere"})
    said = capsys.readouterr().out
    assert "--rpg.divergence: urkl in the checkpoint, rkl from here on" in said
    assert "--actor.adam.lr: 1e-06 in the checkpoint, 2e-06 from here on" in said
    assert args.ckpt.changed["rpg.divergence"] == {"was": "urkl", "is": "rkl"}
    assert set(args.ckpt.changed) == {"rpg.divergence", "actor.adam.lr"}, "where it logs decides nothing"


def test_a_half_written_one_is_passed_over_and_told(good, capsys):
    folder = train_to(good, "global_step2", "global_step4")
    (folder / "weights.pt").unlink()
    assert launched(good).ckpt.resumed_step == 2
    assert f"note: {folder} is no complete checkpoint: skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ds.zero_stage": "3"}, "--ds.zero_stage 3: "),
        ({"ds.param_dtype": "fp32"}, "--ds.param_dtype fp32: "),
        ({"actor.optim": "schedulefree"}, "--actor.optim schedulefree: "),
        ({"ds.lora.rank": "8"}, "--ds.lora.rank 8: "),
        ({"actor.num_gpus_per_node": "2", "rollout.micro_batch_size": "16", "train.micro_batch_size": "16"},
         "--actor.num_gpus_per_node 2: "),
        ({"train.enable_ema": ""}, "--train.enable_ema: "),
        ({"ds.zero_stage": "0"}, "--ds.zero_stage 0: "),
        ({"data.max_samples": "64"}, "--data.prompt_dataset"),
        ({"resume": "never"}, "--resume never: --ckpt.path"),
        ({"resume": "never", "ckpt.load_enable": ""}, "--resume never: contradicts --ckpt.load_enable"),
        ({"resume": "/nowhere/global_step9"}, "--resume /nowhere/global_step9: no whole checkpoint there"),
    ],
)  # fmt: skip
def test_refused(good, capsys, change, says):
    train_to(good, "global_step4")
    capsys.readouterr()
    assert f"train_rpg: {says}" in refused(good | change, capsys)


@pytest.mark.parametrize(
    "change",
    [
        {"ds.zero_stage": "3"},
        {"actor.num_gpus_per_node": "2", "rollout.micro_batch_size": "16", "train.micro_batch_size": "16"},
    ],
)
def test_other_ranks_or_another_zero_stage_go_on(good, capsys, change):
    """From a checkpoint that says which weights its files hold."""
    folder = train_to(good, "global_step4")
    (folder / "places_rank0.json").write_text("[]")
    assert launched(good | change).ckpt.resumed_step == 4
    assert f"--{next(iter(change))}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"ds.zero_stage": 0}, "without ZeRO"),
        ({"actor.optim": "muon"}, "Muon's states"),
        ({"ds.tensor_parallel_size": 2}, "split by tensor parallelism"),
    ],
)
def test_files_that_cannot_be_put_together_are_refused(tmp_path, flags, says):
    (tmp_path / "places_rank0.json").write_text("[]")
    base = {"ds.zero_stage": 2, "actor.optim": "adam", "ds.tensor_parallel_size": 1, "actor.num_gpus_per_node": 8}
    found = checkpoints.Checkpoint(tmp_path, 4, {"flags": base | flags})
    changed = {"ds.zero_stage": (flags.get("ds.zero_stage", 2), 3), "actor.num_gpus_per_node": (8, 4)}
    with pytest.raises(Refusal, match=f"^--ds.zero_stage 3: .* {says}.*; set it back, or start another run"):
        resuming._check_resharding(found, changed)


def test_a_model_of_another_shape_is_refused(good, tmp_path, capsys):
    train_to(good, "global_step4")
    other = tmp_path / "other"
    write_model(other)
    config = json.loads((other / "config.json").read_text()) | {"num_hidden_layers": 3}
    (other / "config.json").write_text(json.dumps(config))
    said = refused(good | {"actor.model_name_or_path": str(other)}, capsys)
    assert "its num_hidden_layers is 3" in said
    assert "it is 2" in said


def test_other_data_of_the_same_length_is_told(good, tmp_path, capsys):
    """It may have been moved."""
    train_to(good, "global_step4")
    rows = [{"input": f"{i}-{i}=", "label": "0"} for i in range(100)]
    moved = good | {"data.prompt_dataset": str(write_rows(tmp_path / "moved.jsonl", rows))}
    assert launched(moved).ckpt.resumed_step == 4
    assert "--data.prompt_dataset: " in capsys.readouterr().out


def test_branching_off_another_run(good, tmp_path, capsys):
    """From the other's checkpoint at first; then from its own, which came from there."""
    folder = train_to(good, "global_step2")
    train_to(good, "global_step4")
    branch = good | {"ckpt.output_dir": str(tmp_path / "branch"), "resume": str(folder)}
    args = launched(branch)
    assert (args.ckpt.resume_from, args.ckpt.resumed_step) == (str(folder), 2)
    assert args.ckpt.path == str(tmp_path / "branch" / "checkpoints")
    assert launched(branch | {"resume": str(path_of(good))}).ckpt.resumed_step == 4, "its last one"
    own = write(Path(args.ckpt.path), "global_step3", **args.ckpt.record)
    assert launched(branch).ckpt.resume_from == str(own)
    assert "has already branched from there" in capsys.readouterr().out


def test_no_going_back_over_later_checkpoints(good, capsys):
    folder = train_to(good, "global_step2")
    train_to(good, "global_step4")
    assert "global_step4, which is later and would be overwritten" in refused(good | {"resume": str(folder)}, capsys)


def test_a_finished_run_is_not_run_again(good, capsys):
    args = launched(good)
    path_of(good).mkdir(parents=True, exist_ok=True)
    checkpoints.mark_finished(path_of(good), args.ckpt.record)
    capsys.readouterr()
    assert launched(good) is None
    assert "this run has already finished: nothing to do" in capsys.readouterr().out
    assert launched(good | {"logger.run_dir": "/tmp/elsewhere"}) is None
    longer = launched(good | {"train.num_episodes": "2"})
    assert longer is not None, "more is asked for"


def test_a_run_that_has_ended_trains_nothing_more_under_other_settings(good, capsys):
    """Three rollouts of 32 prompts are all that 100 prompts make."""
    train_to(good, "global_step3")
    record = launched(good).ckpt.record
    checkpoints.mark_finished(path_of(good), record)
    assert launched(good) is None
    changed = {**good, "actor.adam.lr": "1e-5"}
    said = refused(changed, capsys)
    assert "has ended after its 3 rollouts" in said
    assert "--actor.adam.lr" in said
    assert launched({**changed, "train.num_episodes": "2"}).ckpt.resumed_step == 3


def test_inputs_whose_content_changed_are_noted(good, tmp_path, capsys):
    train_to(good, "global_step2")
    rows = [json.loads(line) for line in Path(good["data.prompt_dataset"]).read_text().splitlines()]
    write_rows(Path(good["data.prompt_dataset"]), [row | {"label": "0"} for row in rows])
    Path(good["reward.remote_url"]).write_text("def reward_func(queries, prompts, labels): return None\n")
    capsys.readouterr()
    assert launched(good).ckpt.resumed_step == 2
    said = capsys.readouterr().out
    for flag in ("data.prompt_dataset", "reward.remote_url"):
        assert f"note: --{flag} {good[flag]}: its content has changed since the checkpoint" in said


def test_a_finished_run_over_changed_data_is_no_success(good, capsys):
    train_to(good, "global_step3")
    checkpoints.mark_finished(path_of(good), launched(good).ckpt.record)
    assert launched(good) is None
    Path(good["reward.remote_url"]).write_text("def reward_func(queries, prompts, labels): return None\n")
    said = refused(good, capsys)
    assert "has ended after its 3 rollouts" in said
    assert f"--reward.remote_url {good['reward.remote_url']}" in said


def test_a_checkpoint_past_the_last_rollout_is_refused(good, tmp_path, capsys):
    """Of a run that was killed: a limit below its checkpoint would never be met."""
    long = good | {"train.num_episodes": "9"}
    folder = train_to(long, "global_step20")
    capsys.readouterr()
    said = refused(long | {"train.max_rollouts": "10"}, capsys)
    assert f"--train.max_rollouts 10: the checkpoint to resume, {folder}, is of rollout 20" in said
    assert launched(long | {"train.max_rollouts": "20"}).ckpt.resumed_step == 20, "its model is still to be saved"
    branch = long | {"ckpt.path": str(tmp_path / "branch"), "resume": str(folder), "train.max_rollouts": "20"}
    assert "is of rollout 20" in refused(branch, capsys)
