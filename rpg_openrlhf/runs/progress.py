"""Progress of a run: one line per step on the console, and the same numbers in metrics.jsonl."""

import json
import math
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from ray.util.queue import Empty, Queue

NO_ANSWER_ALARM = 0.5  # above this share of responses without an answer, training learns little but the format

SILENCE = 60.0  # seconds without output, after which the current phase is printed


class ProgressReader(threading.Thread):
    """Thread that reads the trainer's reports until `finish`, prints to `console` and appends to `path`."""

    def __init__(self, reports: Queue, path: Path, console: TextIO, tell: Callable[[dict], None]):
        """Set up the reader. It calls `tell` with each phase of a step as it begins."""
        super().__init__(daemon=True)
        self.reports, self.console, self.tell = reports, console, tell
        self.file = path.open("a", encoding="utf-8")
        self.rollouts = 0
        self.started = time.monotonic()
        self.steps_seen = 0
        self.done = threading.Event()
        self.last_step = 0
        self.phase, self.phase_began = "start", self.started
        self.printed = self.started
        self.refresh: dict | None = None  # a refresh that waits for the KL after it, which the next step reports

    def run(self) -> None:
        """Read until `finish` is called and the queue is empty."""
        while True:
            try:
                report = self.reports.get(timeout=0.5)
            except (Empty, queue.Empty):
                if self.done.is_set():
                    return
                self._break_silence()
                continue
            except Exception:  # Ray is shutting down; the driver reports why
                return
            self._handle(report)

    def finish(self) -> None:
        """Print what is still in the queue, then stop."""
        self.done.set()
        self.join(timeout=10)
        self._end_refresh(None)
        self.file.close()

    def _print(self, *lines: str) -> None:
        print(*lines, sep="\n", file=self.console, flush=True)
        self.printed = time.monotonic()

    def _break_silence(self) -> None:
        """Print the current phase if nothing has been printed for a minute."""
        if time.monotonic() - self.printed > SILENCE:
            self._print(f"{self.phase}: {time.monotonic() - self.phase_began:.0f} s")

    def _handle(self, report: dict) -> None:
        kind = report.pop("kind")
        if kind == "phase":
            self.tell({"phase": report["name"]})
            self.phase, self.phase_began = report["name"], time.monotonic()
            return
        if kind == "note":
            self._print(report["text"])
            return
        if kind == "start":
            self.rollouts = int(report["rollouts"])
            return
        report["time"] = time.time()
        if kind == "refresh":
            self.refresh = report
            if "kl_after" in report:
                self._end_refresh(report["kl_after"])
            return
        if kind == "train":
            self.steps_seen += 1
            self.last_step = int(report["step"])
            self._end_refresh(report.get("ref/kl_start"))
            lines = [train_line(report, self.rollouts, self._eta(report["step"])), *warnings(report)]
        elif kind == "resume":
            self.last_step = int(report["step"])
            lines = []
        else:
            lines = [eval_line(report), *eval_warnings(report)]
        self._record(kind, report, lines)

    def _end_refresh(self, kl_after: float | None) -> None:
        """Record the waiting refresh, if there is one. `kl_after` is None if the run ended before measuring it."""
        if self.refresh:
            refresh, self.refresh = {**self.refresh, "kl_after": kl_after}, None
            # ema moves the reference at every step: the steps' own lines are enough.
            self._record("refresh", refresh, [] if refresh["reason"] == "ema" else [refresh_line(refresh)])

    def _record(self, kind: str, report: dict, lines: list[str]) -> None:
        if lines:
            self._print(*lines)
        infinite = {name: None for name, v in report.items() if isinstance(v, float) and not math.isfinite(v)}
        self.file.write(json.dumps({"kind": kind, **report, **infinite}, allow_nan=False) + "\n")
        self.file.flush()

    def _eta(self, step: float) -> float:
        if self.steps_seen == 1:  # the first step includes the engines' warm-up
            self.started = time.monotonic()
            return float("nan")
        return (time.monotonic() - self.started) / (self.steps_seen - 1) * (self.rollouts - step)


