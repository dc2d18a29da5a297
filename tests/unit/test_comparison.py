"""The comparison's arms, its training that goes on, the KL it measures and the power it states."""

import json
import math
import signal
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from evaluation.scores.intervals import holm
from examples.comparison import objective, old_policy, report, train
from examples.comparison.studies import AGAIN, OBJECTIVE, OLD_POLICY, STALENESS, STUDIES, URKL
from rpg_openrlhf.commands import train_rpg


@pytest.mark.parametrize("study", STUDIES.values(), ids=list(STUDIES))
def test_runs_are_all_different_and_seeds_come_in_order(tmp_path, study):
    runs = list(train.all_runs(study, 3))
    assert len({run.folder(tmp_path) for run in runs}) == len(runs)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert len(runs) == 3 * sum(len(study.values_of(arm)) for arm in study.arms)


def test_every_command_of_a_study_is_one_of_the_launcher(capsys):
    """Each arm at each value, with `--print_config`: flags that exist, after layers that exist."""
    for study in STUDIES.values():
        for arm, value in {(run.arm, run.value) for run in train.all_runs(study, 1)}:
            layers = [f"configs/{layer}.yaml" for layer in (*train.LAYERS, study.layer, arm.layer)]
            flags = ["--config", ",".join(layers), *study.command(arm, value), "--print_config"]
            main = old_policy.main if arm.module[0] == OLD_POLICY else train_rpg.main
            assert main([*arm.module[1:], *flags]) == 0, capsys.readouterr().err


def test_old_policies_that_the_launcher_has_no_flag_for():
    """What the two arms change in settings that passed the checks, and nothing else."""

    def changed(kind):
        args = SimpleNamespace(rpg=SimpleNamespace(old_policy="rollout", on_policy=False))
        return vars(old_policy.replace_old_policy(args, kind).rpg)

    assert changed("recomputed") == {"old_policy": "recompute", "on_policy": False}
    assert changed("current") == {"old_policy": "rollout", "on_policy": True}


def test_an_unknown_old_policy_is_refused(capsys):
    assert old_policy.main(["older"]) == 2
    assert "old_policy: older: not one of recomputed, current" in capsys.readouterr().err


def test_the_same_command_again_trains_what_is_missing(tmp_path, monkeypatch):
    """A stand-in for the launcher: it fails for the second seed of one arm, the first time."""
    started = []

    class Launcher:
        def __init__(self, command, **_):
            started.append(command)

        def wait(self):
            return int(len(started) == 2)

        def terminate(self):
            raise AssertionError("nobody stopped it")

    monkeypatch.setattr(train, "prepare", lambda out: None)
    monkeypatch.setattr(train.subprocess, "Popen", Launcher)
    command = ["--out", str(tmp_path), "--jobs", "1", "--seeds", "1"]
    assert train.main(command) == 1
    assert len(started) == len(list(train.all_runs(OBJECTIVE, 1)))
    failed = started[1]
    assert train.main(command) == 0
    assert started[-1] == failed
    assert train.main(command) == 0
    assert len(started) == len(list(train.all_runs(OBJECTIVE, 1))) + 1


