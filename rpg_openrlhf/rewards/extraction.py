r"""The marker: the last `Answer:` line or closed `\boxed{}` after the last `</think>`, whichever comes later."""

import re

TAIL_CHARACTERS = 20_000  # how far from its end a response is read

_THINK_END = "</think>"
_ANSWER = re.compile(r"(?<![A-Za-z])answer[*_ ]{0,4}[:：][*_]{0,3}", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
_QUOTES = "\"'“”`"
_OPENINGS = (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)"), ("$", "$"), ("```", "```"))
_HEDGE_AFTER = re.compile(r"[\s$.,)\]\\*]{0,12}\bor\b[\s$\\(]{0,8}(?=\S*\d)([^\n]{1,80})")
_HEDGE_BEFORE = re.compile(r"([^\s]{1,40})[\s$,\\()]{1,8}or[\s$\\([]{0,8}$")
_FILLED = re.compile(r"[^\s$*_.,:;`'\"(){}\[\]\\]|\\\{\s*\\\}")  # \{\} is the empty set
_LABEL = re.compile(r"\s*(?:\\text(?:bf)?\s*\{\s*)?(?:final )?answer\s*:\s*\}?", re.IGNORECASE)
_JOINED = re.compile(
    r"[\s$.\\()\[\]]*(?:,|;|\band\b|\bor\b|,\s*(?:and|or)\b|\\quad|\\text\{\s*(?:and|or)\s*\})[\s$\\()\[\]]*"
)


def extract_answer(response: str, tail: int = TAIL_CHARACTERS) -> str | None:
    """The text of the answer, or None where the last marker is missing, empty or not closed."""
    text = response.rpartition(_THINK_END)[2] if _THINK_END in response else response
    text = text[-tail:]
    boxes, dangling = _boxes(text)
    line = _last_answer_line(text, boxes)
    start = max(boxes[-1][0] if boxes else -1, line[0] if line else -1)
    if dangling > start or start < 0:
        return None
    answer = line[1] if line and line[0] == start else _innermost(_boxed_group(text, boxes))
    return answer.strip() if _FILLED.search(answer) else None


def _boxes(text: str) -> tuple[list[tuple[int, int, str]], int]:
    r"""Closed \boxed groups as (start, end, content), outermost only; where the last unclosed one begins or-1."""
    found: list[tuple[int, int, str]] = []
    dangling, resume = -1, 0
    markers = list(_BOX.finditer(text))
    closing = _closing_braces(text) if markers else {}
    for match in markers:
        if match.start() < resume:
            continue
        if text[match.end() : match.end() + 1] != "{":
            single = re.compile(r"[0-9A-Za-z]+").match(text, match.end())  # \boxed 5
            if single:
                found.append((match.start(), single.end(), single.group()))
            continue
        end = closing.get(match.end())
        if end is None:
            dangling = match.start()
            continue
        found.append((match.start(), end + 1, text[match.end() + 1 : end]))
        resume = end
    return found, dangling


def _innermost(answer: str) -> str:
    r"""What a box inside the box holds: \boxed{\boxed{42}}."""
    for _ in range(3):
        boxes = _boxes(answer)[0]
        if not boxes:
            break
        answer = _boxed_group(answer, boxes)
    return _LABEL.sub("", answer, count=1) if _LABEL.match(answer) else answer


def _closing_braces(text: str) -> dict[int, int]:
    """Where each opened brace closes; escaped braces are characters."""
    closing, opened = {}, []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match.group() == "{":
            opened.append(match.start())
        elif match.group() == "}" and opened:
            closing[opened.pop()] = match.start()
    return closing


def _last_answer_line(text: str, boxes: list[tuple[int, int, str]]) -> tuple[int, str] | None:
    """The last `Answer:` outside boxes, with the rest of its line (or the next line that holds anything)."""
    for match in reversed(list(_ANSWER.finditer(text))):
        quoted = text[max(0, match.start() - 1) : match.start()] in tuple(_QUOTES)
        if quoted and text[match.end() : match.end() + 1] in tuple(_QUOTES):
            continue  # the prompt's words repeated: ... after "Answer:".
        if any(start < match.start() < end for start, end, _ in boxes):
            continue
        return match.start(), _line_value(text[match.end() :])
    return None


def _line_value(rest: str) -> str:
    rest = rest.lstrip()
    for opening, closing in _OPENINGS:
        if rest.startswith(opening):
            end = rest.find(closing, len(opening))
            if end >= 0 and rest[len(opening) : end].strip():
                after = rest[end + len(closing) :].split("\n", 1)[0]
                return rest[len(opening) : end] + " " + after if after.strip(" .*") else rest[len(opening) : end]
    return rest.split("\n", 1)[0]


def _boxed_group(text: str, boxes: list[tuple[int, int, str]]) -> str:
    r"""The last box, with those it is joined to ("\boxed{4} and \boxed{5}") and an "or 41" that hedges it."""
    start, end, answer = boxes[-1]
    for earlier_start, earlier_end, content in reversed(boxes[:-1]):
        if start - earlier_end > 40 or not _JOINED.fullmatch(text[earlier_end:start]):
            break
        answer, start = f"{content} , {answer}", earlier_start
    after = _HEDGE_AFTER.match(text[end : end + 120])
    if after:
        answer = f"{answer} or {after.group(1)}"
    before = _HEDGE_BEFORE.search(text[max(0, start - 60) : start])
    if before and re.search(r"\d", before.group(1)) and not before.group(1).startswith("\\boxed"):
        answer = f"{before.group(1)} or {answer}"
    return answer