def log_up_to(path: Path, ckpt: SimpleNamespace) -> Path:
    """Cut the log at `path` back to the step that the run resumes, since it repeats later steps; return `path`.

    A run from the start renames an existing log to `metrics.previous.jsonl`.
    """
    if not path.exists():
        return path
    if not ckpt.load_enable:
        path.replace(path.with_name("metrics.previous.jsonl"))
        return path
    last, kept = ckpt.resumed_step, []
    evaluated = Path(ckpt.resume_from).name.startswith("best")
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
            again = row["step"] > last or (row["step"] == last and row["kind"] == "eval" and not evaluated)
            if not again and line.endswith(b"\n"):
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # a line that was cut off when the run was killed
    part = path.with_name(".metrics.jsonl")
    part.write_bytes(b"".join(kept))
    part.replace(path)
    return path


def train_line(report: dict, rollouts: int, eta: float) -> str:
    """Line of a step on the console, without metrics that the run does not measure."""
    parts = [
        f"step {int(report['step']):>{len(str(rollouts))}}/{rollouts}",
        f"reward {report['rollout/reward_mean']:+.3f}",
    ]
    named = [
        ("score", "accuracy {:.3f}"),
        ("policy/kl_ref_k3", "KL {:.4f}"),
        ("kl", "KL {:.4f}"),
        ("entropy_loss", "entropy {:.3f}"),
        ("rollout/response_length_mean", "length {:.1f}"),
        ("tokens_per_second", "{:,.0f} tokens/s"),
        ("timing/step_total", "{:.1f} s"),
    ]
    for key, text in named:
        if key in report and not (key == "kl" and "policy/kl_ref_k3" in report):
            parts.append(text.format(report[key]))
    if eta == eta:
        parts.append(f"ETA {int(eta) // 60}:{int(eta) % 60:02d}")
    return "  ".join(parts)


def warnings(report: dict) -> list[str]:
    """Warnings about this step."""
    lines = []
    if report.get("no_answer", 0.0) > NO_ANSWER_ALARM:
        lines.append(
            f"WARNING: {report['no_answer']:.0%} of the responses hold no answer (`Answer:` or a closed \\boxed{{}}): "
            "check the prompt, --data.apply_chat_template and --rollout.max_new_tokens"
        )
    if report.get("grade_timeout", 0.0) > 0:
        share = f"{report['grade_timeout']:.1%}"
        lines.append(f"note: {share} of the answers are too costly to compare (counted as wrong)")
    return lines


def refresh_line(report: dict) -> str:
    """Line of a refresh of the reference on the console."""
    after = "not measured" if report["kl_after"] is None else f"{report['kl_after']:.4f}"
    return (
        f"reference moved after step {int(report['step'])} ({report['reason']})  "
        f"KL {report['kl_before']:.4f} before, {after} after"
    )


def eval_line(report: dict) -> str:
    """Line of an evaluation on the console: its scores by benchmark."""
    by_benchmark: dict[str, list[str]] = {}
    for key, value in report.items():
        place, _, kind = key.removeprefix("eval/").rpartition("/")
        if place and kind.startswith(("mean@", "pass@")):
            by_benchmark.setdefault(place, [place]).append(f"{kind} {value:.3f}")
    seconds = [f"{report['timing/evaluate']:.1f} s"] if "timing/evaluate" in report else []
    return "  ".join([f"eval at step {int(report['step'])}", *map(" ".join, by_benchmark.values()), *seconds])


def eval_warnings(report: dict) -> list[str]:
    """Warnings about benchmarks whose responses mostly hold no answer, so that the score measures the format."""
    shares = {key.split("/")[1]: share for key, share in report.items() if key.endswith("/no_answer")}
    return [
        f"WARNING: {share:.0%} of the responses to {name} hold no answer: see docs/logs.md, `no_answer`"
        for name, share in shares.items()
        if share > NO_ANSWER_ALARM
    ]
