"""`--train.async_enable` with RPG on the real stack: replies that go on under new weights.

Staleness, evaluation, stop and resume: test_resharding.py. A queue of none is the synchronous trainer: test_resume.py.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest


def test_replies_go_on_under_new_weights(train):
    """On two ranks with two engines, and no forward pass between generating and training."""
    run = train(
        *("--train.async_enable", "--train.async_queue_size", "2", "--train.partial_rollout_enable"),
        *("--train.max_rollouts", "6", "--train.num_episodes", "3", "--vllm.num_engines", "2"),
        *("--data.max_len", "160", "--rollout.max_new_tokens", "128"),  # longer to generate than to train on
        *("--actor.num_gpus_per_node", "2", "--train.dynamic_batch_enable", "--train.max_tokens_per_gpu", "400"),
        *("--algo.advantage.estimator", "none", "--rpg.divergence", "fkl", "--ds.param_dtype", "fp32"),
        *("--rpg.gradient_estimator", "differentiable", "--rpg.beta", "0.01"),
    )
    assert run.returncode == 0, run.output
    assert "replies continue under new weights" in run.output
    assert "append:" in run.log
    assert "forward:" not in run.log, "the policy made a forward pass"
    assert len(run.metrics) == 6
    assert max(step["async/of_several_policies"] for step in run.metrics) > 0
    for step in run.metrics:
        assert 0 <= step["async/staleness"] <= step["async/staleness_max"] <= 3
        assert step["policy/importance_weight_mean"] == pytest.approx(1, abs=0.2)
        assert step["actor_grad_norm"] > 0
        assert 0 < step["entropy_loss"] <= math.log(128), "the mean over tokens, not over micro-batches"


def test_log_probs_of_a_reply_that_paused_are_those_of_its_policies(tmp_path):
    """Each token's of the policy that sampled it, whatever sampled the others; with kept keys, of neither."""
    command = [sys.executable, "-m", "tests.integration.paused_replies", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"dropped"')))
    assert found["dropped"]["policies apart"] > 0.1
    assert max(found["dropped"]["before"], found["dropped"]["after"]) < 1e-4
    assert found["kept"]["before"] < 1e-4
    assert found["kept"]["after"] > 0.1
