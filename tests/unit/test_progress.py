"""What a person reads of a run, and what metrics.jsonl keeps."""

import io
import json
import re
from types import SimpleNamespace

import pytest
from ray.util.queue import Empty

from rpg_openrlhf.runs import progress
from rpg_openrlhf.runs.progress import ProgressReader, eval_line, eval_warnings, train_line, warnings

STEP = {
    "step": 7,
    "rollout/reward_mean": 0.25,
    "rollout/response_length_mean": 12.34,
    "score": 0.625,
    "policy/kl_ref_k3": 0.00123,
    "kl": 9.0,
    "entropy_loss": 1.5,
    "tokens_per_second": 12345.6,
    "timing/step_total": 3.21,
}


def test_train_line_has_everything_in_order():
    line = train_line(STEP, rollouts=150, eta=125.9)
    assert line == (
        "step   7/150  reward +0.250  accuracy 0.625  KL 0.0012  entropy 1.500  length 12.3  12,346 tokens/s  3.2 s"
        "  ETA 2:05"
    )


def test_train_line_leaves_out_what_is_not_measured():
    report = {"step": 3, "rollout/reward_mean": -1.0}
    assert train_line(report, rollouts=3, eta=float("nan")) == "step 3/3  reward -1.000"


def test_upstreams_kl_is_shown_where_ours_is_not():
    report = {name: value for name, value in STEP.items() if name != "policy/kl_ref_k3"}
    assert re.findall(r"KL \S+", train_line(report, 10, 0.0)) == ["KL 9.0000"]


@pytest.mark.parametrize(("share", "warned"), [(0.0, False), (0.5, False), (0.51, True), (1.0, True)])
def test_responses_without_an_answer_are_loud(share, warned):
    lines = warnings({"no_answer": share})
    assert bool(lines) == warned
    assert not warned or (lines[0].startswith(f"WARNING: {share:.0%} of the responses hold no answer"))


def test_answers_too_costly_to_compare_are_noted():
    assert warnings({"grade_timeout": 0.0}) == []
    assert warnings({"grade_timeout": 0.015}) == [
        "note: 1.5% of the answers are too costly to compare (counted as wrong)"
    ]
    assert len(warnings({"no_answer": 0.9, "grade_timeout": 0.1})) == 2
    assert warnings({}) == []


EVALUATION = {
    "eval/aime24/mean@4": 0.5,
    "eval/aime24/pass@4": 0.75,
    "eval/aime24/truncated_rate": 0.125,
    "eval/amc23/mean@4": 0.25,
    "eval/mean@4": 0.375,
    "eval/num_samples": 32.0,
    "timing/evaluate": 3.21,
}


def test_eval_line_has_the_scores_by_benchmark():
    line = eval_line({"step": 4, "time": 1.7e9, **EVALUATION})
    assert line == "eval at step 4  aime24 mean@4 0.500 pass@4 0.750  amc23 mean@4 0.250  3.2 s"


def test_a_benchmark_without_answers_is_loud():
    assert eval_warnings({"eval/aime24/no_answer": 0.5, "no_answer": 0.9}) == []
    (line,) = eval_warnings({"eval/aime24/no_answer": 0.75, "eval/amc23/no_answer": 0.0})
    assert line.startswith("WARNING: 75% of the responses to aime24 hold no answer")


class Reports:
    """A queue like Ray's: the reports, then Empty, or the error of a cluster that is gone."""

    def __init__(self, *reports: dict, gone: bool = False):
        self.reports, self.gone = [dict(report) for report in reports], gone

    def get(self, timeout: float) -> dict:
        if self.reports:
            return self.reports.pop(0)
        raise ConnectionError("no cluster") if self.gone else Empty


def report(kind: str, step: int, **values: float) -> dict:
    train = {"rollout/reward_mean": 0.5, "rollout/num_samples": 64.0, "rollout/response_length_mean": 10.0}
    return {"kind": kind, "step": step, **(train if kind == "train" else {}), **values}


def read(path, *reports: dict, gone: bool = False) -> tuple[list[str], list[dict]]:
    """Lines on the console and records of metrics.jsonl once a reader has finished."""
    console = io.StringIO()
    reader = ProgressReader(Reports(*reports, gone=gone), path, console, tell=lambda event: None)
    reader.start()
    reader.finish()
    assert not reader.is_alive()
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return console.getvalue().splitlines(), records


def test_reader_prints_and_writes_every_report(tmp_path):
    """The start tells how many rollouts to expect; every other report is a line and a record with its time."""
    lines, records = read(
        tmp_path / "metrics.jsonl",
        report("start", 0, rollouts=2.0),
        report("train", 1, **{"timing/step_total": 2.0, "tokens_per_second": 320.0, "no_answer": 0.75}),
        report("eval", 1, **{"eval/math/mean@1": 0.5}),
        report("train", 2, **{"timing/step_total": 4.0, "tokens_per_second": 160.0}),
    )
    assert [line.split("  ")[0] for line in lines] == ["step 1/2", lines[1], "eval at step 1", "step 2/2"]
    assert lines[1].startswith("WARNING: 75%")
    assert "320 tokens/s" in lines[0]
    assert "160 tokens/s" in lines[3]
    assert "ETA" not in lines[0], "the first step's duration says little"
    assert lines[3].endswith("ETA 0:00")
    assert [(record["kind"], record["step"]) for record in records] == [("train", 1), ("eval", 1), ("train", 2)]
    assert records[0]["no_answer"] == 0.75
    assert all(record["time"] > 1.7e9 for record in records)


