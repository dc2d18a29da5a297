"""Which folders of a run are checkpoints, in which order, and which of them are whole."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from evaluation import checkpoints
from evaluation.provenance import listing, model_hash
from rpg_openrlhf.runs import checkpoints as trainer


def model(path, value=1.0):
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}", encoding="utf-8")
    (path / "tokenizer.json").write_text("{}", encoding="utf-8")
    save_file({"w": np.full(100, value)}, path / "model.safetensors")
    return path


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    """A training run as OpenRLHF lays it out: checkpoints every 5 steps, the final model after step 12."""
    for step in (5, 10, 100):
        model(folder / "checkpoints" / f"global_step{step}_hf")
    (folder / "checkpoints" / "_actor" / "global_step10").mkdir(parents=True)
    model(folder / "model")
    (folder / "logs").mkdir()
    return folder


def log(run, *steps):
    lines = [json.dumps({"kind": "train", "step": step}) for step in steps] + ['{"kind": "tr']
    (run / "logs" / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")


def test_step_order_and_the_final_model(run):
    assert [c.step for c in checkpoints.find(run)] == [5, 10, 100, None]
    assert checkpoints.find(run)[-1].folder == "final"
    log(run, 1, 120, 119)
    assert [c.step for c in checkpoints.find(run)] == [5, 10, 100, 120]
    assert checkpoints.find(run)[0].folder == "step_000005"


def test_a_final_model_of_a_saved_step_is_that_checkpoint(run):
    log(run, 100)
    found = checkpoints.find(run)
    assert [c.step for c in found] == [5, 10, 100]
    assert found[-1].path.name == "global_step100_hf"


def test_hugging_face_names(tmp_path):
    model(tmp_path / "checkpoint-500")
    model(tmp_path / "checkpoint-1000")
    assert [c.step for c in checkpoints.find(tmp_path)] == [500, 1000]


def test_the_end_of_a_run(run):
    assert checkpoints.finished(run)
    (run / "model" / "model.safetensors").unlink()
    assert not checkpoints.finished(run)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: (path / "config.json").unlink(), "no config.json"),
        (lambda path: (path / "config.json").write_text('{"a"'), "not JSON"),
        (lambda path: (path / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda path: (path / "model.safetensors").unlink(), "no weights"),
        (lambda path: (path / "model.safetensors").write_bytes(b""), "incomplete"),
        (
            lambda path: (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-8]),
            "incomplete",
        ),
        (lambda path: (path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "b"}}'), "lacks b"),
        (lambda path: (path / "model.safetensors.index.json").write_text("[]"), "not an index"),
    ],
)
def test_damage_is_told_in_one_line(tmp_path, damage, said):
    path = model(tmp_path / "m")
    assert checkpoints.problem(path) is None
    damage(path)
    found = checkpoints.problem(path)
    assert found
    assert said in found
    assert "\n" not in found


def test_missing_and_empty(tmp_path):
    assert "is missing" in (checkpoints.problem(tmp_path / "x") or "")
    (tmp_path / "x").mkdir()
    assert "is empty" in (checkpoints.problem(tmp_path / "x") or "")


def record(run, **changes):
    """What the trainer writes of a run, with the paths it had when it was trained."""
    places = {"path": "/trained/checkpoints", "output_dir": "/trained/model"} | changes
    content = {"ckpt": places, "logger": {"run_dir": "/trained/logs"}}
    (run / "logs" / "config.yaml").write_text(json.dumps(content), encoding="utf-8")


def test_models_of_a_run_are_those_its_record_names(run):
    """A start model beside the run, as the quickstart has one, is none of them, wherever the run was moved to."""
    model(run / "warm_up")
    record(run)
    assert [c.path.name for c in checkpoints.find(run)][-1] == "model"
    assert checkpoints.finished(run)
    (run / "model" / "model.safetensors").unlink()
    assert not checkpoints.finished(run)
    assert [c.path.name for c in checkpoints.find(run.parent)] == [c.path.name for c in checkpoints.find(run)]


def test_the_final_model_of_a_run_that_goes_on_is_of_an_earlier_end(run):
    """A finished run of 100 rollouts is extended to 200: its old final model is not the model of step 137."""
    record(run)
    log(run, 100, 137)
    trainer.mark_going_on(run / "checkpoints")
    assert [c.step for c in checkpoints.find(run)] == [5, 10, 100]
    assert not checkpoints.finished(run)
    trainer.mark_model_saved(run / "checkpoints")
    assert [c.step for c in checkpoints.find(run)] == [5, 10, 100, 137]
    assert checkpoints.finished(run)


def test_a_damaged_best_checkpoint_does_not_hide_the_regular_one(run):
    model(run / "checkpoints" / "best_global_step100_hf")
    (run / "checkpoints" / "best_global_step100_hf" / "config.json").write_text("{")
    (found,) = [c for c in checkpoints.find(run) if c.step == 100]
    assert found.path.name == "global_step100_hf"


def test_models_that_nothing_tells_apart_are_refused(run):
    model(run / "warm_up")
    with pytest.raises(
        checkpoints.MixedModels, match="several models without a step: model, warm_up; give the folder"
    ):
        checkpoints.find(run)


def test_two_models_of_a_step_are_refused(run):
    model(run / "copy" / "global_step5_hf")
    with pytest.raises(checkpoints.MixedModels, match="two models of step 5: checkpoints/global_step5_hf, copy/"):
        checkpoints.find(run)
    (run / "copy" / "global_step5_hf" / "config.json").write_text("{")
    assert [c.step for c in checkpoints.find(run)] == [5, 10, 100, None]


def test_two_runs_are_refused(run):
    record(run)
    (run / "other").mkdir()
    (run / "other" / "config.yaml").write_text((run / "logs" / "config.yaml").read_text())
    with pytest.raises(checkpoints.MixedModels, match="more than one run: logs, other; give the folder of one run"):
        checkpoints.find(run)


def adapter(path, base="organisation/base"):
    """A LoRA adapter as the trainer saves it: OpenRLHF writes the base model's configuration beside it."""
    model(path)
    (path / "model.safetensors").rename(path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}), encoding="utf-8")
    return path


