"""The README of a saved model: read back by the hub's own library."""

import json
from types import SimpleNamespace as Namespace

import yaml
from huggingface_hub import ModelCard

from rpg_openrlhf.runs import model_card


def args(tmp_path) -> Namespace:
    return Namespace(
        actor=Namespace(model_name_or_path="Qwen/Qwen3-4B", policy_loss_type="ppo"),
        algo=Namespace(objective="rpg", advantage=Namespace(estimator="dr_grpo")),
        rpg=Namespace(divergence="urkl", gradient_estimator="reinforce", beta=1e-4),
        ref=Namespace(refresh="rollout"),
        data=Namespace(prompt_dataset="train.jsonl"),
        logger=Namespace(run_dir=str(tmp_path / "logs"), wandb=Namespace(run_name="rpg_reinforce_urkl_seed1")),
        ckpt=Namespace(
            output_dir=str(tmp_path / "model"), record={"versions": {"rpg_openrlhf": "0.1.0", "openrlhf": "0.11.2"}}
        ),
    )


def write_run(tmp_path, *rows) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "logs" / "config.yaml").write_text(yaml.safe_dump({"rpg": {"beta": 1e-4}}))
    (tmp_path / "logs" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_card_says_what_a_reader_asks_first(tmp_path):
    write_run(
        tmp_path,
        {"kind": "train", "step": 1, "reward": 0.5},
        {"kind": "eval", "step": 2, "eval/aime24/mean@32": 0.25, "timing/evaluate": 3.0},
        {"kind": "eval", "step": 4, "eval/aime24/mean@32": 0.5},
    )
    model_card.write(args(tmp_path), rollouts=4)
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.base_model == "Qwen/Qwen3-4B"
    assert "rpg" in card.data.tags
    text = card.text
    assert "Trained for 4 rollouts" in text
    assert "RPG, urkl, reinforce, beta 0.0001, reference rollout" in text
    assert "after rollout 4" in text
    assert "| aime24/mean@32 | 0.5 |" in text
    assert "beta: 0.0001" in text
    assert "openrlhf 0.11.2" in text


def test_a_run_without_an_evaluation_says_so(tmp_path):
    write_run(tmp_path, {"kind": "train", "step": 1})
    baseline = args(tmp_path)
    baseline.algo.objective = "openrlhf"
    model_card.write(baseline, rollouts=1)
    text = ModelCard.load(tmp_path / "model" / "README.md").text
    assert "No evaluation was made during training" in text
    assert "OpenRLHF's ppo loss, advantages by dr_grpo" in text
