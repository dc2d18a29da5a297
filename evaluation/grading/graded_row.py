"""Row of graded.jsonl for a sample, and the version of everything that decides it."""

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import rpg_openrlhf
from evaluation.grading.custom_reward import CustomReward
from evaluation.grading.strict import strict_verdict
from evaluation.problems.golds import judge
from rpg_openrlhf.rewards.grading import Verdict

REASONS = ("correct", "wrong", "no_answer", "ambiguous", "timeout", "truncated")

Row = dict[str, Any]
Key = tuple[str, str, int]


def key_of(row: Mapping[str, Any]) -> Key:
    """(benchmark, problem, sample) of a row of samples.jsonl or graded.jsonl."""
    return row["benchmark"], row["problem"], row["sample"]


_reward: CustomReward | None = None


def use_reward(path: Path | None) -> None:
    """Let a file's reward_func decide what is right in this process, or the grader if None. RewardError."""
    global _reward
    _reward = None if path is None else CustomReward(path)


def foreign_reward(rows: Iterable[Row]) -> str | None:
    """Version of a reward function that decided some of the rows and is not in use now; None if there is none."""
    return next((row["grader"] for row in rows if ".py+" in row["grader"] and row["grader"] != grader_version()), None)


def grader_version() -> str:
    """Version of the grader, or of the user's reward function if one is in use."""
    return _reward.version if _reward else _own_version()


@lru_cache(maxsize=1)
def _own_version() -> str:
    """The package's version and a hash of the sources that decide verdicts."""
    here, rewards = Path(__file__).parent, Path(rpg_openrlhf.__file__).parent / "rewards"
    digest = hashlib.sha256()
    ours = (here.parent / "problems" / "golds.py", here / "strict.py", here / "graded_row.py", here / "votes.py")
    for path in (*sorted(rewards.glob("*.py")), *rewards.glob("*.yaml"), *ours):
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    with contextlib.suppress(PackageNotFoundError):
        digest.update(f"mpmath {version('mpmath')}\0".encode())
    return f"{rpg_openrlhf.__version__}+{digest.hexdigest()[:12]}"


def graded_row(problem: Mapping[str, Any], sample: Mapping[str, Any], form: str) -> Row:
    """Verdicts on one sample; `form` is the form that the prompt asks for, `answer` or `boxed`."""
    verdict = judge(problem, sample["text"])
    if _reward:
        is_right = _reward.is_right(problem, sample["text"])
        verdict = Verdict(is_right, verdict.extracted, "correct" if is_right else "wrong")
    is_strict, strict_extracted = strict_verdict(sample["text"], problem.get("golds") or (problem["gold"],), form)
    is_cut = verdict.reason == "no_answer" and sample["finish_reason"] == "length"
    reason = "truncated" if is_cut else verdict.reason
    return {
        "benchmark": sample["benchmark"],
        "problem": sample["problem"],
        "sample": sample["sample"],
        "correct": verdict.is_correct,
        "strict": is_strict,
        "reason": reason,
        "extracted": verdict.extracted,
        "strict_extracted": strict_extracted,
        "tokens": sample["tokens"],
        "finish_reason": sample["finish_reason"],
        "grader": grader_version(),
    }