REFRESH = {"reason": "kl", "kl_before": 0.02}


def test_a_refresh_with_its_kl_is_told_at_once(tmp_path):
    lines, records = read(
        tmp_path / "metrics.jsonl",
        report("train", 1),
        report("refresh", 1, **REFRESH, kl_after=0.0),
        report("train", 2),
    )
    assert lines[1] == "reference moved after step 1 (kl)  KL 0.0200 before, 0.0000 after"
    assert [record["kind"] for record in records] == ["train", "refresh", "train"]
    assert records[1].items() >= {"step": 1, "reason": "kl", "kl_before": 0.02, "kl_after": 0.0}.items()


def test_a_mix_waits_for_the_next_steps_measurement(tmp_path):
    """Which is made before that step's training; the last one is told without."""
    lines, records = read(
        tmp_path / "metrics.jsonl",
        *(report("train", 1), report("refresh", 1, **REFRESH), report("train", 2, **{"ref/kl_start": 0.015})),
        report("refresh", 2, **REFRESH),
    )
    assert [line.split("before, ")[-1] for line in lines if "moved" in line] == ["0.0150 after", "not measured after"]
    assert [(r["step"], r["kl_after"]) for r in records if r["kind"] == "refresh"] == [(1, 0.015), (2, None)]


def test_a_mix_at_every_step_is_recorded_but_not_told(tmp_path):
    ema = {**REFRESH, "reason": "ema"}
    lines, records = read(tmp_path / "metrics.jsonl", report("train", 1), report("refresh", 1, **ema))
    assert len(lines) == 1
    assert records[1]["reason"] == "ema"


def test_reader_of_a_resumed_run_appends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    read(path, report("train", 1))
    assert [record["step"] for record in read(path, report("train", 2))[1]] == [1, 2]


def test_a_phase_is_passed_on_and_not_recorded(tmp_path):
    told = []
    reader = ProgressReader(Reports(), tmp_path / "metrics.jsonl", io.StringIO(), told.append)
    reader._handle({"kind": "phase", "name": "sync"})
    reader.file.close()
    assert told == [{"phase": "sync"}]
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_steps_that_are_taken_again_leave_the_log(tmp_path):
    """As does a line that a kill cut off; a refresh and an evaluation stay or go with their step."""
    path = tmp_path / "metrics.jsonl"
    kept = '{"kind": "train", "step": 1}\n{"kind": "eval", "step": 1.0}\n{"kind": "refresh", "step": 2}\n'
    owed = '{"kind": "eval", "step": 2}\n'
    path.write_text(kept + owed + '{"kind": "train", "step": 3}\n{"kind": "tr')
    best = SimpleNamespace(load_enable=True, resumed_step=2, resume_from="c/best_global_step2")
    assert progress.log_up_to(path, best) == path
    assert path.read_text() == kept + owed
    progress.log_up_to(path, SimpleNamespace(load_enable=True, resumed_step=2, resume_from="c/global_step2"))
    assert path.read_text() == kept, "an evaluation that followed the checkpoint is made again"
    progress.log_up_to(path, SimpleNamespace(load_enable=False, resumed_step=0))
    assert not path.exists()
    assert (tmp_path / "metrics.previous.jsonl").read_text() == kept


def test_reader_ends_with_the_cluster(tmp_path):
    """Whoever started the run reports why; the reader keeps what it has."""
    lines, records = read(tmp_path / "metrics.jsonl", report("train", 1), gone=True)
    assert len(lines) == len(records) == 1


def test_eta_is_the_mean_step_times_what_is_left(tmp_path, monkeypatch):
    """The first step is left out of the mean: it carries the engines' warm-up."""
    clock = iter([0.0, 100.0, 103.0, 106.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock), time=lambda: 0.0))
    monkeypatch.setattr(ProgressReader, "_print", lambda self, *lines: print(*lines, sep="\n", file=self.console))
    reader = ProgressReader(Reports(), tmp_path / "metrics.jsonl", console := io.StringIO(), lambda event: None)
    for each in (report("start", 0, rollouts=10.0), *(report("train", step) for step in (1, 2, 3))):
        reader._handle(each)
    reader.file.close()
    assert re.findall(r"ETA \S+", console.getvalue()) == ["ETA 0:24", "ETA 0:21"]


def test_silence_is_broken_once_a_minute(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: 0.0))
    reader = ProgressReader(Reports(), tmp_path / "metrics.jsonl", console := io.StringIO(), lambda event: None)
    reader._handle({"kind": "phase", "name": "generate"})
    for now[0] in (30.0, 61.0, 90.0, 122.0):
        reader._break_silence()
    reader.file.close()
    assert console.getvalue().splitlines() == ["generate: 61 s", "generate: 122 s"]


def test_numbers_that_are_not_finite_are_null_in_the_log(tmp_path):
    _, records = read(tmp_path / "metrics.jsonl", report("train", 1, odd=float("nan")))
    assert records[0]["odd"] is None
