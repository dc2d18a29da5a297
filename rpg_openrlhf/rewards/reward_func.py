"""OpenRLHF's reward entry point: `--reward.remote_url rpg_openrlhf/rewards/reward_func.py`.

Upstream loads this file by its path and calls `reward_func` in threads with one query at a time. It ignores
exceptions: the reward would be missing and the run would continue. So `reward_func` does not raise for any response;
one that cannot be graded gets -1.
"""

import re
import sys
import threading
import time
from collections import deque

import torch

from rpg_openrlhf.rewards.extraction import SPECIAL
from rpg_openrlhf.rewards.grading import Verdict, grade

WINDOW = 256  # responses over which the fraction without an answer is measured
WARN_FRACTION = 0.5
WARN_AT_LEAST = 64
WARN_EVERY_SECONDS = 60.0
SHORTEST_TAIL = 24  # characters of the prompt that identify its end

_SPECIAL = re.compile(SPECIAL)
_IGNORED = re.compile(rf"\s+|{SPECIAL}")

_lock = threading.Lock()
_recent: deque[bool] = deque(maxlen=WINDOW)
_last_warning = -WARN_EVERY_SECONDS


def reward_func(queries: list, prompts: list, labels: list) -> dict:
    """Rewards of +1 or -1 and scores of 1 or 0, tensors of shape (len(queries),); logs of the same shape.

    queries: prompt and response as one decoded text, special tokens kept. labels: gold answers, text or numbers.
    """
    verdicts = [
        _grade_query(query, prompt, label) for query, prompt, label in zip(queries, prompts, labels, strict=True)
    ]
    scores = torch.tensor([float(verdict.is_correct) for verdict in verdicts])
    return {"rewards": 2 * scores - 1, "scores": scores, "extra_logs": _logs(verdicts)}


def _logs(verdicts: list[Verdict]) -> dict[str, torch.Tensor]:
    """One 0/1 column for each reason to watch: no answer, ambiguous, too costly to compare."""
    names = {"no_answer": "no_answer", "ambiguous": "answer_ambiguous", "timeout": "grade_timeout"}
    return {
        name: torch.tensor([float(verdict.reason == reason) for verdict in verdicts]) for reason, name in names.items()
    }


def _grade_query(query: object, prompt: object, label: object) -> Verdict:
    try:
        response = response_of(str(query), str(prompt))
        gold = label if isinstance(label, int | float) else str(label)
        verdict = Verdict(False, None, "no_answer") if response is None else grade(response, gold)
    except Exception as error:  # upstream would silently drop the reward; this answer is wrong
        print(f"[reward] a response could not be graded: {error!r}", file=sys.stderr, flush=True)
        verdict = Verdict(False, None, "wrong")
    _watch(verdict.reason == "no_answer")
    return verdict


def response_of(query: str, prompt: str) -> str | None:
    """The model's text: the query without its prompt and without special tokens at its end.

    None if the prompt is not found: the prompt contains "Answer:" itself and must not be graded.
    """
    end = len(prompt) if query.startswith(prompt) else _end_of_prompt(query, prompt)
    if end is None:
        return None
    response = query[end:]
    stop = len(response)
    for token in reversed([*_SPECIAL.finditer(response)]):
        if response[token.end() : stop].strip():
            break
        stop = token.start()
    return response[:stop].rstrip()


def _end_of_prompt(query: str, prompt: str) -> int | None:
    """End of the prompt in a query that changed it: special tokens added, spaces changed, head cut off."""
    start = query.find(prompt)
    if prompt and start >= 0:
        return start + len(prompt)
    squeezed_prompt, _ = _squeeze(prompt)
    squeezed_query, positions = _squeeze(query)
    length = len(squeezed_prompt)
    while length >= SHORTEST_TAIL:
        tail = squeezed_prompt[-length:]
        start = squeezed_query.find(tail)
        if start >= 0 and squeezed_prompt.count(tail) == 1:
            return positions[start + length - 1] + 1
        length = min(length - 1, length * 3 // 4)
    return None


def _squeeze(text: str) -> tuple[str, list[int]]:
    """The text without spaces and special tokens, and the original position of each remaining character."""
    kept: list[int] = []
    start = 0
    for match in _IGNORED.finditer(text):
        kept.extend(range(start, match.start()))
        start = match.end()
    kept.extend(range(start, len(text)))
    return "".join([text[i] for i in kept]), kept


def _watch(no_answer: bool) -> None:
    """Warn on stderr, at most once a minute, while most responses have no answer."""
    global _last_warning
    with _lock:
        _recent.append(no_answer)
        missing, seen, now = sum(_recent), len(_recent), time.monotonic()
        if seen < WARN_AT_LEAST or missing <= WARN_FRACTION * seen or now - _last_warning < WARN_EVERY_SECONDS:
            return
        _last_warning = now
    print(
        f"[reward] WARNING: {missing} of the last {seen} responses have no answer ('Answer: ...' or \\boxed{{...}}): "
        "too short a response budget, a wrong prompt template, or a model that does not follow the prompt?",
        file=sys.stderr,
        flush=True,
    )