def test_a_stopped_comparison_ends_its_runs_and_starts_no_other(tmp_path):
    trainings, statuses = train.Trainings(), []
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (tmp_path / "log").open("w") as log:
        thread = threading.Thread(target=lambda: statuses.append(trainings.run(command, log)))
        thread.start()
        while not trainings._processes:
            time.sleep(0.01)
        trainings.stop()
        thread.join(20)
        assert statuses == [-signal.SIGTERM]
        assert trainings.run(command, log) is None
    run = train.Run(OBJECTIVE, URKL, 0.2, 1)
    assert train.train(run, tmp_path, trainings) is None
    assert not run.is_done(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert train.main(["--out", str(tmp_path / "file")]) == 2
    assert "train.py: error: --out" in capsys.readouterr().err


def test_arms_with_other_seeds_than_the_base(tmp_path):
    """A comparison under way: arms without a common seed have no difference, and two common ones no power."""
    _, _, _, third, fourth, *_ = OBJECTIVE.arms
    by_arm = {arm: {} for arm in OBJECTIVE.arms} | {URKL: scores(0.1), third: scores(0.2), fourth: scores(0.3)}
    by_arm[URKL] = {seed: by_arm[URKL][seed] for seed in (1, 2)}
    by_arm[fourth] = {3: by_arm[fourth][3]}
    text = report.table(OBJECTIVE, by_arm, 0.2)
    assert f"| {fourth.name} | 1 |" in text
    assert "is found in" not in text


def test_power_is_that_of_simulated_studies():
    """Twenty thousand studies of eleven pairs, one of which differs by what the function says."""
    pairs, seeds, spread = 11, 12, 0.1
    difference = report.smallest_found(spread, seeds, pairs)
    draws = np.random.default_rng(0).normal(0, spread, (4000, pairs, seeds))
    draws[:, 0] += difference
    ps = stats.ttest_1samp(draws, 0.0, axis=-1).pvalue
    found = np.mean([holm(list(row))[0] < 0.05 for row in ps])
    assert found == pytest.approx(0.8, abs=0.03)


class Table(torch.nn.Module):
    """A language model whose next token depends on the last one alone."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, tokens, attention_mask):
        return type("Output", (), {"logits": self.logits[tokens]})


def test_kl_of_replies_is_that_of_their_enumeration():
    """Mean of the summed KLs over every reply of two tokens, weighted by its probability, is the KL of replies."""
    torch.manual_seed(0)
    policy, start = (Table(torch.randn(3, 3, dtype=torch.float64)) for _ in range(2))
    prompt, pairs = 0, [(first, second) for first in range(3) for second in range(3)]
    logs = [model.logits.log_softmax(-1) for model in (policy, start)]
    ours = [log[prompt, first] + log[first, second] for first, second in pairs for log in logs]
    log_policy, log_start = torch.stack(ours[::2]), torch.stack(ours[1::2])
    exact = (log_policy.exp() * (log_policy - log_start)).sum()
    tokens = torch.tensor([(prompt, first, second) for first, second in pairs])
    kls = objective.kl_of_tokens(policy, start, tokens, torch.ones_like(tokens), 1)
    assert kls.shape == (9, 2)
    assert math.isclose((log_policy.exp() * kls.sum(-1)).sum(), exact, rel_tol=1e-12)


def scores(offset: float) -> dict[int, objective.Score]:
    rng = np.random.default_rng(round(offset * 100))
    return {seed: objective.Score(0.5, offset + rng.normal(0, 0.02), 1.0, 48.0) for seed in range(1, 13)}


def test_table_corrects_declared_pairs_and_leaves_the_second_run_of_the_base_out(tmp_path):
    by_arm = {
        arm: scores(0.5 if arm.name == "REINFORCE++" else 0.01 * place) for place, arm in enumerate(OBJECTIVE.arms)
    }
    by_arm[URKL], by_arm[AGAIN] = scores(0.0), scores(0.001)
    lines = report.table(OBJECTIVE, by_arm, 0.2).splitlines()
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in lines if " | 12 | " in line}
    assert list(rows) == [arm.name for arm in OBJECTIVE.arms]
    assert rows[AGAIN.name][-1] == "A/A |"
    assert float(rows["REINFORCE++"][-1].strip(" |")) < 1e-3
    assert f"{len(OBJECTIVE.arms) - 2} pairs" in lines[-1]
    report.draw(OBJECTIVE, {0.2: by_arm, 0.02: by_arm}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_nothing_trained_is_said(tmp_path, capsys):
    assert report.main(["--out", str(tmp_path)]) == 2
    assert "holds no trained run of RPG-REINFORCE-URKL" in capsys.readouterr().err


def test_staleness_that_was_logged_is_in_the_report(tmp_path):
    exact = STALENESS.base
    for value, behind in ((1, [0, 1, 1, 2]), (4, [0, 4])):
        folder = train.Run(STALENESS, exact, value, 1).folder(tmp_path)
        (folder / "logs").mkdir(parents=True)
        (folder / "done").touch()
        rows = [json.dumps({"kind": "train", "async/staleness": versions}) for versions in behind]
        (folder / "logs" / "metrics.jsonl").write_text("\n".join([*rows, '{"kind": "eval"}']), encoding="utf-8")
    lines = report.staleness(STALENESS, tmp_path, 1).splitlines()
    assert lines[0] == "| arm | queue 0 | queue 1 | queue 2 | queue 4 | queue 8 |"
    assert lines[2:] == ["| RPG-REINFORCE-URKL | – | 1.00 | – | 2.00 | – |"]


def test_staleness_compares_accuracies(tmp_path):
    by_arm = {arm: scores(0.01 * place) for place, arm in enumerate(STALENESS.arms)}
    first, *others = report.table(STALENESS, by_arm, 4).splitlines()
    assert first == "| arm | runs | KL a reply | accuracy | accuracy less that of the first | p | p, Holm |"
    assert others[1].startswith("| RPG-REINFORCE-URKL | 12 | 1.00 | 0.500 |")
    report.draw(STALENESS, dict.fromkeys(STALENESS.values, by_arm), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
