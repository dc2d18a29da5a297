"""The quickstart's scripts: disjoint problems, right replies, a faithful tokenizer, a report, bad input refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from rpg_openrlhf.rewards.grading import grade

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "quickstart"
sys.path.insert(0, str(FOLDER))

import arithmetic

from rpg_openrlhf.problems import arithmetic as sums

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a script of the folder as a user would."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def step_metrics(step: int, **more: float) -> dict[str, float]:
    """A line of metrics.jsonl."""
    return {"step": step, "reward": step / 10 - 1, "score": step / 20, "response_length": 30 + step, **more}


def write_evaluation(folder: Path, *shares: float) -> None:
    """What evaluation.run leaves of a series, as far as the report reads it; every tenth step, from 0."""
    listed = [{"step": 10 * i, "folder": f"step_{i}", "status": "done"} for i in range(len(shares))]
    failed = {"step": 99, "folder": "step_99", "status": "failed"}
    for one, share in zip(listed, shares, strict=True):
        (folder / one["folder"]).mkdir(parents=True)
        mean = {"value": share, "low": share - 0.04, "high": share + 0.04}
        results = {"benchmarks": {"heldout": {"mean": mean, "problems": 250, "samples": 1000}}}
        (folder / one["folder"] / "results.json").write_text(json.dumps(results))
    (folder / "series.json").write_text(json.dumps({"checkpoints": [*listed, failed]}))


@pytest.fixture
def run_files(tmp_path: Path) -> dict[str, Path]:
    """The three files a report reads."""
    keys = (
        "policy/kl_old_k3",
        "policy/kl_ref_k3",
        "entropy_loss",
        "timing/generation",
        "timing/ppo_train",
        "timing/step_total",
    )
    weights = {
        "policy/importance_weight_min": 0.5,
        "policy/importance_weight_mean": 1.0,
        "policy/importance_weight_max": 2.0,
    }
    rows = [step_metrics(i, **dict.fromkeys(keys, 0.1 * i), **weights) for i in range(1, 11)]
    files = {name: tmp_path / name for name in ("metrics", "evaluation", "warm_up")}
    files["metrics"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    files["warm_up"].write_text(json.dumps({"worked_share": 0.45}))
    write_evaluation(files["evaluation"], 0.4, 0.95)
    return files


def test_no_problem_or_its_mirror_is_in_two_sets():
    sets = {split: sums.distinct(split, 3000, seed) for seed, split in enumerate(sums.SPLITS)}
    unordered = {split: {tuple(sorted(problem)) for problem in chosen} for split, chosen in sets.items()}
    assert not unordered["warm_up"] & unordered["rl"]
    assert not unordered["warm_up"] & unordered["heldout"]
    assert not unordered["rl"] & unordered["heldout"]
    assert all(len(set(chosen)) == 3000 for chosen in sets.values())


def test_every_problem_stays_in_its_set_when_the_order_and_seed_change():
    for split in sums.SPLITS:
        for seed in (0, 7):
            for a, b in islice(sums.problems(split, seed), 500):
                assert sums.split_of((a, b)) == sums.split_of((b, a)) == split


def test_written_files_share_no_problem(tmp_path: Path):
    arithmetic.main(["--out", str(tmp_path), "--rl", "800", "--heldout", "200"])
    rl, heldout = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("rl", "heldout")
    )
    assert (len(rl), len(heldout)) == (800, 200)
    assert not {row["input"] for row in rl} & {row["problem"] for row in heldout}
    assert all(row["input"].endswith("=\n") and set(row) == {"input", "label"} for row in rl)


@pytest.mark.parametrize("reply", [arithmetic.direct_reply, arithmetic.worked_reply])
def test_every_reply_of_the_warm_up_is_graded_right(reply):
    for problem in islice(sums.problems("warm_up", 3), 300):
        assert grade(reply(problem), sums.gold(problem)).is_correct
        assert not grade(reply(problem), str(sum(problem) + 1)).is_correct


def test_every_line_of_the_working_is_true():
    for a, b in islice(sums.problems("warm_up", 4), 300):
        columns, answer = arithmetic.worked_reply((a, b)).split("\n")
        totals = [column.split("=") for column in columns.split(" ")]
        assert all(sum(map(int, left.split("+"))) == int(right) for left, right in totals)
        digits = "".join(right[1] for _, right in reversed(totals))
        carry = totals[-1][1][0].strip("0")
        assert answer == f"Answer: {carry}{digits}" == f"Answer: {a + b}"


def test_chat_rows_use_the_published_prompt():
    row = arithmetic.rl_row((1234, 5678), chat=True)
    assert "What is 1234 + 5678?" in row["input"]
    assert "Answer:" in row["input"]
    assert row["label"] == "6912"
    held_out = arithmetic.benchmark_row((1234, 5678), chat=True)
    assert held_out == {"id": "1234+5678", "problem": "What is 1234 + 5678?", "answer": "6912"}


def test_warm_up_saves_a_folder_that_loads_and_keeps_text_as_it_is(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    first = run("warm_up.py", "--out", tmp_path / "policy", "--steps", 2)
    assert first.returncode == 0, first.stderr
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "policy")
    for problem in islice(sums.problems("rl", 0), 50):
        text = sums.prompt(problem) + arithmetic.worked_reply(problem)
        tokens = tokenizer.encode(text)
        assert len(tokens) == len(text)
        assert tokenizer.decode(tokens) == text
        ended = [*tokens, tokenizer.eos_token_id, tokenizer.pad_token_id]
        assert tokenizer.decode(ended, skip_special_tokens=True) == text
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype="auto")
    assert str(model.dtype) == "torch.bfloat16"
    assert model.config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id == model.config.pad_token_id
    again = run("warm_up.py", "--out", tmp_path / "policy", "--steps", 2)
    assert "already exists" in again.stdout


def test_report_draws_and_says_where_things_are(run_files: dict[str, Path], tmp_path: Path):
    pytest.importorskip("matplotlib")
    arguments = [part for name, path in run_files.items() for part in (f"--{name}", path)]
    done = run("report.py", *arguments, "--png", tmp_path / "curves.png", "--checkpoint", tmp_path / "policy")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG_MAGIC)
    for expected in (
        "before RL      0.400  [0.360, 0.440]",
        "after step 10  0.950",
        "4 samples each of 250 held-out problems",
        "report.html",
        "45% worked",
        str(tmp_path / "policy"),
        "curves.png",
    ):
        assert expected in done.stdout


def test_report_draws_a_run_that_logged_almost_nothing(tmp_path: Path):
    pytest.importorskip("matplotlib")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "reward": 0.5}) + "\n")
    done = run("report.py", "--metrics", tmp_path / "metrics.jsonl", "--png", tmp_path / "curves.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG_MAGIC)


BAD = {
    "no problems asked for": ("arithmetic.py", ["--out", "{tmp}/data", "--rl", "0"], "from 1 to"),
    "not a number": ("arithmetic.py", ["--out", "{tmp}/data", "--rl", "many"], "many"),
    "a file where a folder should be": ("arithmetic.py", ["--out", "{tmp}/file"], "file"),
    "no steps": ("warm_up.py", ["--out", "{tmp}/policy", "--steps", "0"], "--steps"),
    "negative seed": ("warm_up.py", ["--out", "{tmp}/policy", "--seed", "-1"], "--seed"),
    "someone else's folder": ("warm_up.py", ["--out", "{tmp}", "--steps", "1"], "not be replaced"),
    "no evaluation": (
        "report.py",
        ["--metrics", "{tmp}/file", "--evaluation", "{tmp}/no", "--png", "{tmp}/c.png"],
        "does not exist",
    ),
    "no metrics": ("report.py", ["--metrics", "{tmp}/none", "--png", "{tmp}/c.png"], "does not exist"),
    "metrics that are not JSON": ("report.py", ["--metrics", "{tmp}/file", "--png", "{tmp}/c.png"], ":1"),
}


@pytest.mark.parametrize(("script", "arguments", "named"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_in_one_line(script: str, arguments: list[str], named: str, tmp_path: Path):
    (tmp_path / "file").write_text("not json\n")
    done = run(script, *[argument.replace("{tmp}", str(tmp_path)) for argument in arguments])
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(said) == 1
    assert named in said[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("moved", "marks"), [([0, 1, 0, 1], 2), ([1, 1, 1, 1], 0), ([0, 0, 0, 0], 0)])
def test_report_marks_where_the_reference_moved(moved: list[int], marks: int, monkeypatch):
    """A vertical line each, and none where it moves after every step."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(FOLDER))
    import report

    rows = [
        {"step": i + 1, "policy/kl_old_k3": 0.1, "policy/kl_ref_k3": 0.2 + i, "ref/refresh": float(each)}
        for i, each in enumerate(moved)
    ]
    figure, axes = report.plt.subplots()
    report.draw_kl(axes, rows)
    found = [line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == ":"]
    report.plt.close(figure)
    assert found == [i + 1 for i, each in enumerate(moved) if each][:marks]
