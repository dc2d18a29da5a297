"""The sampler with engines that answer at once: what is stored, what is told, what one bad folder costs."""

import json
from pathlib import Path

import pytest

from evaluation.problems.prompting import prompter_for, style_of
from evaluation.sampling import sampler as module
from evaluation.sampling.replicas import Completion, ReplicaRefused
from evaluation.settings import parse
from evaluation.targets import Opened, Target


class Replica:
    """Answers everything right; refuses models that are named bad, is interrupted at those named stop."""

    name, capacity, dtype = "fake", 3, "bfloat16"

    def __init__(self, model):
        self.model, self.held = model, []

    def start(self):
        if self.model == "bad":
            raise ReplicaRefused("no weights")

    def ready(self):
        return True

    def submit(self, requests):
        self.held += requests

    def poll(self, timeout):
        if self.model == "stop":
            raise KeyboardInterrupt
        done, self.held = self.held, []
        return [Completion(r.key, "Answer: 2", 5, "stop") for r in done]

    def close(self):
        pass


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """Sample folders named as their models, two samples of three problems each; the errors."""
    monkeypatch.setattr(module, "replica_of", lambda settings, opened, slot: Replica(opened.name))

    def run(*names, n=2):
        settings = parse(["--model", "m", "--output", str(tmp_path), "--prompt", "raw", "--n", str(n)])
        opened = [prepared(tmp_path / name, name, n) for name in names]
        return {folder.name: reason for folder, reason in module.sample(settings, opened).items()}

    return run


def prepared(folder: Path, name: str, n: int) -> Opened:
    folder.mkdir(exist_ok=True)
    rows = [
        {
            "benchmark": "b",
            "problem": p,
            "text": "1+1",
            "gold": "2",
            "golds": ["2"],
            "tolerance": None,
            "prompt": "1+1",
        }
        for p in "xyz"
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = {"source": "b", "revision": None, "sha256": "s", "rows": 3, "rows_used": 3, "answer_type": "integer"}
    settings = {"label": name, "model": {"name": name, "step": None}, "n": n, "limit": None, "sampling": {}}
    settings |= {"prompt": {"style": "raw", "template": "{problem}"}, "benchmarks": {"b": benchmark}}
    (folder / "settings.json").write_text(json.dumps(settings))
    prompter = prompter_for(style_of("raw"), False, None, None)
    return Opened(Target(name, folder, None, name), name, None, prompter, rows)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_bad_model_and_a_bad_folder_stop_no_other(sample, tmp_path):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "samples.jsonl").write_text("{}\n")
    errors = sample("damaged", "bad", "good")
    assert set(errors) == {"damaged", "bad"}
    assert "samples.jsonl:1 is not a sample" in errors["damaged"]
    assert errors["bad"] == "no weights"
    results = read(tmp_path / "good" / "results.json")
    assert (results["complete"], results["samples"]) == (True, 6)
    assert results["benchmarks"]["b"]["mean"]["value"] == 1.0
    assert results["provenance"]["dtype"] == "bfloat16"


def test_sessions_add_up(sample, tmp_path):
    sample("good")
    sample("good")  # nothing is missing, so nothing is added
    sample("good", n=3)
    found = read(tmp_path / "good" / "provenance.json")
    assert [session["samples"] for session in found["sessions"]] == [6, 3]
    assert found["generated_tokens"] == 45


def test_an_interruption_counts_nothing_twice(sample, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        sample("good", "stop")
    assert read(tmp_path / "good" / "provenance.json")["generated_tokens"] == 30
    lines = (tmp_path / "good" / "samples.jsonl").read_text().splitlines()
    assert len(lines) == 6