def test_an_adapter_below_its_merged_model_is_no_model_of_its_own(run):
    for folder in (run / "model", run / "checkpoints" / "global_step5_hf"):
        adapter(folder / "adapter")
    assert [c.step for c in checkpoints.find(run)] == [5, 10, 100, None]


def test_an_adapter_alone_is_a_model(tmp_path):
    for step in (5, 10):
        assert checkpoints.problem(adapter(tmp_path / "checkpoints" / f"global_step{step}_hf")) is None
    (tmp_path / "checkpoints" / "global_step5_hf" / "config.json").unlink()  # PEFT itself writes none
    assert checkpoints.problem(tmp_path / "checkpoints" / "global_step5_hf") is None
    assert [c.step for c in checkpoints.find(tmp_path)] == [5, 10]


def test_an_adapter_whose_base_model_is_not_there(tmp_path):
    said = checkpoints.problem(adapter(tmp_path / "model", str(tmp_path / "gone")))
    assert said.endswith("gone, which does not exist: copy it there, or correct the path in adapter_config.json")


@pytest.mark.parametrize("text", ['{"base_mod', "{}", '{"base_model_name_or_path": null}'])
def test_an_adapter_that_names_no_base_model(tmp_path, text):
    folder = adapter(tmp_path / "model")
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    assert "adapter_config.json names no base model" in checkpoints.problem(folder)


def test_a_models_hash_is_that_of_the_base_model_too(tmp_path):
    folder = adapter(tmp_path / "adapter", str(model(tmp_path / "base")))
    before = model_hash(folder), listing(folder)
    (tmp_path / "base" / "config.json").write_text('{"changed": 1}', encoding="utf-8")
    assert model_hash(folder) != before[0]
    assert listing(folder) != before[1]
