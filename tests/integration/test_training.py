"""The command trains, in every layout the issue of a run may take, and says what it did."""

import itertools
import json
import math

import pytest
import yaml
from transformers import AutoModelForCausalLM

from tests import logged_keys, three_logs
from tests.logged_keys import BESIDE

LINE = r"step 3/3  reward .*accuracy .*KL .*entropy .*length .*tokens/s .* s"


def check_three_logs(run, tmp_path) -> None:
    """metrics.jsonl, TensorBoard and W&B: the same names, steps and values; W&B's configuration is config.yaml."""
    lines = (run.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    expected: dict[int, dict[str, float]] = {}
    for row in map(json.loads, lines):
        expected.setdefault(int(row["step"]), {}).update({k: v for k, v in row.items() if k not in BESIDE})
    assert sorted(expected) == [1, 2, 3]
    (folder,) = (tmp_path / "tensorboard").iterdir()
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    steps, config, about = three_logs.wandb(offline)
    assert steps == expected
    shown = three_logs.tensorboard(folder)
    assert {step: set(row) for step, row in shown.items()} == {step: set(row) for step, row in expected.items()}
    for step, row in expected.items():
        assert shown[step] == {name: pytest.approx(value, rel=1e-6) for name, value in row.items()}, "float32"
    resolved = yaml.safe_load((run.run_dir / "config.yaml").read_text(encoding="utf-8"))
    assert {name: config[name] for name in resolved} == resolved
    assert (about["name"], about["group"]) == (folder.name, "rpg_reinforce_urkl")
    assert about["tags"] == ["a tag"]


def check(run, steps: int = 3) -> list[dict]:
    assert run.returncode == 0, run.output
    assert len(run.metrics) == steps
    for step in run.metrics:
        assert all(math.isfinite(value) for name, value in step.items() if name != "kind"), step
        assert step["actor_grad_norm"] > 0
    return run.metrics


def test_default_run(train, tiny, tmp_path):
    """RPG-REINFORCE-URKL, π_ref = π_old: progress, three logs, two benchmarks, resolved config and a model to load."""
    sums = tmp_path / "sums.jsonl"
    sums.write_text("".join(tiny[1].read_text().splitlines(keepends=True)[:6]))
    run = train(
        *("--logger.tensorboard_dir", str(tmp_path / "tensorboard"), "--actor.dual_clip", "10"),
        *("--eval.dataset", f"{tiny[1].with_name('heldout.jsonl')},{sums}", "--eval.steps", "2"),
        *("--eval.n_samples_per_prompt", "4", "--ckpt.best_metric_key", "eval/heldout/pass@4"),
        *("--logger.wandb.key", "a-word-nobody-should-read"),
        env={"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_TAGS": "a tag"},
    )
    for step in check(run):
        weights = [step[f"policy/importance_weight_{name}"] for name in ("min", "mean", "max")]
        assert weights == sorted(weights)
        assert weights[1] == pytest.approx(1, abs=0.05)
        assert 0 < step["policy/effective_sample_size"] <= 1
        assert 0 <= step["policy/kl_ref_k3"] == step["policy/kl_old_k3"]
        for name in ("gated_low", "gated_high", "gated_dual", "regularized_advantage", "kl_old_k1", "kl_ref_k1"):
            assert f"policy/{name}" in step
        assert 0 < step["entropy_loss"] <= math.log(128)
    first, *later = (step["reward"] for step in run.metrics)
    assert max(later) > first, "digits are easy to learn"
    assert run.output.count("step ") >= 3
    assert "ETA" in run.output
    # W&B's own service says goodbye with one, ignored by Python, when the machine is busy.
    lines = run.log.splitlines()
    assert not [
        line
        for before, line in itertools.pairwise(lines)
        if "Traceback" in line and "atexit callback: <function _start_and_connect_service" not in before
    ]
    check_three_logs(run, tmp_path)
    evaluated = run.reports("eval")
    assert [row["step"] for row in evaluated] == [2]
    assert evaluated[0]["eval/num_samples"] == 4 * (8 + 6)
    logged_keys.check(
        {*run.metrics[0], *evaluated[0]},
        *("RPG", "entropy", "group", "score", "grader", "evaluation", "samples"),
    )
    (best,) = (run.run_dir.parent / "checkpoints" / "_actor").glob("best_*")
    record = json.loads((best / "checkpoint.json").read_text(encoding="utf-8"))
    assert record["metric_key"] == "eval/heldout/pass@4"
    assert record["metric_value"] == evaluated[0]["eval/heldout/pass@4"]
    assert "a-word-nobody-should-read" not in run.log
    AutoModelForCausalLM.from_pretrained(run.run_dir.parent / "model")


def test_two_ranks_two_engines_and_no_forward_pass(train):
    """ZeRO-2 on two ranks; vLLM's log-probs are π_old, so nothing stands between generating and training."""
    run = train(
        *("--actor.num_gpus_per_node", "2", "--vllm.num_engines", "2", "--train.micro_batch_size", "8"),
        *("--rpg.old_policy", "rollout", "--rpg.divergence", "fkl", "--rpg.gradient_estimator", "differentiable"),
    )
    for step in check(run):
        assert step["policy/importance_weight_mean"] == pytest.approx(1, abs=0.05)
    assert "append:" in run.log
    assert "forward:" not in run.log, "the policy made a forward pass"


def test_two_ranks_zero3_fixed_reference(train):
    """The fixed reference: another policy than π_old from the second rollout on."""
    run = train(
        *("--actor.num_gpus_per_node", "2", "--ref.num_gpus_per_node", "2", "--train.colocate_actor_ref"),
        *("--ds.zero_stage", "3", "--train.micro_batch_size", "8", "--ref.refresh", "never", "--rpg.beta", "0.01"),
        *("--rpg.divergence", "rkl", "--rpg.importance_level", "sequence"),
    )
    steps = check(run)
    assert steps[0]["policy/kl_ref_k3"] == pytest.approx(steps[0]["policy/kl_old_k3"])
    assert steps[2]["policy/kl_ref_k3"] > 2 * steps[2]["policy/kl_old_k3"]
    assert steps[2]["rollout/reward_mean"] == pytest.approx(steps[2]["return"] + steps[2]["reward"], abs=1), (
        "no KL in it"
    )


def test_dynamic_batches_fp32_and_no_baseline(train):
    """Packed micro-batches of at most 400 tokens."""
    run = train(
        *("--train.dynamic_batch_enable", "--train.max_tokens_per_gpu", "400", "--ds.param_dtype", "fp32"),
        *("--algo.advantage.estimator", "none", "--rpg.divergence", "ufkl"),
    )
    for step in check(run):
        assert 0 < step["entropy_loss"] <= math.log(128), "the mean over tokens, not over micro-batches"


def test_grpo_runs_upstreams_loss(train, tmp_path):
    """The same launcher and logs with upstream's loss, k3 KL to a fixed reference; W&B disabled, its key unseen."""
    run = train(
        *("--algo.objective", "openrlhf", "--algo.advantage.estimator", "group_norm", "--algo.kl.use_loss"),
        *("--algo.kl.estimator", "k3", "--algo.kl.init_coef", "1e-3", "--actor.eps_clip_low_high", "0.2", "0.2"),
        *("--logger.wandb.key", "a-word-nobody-should-read"),
        env={"WANDB_MODE": "disabled", "WANDB_DIR": str(tmp_path)},
    )
    assert not (tmp_path / "wandb").exists()
    assert "a-word-nobody-should-read" not in run.log
    steps = check(run)
    assert "policy/kl_ref_k3" not in steps[0]
    assert steps[-1]["kl"] > 0
    logged_keys.check(set(steps[0]), "entropy", "group", "score", "grader")
