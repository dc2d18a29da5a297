"""TensorBoard and W&B under the names of metrics.jsonl; tests/integration/test_training.py compares all three."""

from types import SimpleNamespace

import pytest

pytest.importorskip("tensorboard")

from rpg_openrlhf.runs.loggers import TensorboardLog, numbers
from tests.three_logs import tensorboard


def log(folder, resumed_step: int | None = None) -> TensorboardLog:
    args = SimpleNamespace(
        logger=SimpleNamespace(tensorboard_dir=str(folder), wandb=SimpleNamespace(run_name="run")),
        ckpt=SimpleNamespace(load_enable=resumed_step is not None, resumed_step=resumed_step or 0),
    )
    return TensorboardLog(args)


def test_numbers_alone():
    assert numbers({"a": 1, "b": 0.5, "generated_samples": ["text", 1.0], "c": None}) == {"a": 1.0, "b": 0.5}


def test_names_and_steps(tmp_path):
    written = log(tmp_path)
    written.log_train(1, {"reward": 0.5, "policy/kl_ref_k3": 0.25, "generated_samples": ["a reply", 1.0]})
    written.log_eval(1, {"eval/aime24/mean@4": 0.75})
    written.close()
    assert tensorboard(tmp_path / "run") == {1: {"reward": 0.5, "policy/kl_ref_k3": 0.25, "eval/aime24/mean@4": 0.75}}


def test_a_run_that_goes_on_hides_what_it_takes_again(tmp_path):
    first = log(tmp_path)
    for step in (1, 2, 3):
        first.log_train(step, {"reward": float(step)})
    first.close()
    second = log(tmp_path, resumed_step=1)
    second.log_train(2, {"reward": 20.0})
    second.close()
    assert tensorboard(tmp_path / "run") == {1: {"reward": 1.0}, 2: {"reward": 20.0}}
