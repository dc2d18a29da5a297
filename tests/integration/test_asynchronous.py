"""`--train.async_enable` with RPG on the real stack: replies that continue under new weights, and kills in each phase.

Staleness, evaluation, stop and resume: test_resharding.py. A queue of none is the synchronous trainer: test_resume.py.
"""

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration import ledger, recorded_reward
from tests.integration.killer import rows
from tests.integration.phases import PHASES, Watched


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
    assert "replies continue with new weights" in run.output
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


def test_killed_in_every_phase_each_prompt_is_trained_on_once(tiny, tmp_path):
    """Kill -9 of the whole run while it generates, syncs, queues, trains and saves; each time the same command again.

    Prompts under way and in the queue are drawn again, by the judge's own record, and the log agrees with it.
    """
    rollouts, judge = 21, recorded_reward.install(tmp_path)
    flags = [*ledger.FLAGS, "--train.num_episodes", "7", "--train.max_epochs", "3", "--reward.remote_url", str(judge)]
    run = Watched(*tiny, tmp_path / "run", flags)
    run.out.mkdir()
    seen = {phase: run.kill_in(phase, 900) for phase in PHASES}
    recorded_reward.install(tmp_path)
    assert run.run([], random.Random(0), 400) == 0, (run.out / "console.txt").read_text(encoding="utf-8")
    assert ledger.problems_of(run.out, rollouts) == []
    drawn, left = ledger.drawings(run.out, tmp_path / "record.jsonl")
    assert set(drawn) == set(range(1, rollouts + 1))
    assert ledger.problems_of_prompts(drawn, rows(run.out, "train")) == []
    assert left >= sum(each.judged for each in seen.values()) > 0, "samples under way"
    again = sum(map(len, drawn.values())) - rollouts
    assert again >= sum(each.ahead for each in seen.values()) >= 3
