"""votes.json for maj@n: the answers of a problem's samples, grouped by equivalence.

All right answers are one group. The others are grouped by equal text; then the grader compares the texts, the most
frequent first, with the first text of every group. `ambiguous` answers (several candidates), `timeout` answers (too
costly to compare) and those beyond the limits below are grouped by equal text only. Samples without an answer do not
vote, but are counted.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evaluation.grading.graded_row import Row, grader_version
from evaluation.problems.golds import plain_integer
from rpg_openrlhf.rewards.extraction import extract_answer
from rpg_openrlhf.rewards.grading import grade

MAX_COMPARISONS = 300  # of one problem
MAX_LENGTH = 300  # characters of an answer that is compared

_SPACES = re.compile(r"(?:\s|\\[ ,;!]|~)+")


def text_key(answer: str) -> str:
    """Key by which answers are equal as text: integers by value, without spacing and dollar signs."""
    text = answer[:20_000].strip()
    integer = plain_integer(text) if len(text) < MAX_LENGTH else None
    if integer is not None:
        return integer
    text = text.replace("$", "").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = text.replace("\\left", "").replace("\\right", "").rstrip(". ")
    return _SPACES.sub(_space, text)


def _space(match: re.Match[str]) -> str:
    r"""Keep a space between letters or digits, where it has a meaning: \pi x is not \pix."""
    around = match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]
    return " " if all(character.isalnum() for character in around) else ""


def group_answers(texts: Sequence[str]) -> list[int]:
    """Group number of each text. Comparisons are bounded; a text beyond the bound is a group of its own."""
    labels: list[int] = []
    firsts: list[tuple[int, str, bool]] = []
    left = MAX_COMPARISONS
    for text in texts:
        response = _as_response(text) if len(text) <= MAX_LENGTH else None
        is_integer = plain_integer(text) is not None
        label = len(labels)
        for number, first, first_is_integer in firsts if response else ():
            if is_integer and first_is_integer:
                continue  # two integers of different text differ
            if left == 0:
                break
            left -= 1
            if grade(response or "", first).is_correct:
                label = number
                break
        labels.append(label)
        if label == len(labels) - 1 and response:
            firsts.append((label, text, is_integer))
    return labels


def _as_response(answer: str) -> str | None:
    """A response whose answer is exactly this text, None if there is none."""
    for form in ("Answer: {}", "\\boxed{{{}}}"):
        response = form.format(answer)
        if extract_answer(response) == answer:
            return response
    return None


def comparable(rows: Iterable[Row]) -> tuple[str, ...]:
    """One text for each distinct wrong answer, the most frequent first: the input of `group_answers`."""
    counts: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for row in rows:
        if row["reason"] == "wrong" and row["extracted"] is not None:
            key = text_key(row["extracted"])
            counts[key] += 1
            shown[key] = min(shown.get(key, row["extracted"]), row["extracted"], key=lambda text: (len(text), text))
    return tuple(shown[key] for key in sorted(counts, key=lambda key: (-counts[key], key)))


def problem_votes(rows: Sequence[Row], texts: Sequence[str], labels: Sequence[int]) -> dict[str, Any]:
    """One problem's entry of votes.json; `texts` and `labels` from `comparable` and `group_answers`."""
    label_of = {text_key(text): label for text, label in zip(texts, labels, strict=True)}
    members: dict[Any, Counter[str]] = {}
    for row in rows:
        if row["extracted"] is None and not row["correct"]:
            continue
        key: Any = text_key(row["extracted"] or "")
        group = "right" if row["correct"] else label_of.get(key, key)
        members.setdefault(group, Counter())[row["extracted"] or ""] += 1
    groups = [
        {
            "answer": min(counts, key=lambda text: (-counts[text], text)),
            "count": counts.total(),
            "correct": group == "right",
        }
        for group, counts in members.items()
    ]
    groups.sort(key=lambda group: (-group["count"], not group["correct"], group["answer"]))
    top = [group["correct"] for group in groups if group["count"] == groups[0]["count"]]
    return {
        "n": len(rows),
        "correct": sum(row["correct"] for row in rows),
        "strict": sum(row["strict"] for row in rows),
        "no_answer": sum(row["reason"] in ("no_answer", "truncated") for row in rows),
        "truncated": sum(row["finish_reason"] == "length" for row in rows),
        "timeout": sum(row["reason"] == "timeout" for row in rows),
        "groups": groups,
        "majority": sum(top) / len(top) if top else 0.0,
    }


def digest_of(rows: Iterable[Row]) -> str:
    """Digest of the verdicts, so that unchanged ones are not counted again. Order does not matter."""
    lines = sorted(json.dumps(row, sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def count_votes(rows: Iterable[Row]) -> dict[str, Any]:
    """The content of votes.json for rows of graded.jsonl."""
    problems: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        problems.setdefault((row["benchmark"], row["problem"]), []).append(row)
    verdicts: dict[str, dict[str, Mapping[str, Any]]] = {}
    for (benchmark, problem), samples in problems.items():
        texts = comparable(samples)
        verdicts.setdefault(benchmark, {})[problem] = problem_votes(samples, texts, group_answers(texts))
    every = [row for samples in problems.values() for row in samples]
    return {"grader": grader_version(), "verdicts": digest_of(every), "benchmarks": verdicts}
