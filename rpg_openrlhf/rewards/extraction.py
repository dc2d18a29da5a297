r"""The text of the answer: the last `Answer:` line or closed `\boxed{}` after the last `</think>`, whichever is later.

A box is read with the operators around it: -\boxed{60} is -60, and \boxed{5}\% is 5 %. Boxes with only separators
between them are one list.
"""

import re

TAIL_CHARACTERS = 20_000  # only so many characters at a response's end are read

# <|im_end|>, <|end▁of▁sentence|>, <turn|>, <end_of_turn>, </s>, </answer>, <eos>, <pad>, [EOS], ...
SPECIAL = (
    r"<[|｜][^<>\s]{1,40}[|｜]>|<[a-z_]{1,20}[|｜]>|</?(?:s|eos|bos|pad|unk|end_of_turn|start_of_turn|answer)>"
    r"|\[(?:EOS|PAD|SEP|CLS)\]"
)
_SPECIAL = re.compile(SPECIAL)
_THINK_END = "</think>"
_ANSWER = re.compile(r"(?<![A-Za-z])answer[*_ ]{0,4}[:：][*_]{0,3}", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
_QUOTES = tuple("\"'“”`")
_OPENINGS = (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)"), ("$", "$"), ("```", "```"))
_FILLED = re.compile(r"[^\s$*_.,:;`'\"(){}\[\]\\]|\\\{\s*\\\}")  # \{\} is the empty set
_LABEL = re.compile(r"^\s*(?:\\text(?:bf)?\s*\{\s*)?(?:final )?answer\s*\}?\s*:\s*\}?", re.IGNORECASE)

# A further sentence on the answer's line, without numbers, formulas or second thoughts.
_REMARK = re.compile(r"[.!]\s+[A-Z][^\d$\\]{0,200}$")
_SECOND_THOUGHT = re.compile(
    r"\b(?:or|not|no|wrong|incorrect|false|actually|alternatively|instead|but|unless|rather|wait|[a-z]+n't)\b", re.I
)

# One formula among words: Therefore $x \\ge 5$ is the solution.
_SENTENCE = re.compile(
    r"([A-Za-z][A-Za-z ,.:;'\"*-]*)(\$[^$]+\$|\\\((?:(?!\\\)).)+\\\)|\\\[(?:(?!\\\]).)+\\\])([A-Za-z ,.:;'\"*!-]*)"
)
_MATH_SPACE = r"\s|\$|\\[()\[\]]|\\[,;:! ]|\\(?:quad|qquad|displaystyle|left|right)(?![A-Za-z])|~|\*\*"
_SEPARATOR = (
    r",|;|&|\b(?:and|or|maybe|possibly|perhaps)\b|\\text\s*\{[\s,]*(?:and|or)?[\s,]*\}|\\(?:lor|land|vee)(?![A-Za-z])"
)
_NAME = r"[A-Za-z]'?(?:_\{?\w{1,3}\}?)?\s*="
_JOINED = re.compile(rf"(?:{_MATH_SPACE}|{_SEPARATOR}|{_NAME}|[.{{}}])*")
_NAMED = re.compile(rf"(?<![A-Za-z\\])({_NAME})(?:{_MATH_SPACE})*$")
MAX_JOIN = 80  # characters between two boxes of one list

_OPENING = re.compile(
    rf"(?:{_MATH_SPACE}|(?<![\w)}}])\*|\(|\\(?:mathbf|boldsymbol|bm|text(?:bf|color\{{\w+\}})?|color\{{\w+\}}|underline)\s*\{{)*+$"
)
_CLOSING = re.compile(rf"(?:{_MATH_SPACE}|\}}|\*(?![\w\\])|\))*")
_BULLET = re.compile(r"(?:^|\n)\s*[-*+•–—]\s+\Z")
_DASH_BEFORE = re.compile(r"(?:(?<![\\A-Za-z])[A-Za-z]{2,}\s+-\s+|[–—]\s*)\Z")
_DASH_AFTER = re.compile(r"(?:-|–|—)+\s*(?:[A-Za-z]{2,}|$)|[–—]\s")
_OPERATORS = (
    r"\\(?:pm|mp|cdot|times|div|neq?|not|le|ge|leq|geq|lt|gt|leqslant|geqslant|sqrt|d?frac|mod|equiv)(?![A-Za-z])"
)
_BOUND_BEFORE = re.compile(
    rf"(?:[^\s=$:,;]{{0,30}}[ ]?)?(?:[-+±∓−^_/*×·÷<>≠≤≥!|]|{_OPERATORS}|\\frac\{{[^{{}}]*\}}|[\d.^_/}}]\s*\{{"
    rf"|\\(?:sqrt|[dt]?frac|binom|log|ln|sin|cos|tan|cancel)\s*(?:\[\w\])?\{{"
    rf"|\b(?:not|never|except|twice|half of|minus|(?<![Nn]o )(?:less|more|fewer|greater|other) than)|n't)\s*\Z"
)
_BOUND_AFTER = re.compile(
    rf"[-+±∓−^_/×·÷<>=≠≤≥]|\*\s*[\w\\]|!\s*(?:\$|\\[)\]])|\\?%|{_OPERATORS}"
    r"|(?:\\text\s*\{\s*)?(?:hundred|thousand|million|billion|trillion|dozen|per ?cent|pct|factorial"
    r"|(?:squared|cubed)(?!\s+[a-z]))\b"
)
_DIGIT_BEFORE = re.compile(r"[\d.]*\d\.?[${]*\Z")
_REST = re.compile(r"[^\n$,;]*?(?=\n|\$|\\[)\]]|[,;]|\.(?:\s|$)|$)")
_HEDGE_AFTER = re.compile(r"[\s$.,)\]\\*]{0,12}\bor\b[\s$\\(]{0,8}(?=\S*\d)([^\n]{1,80})")
_HEDGE_BEFORE = re.compile(r"([^\s]{1,40})[\s$,\\()]{1,8}or[\s$\\([]{0,8}$")

Box = tuple[int, int, str]  # start, end, content


def extract_answer(response: str, tail: int = TAIL_CHARACTERS) -> str | None:
    """The text of the answer, or None if the last marker is missing, empty or not closed."""
    text = response.rpartition(_THINK_END)[2]
    text = _SPECIAL.sub("\n", text[-tail:])
    boxes, dangling = _boxes(text)
    line = _last_answer_line(text, boxes)
    start = max(boxes[-1][0] if boxes else -1, line[0] if line else -1)
    if dangling > start or start < 0:
        return None
    answer = line[1] if line and line[0] == start else _LABEL.sub("", _boxed_group(text, boxes), count=1)
    return answer.strip() if _FILLED.search(answer) else None


def _boxes(text: str) -> tuple[list[Box], int]:
    r"""Closed \boxed groups, outermost only, and the start of the last unclosed one, or -1."""
    boxes: list[Box] = []
    dangling, resume = -1, 0
    markers = list(_BOX.finditer(text))
    closing = _closing_braces(text) if markers else {}
    for match in markers:
        if match.start() < resume:
            continue
        if text[match.end() : match.end() + 1] != "{":
            single = re.compile(r"[0-9A-Za-z]+").match(text, match.end())  # \boxed 5
            if single:
                boxes.append((match.start(), single.end(), single.group()))
            continue
        end = closing.get(match.end())
        if end is None:
            dangling = match.start()
            continue
        boxes.append((match.start(), end + 1, text[match.end() + 1 : end]))
        resume = end
    return boxes, dangling


def _closing_braces(text: str) -> dict[int, int]:
    """Position of each opening brace -> position of its closing brace; escaped braces are characters."""
    closing, opened = {}, []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match.group() == "{":
            opened.append(match.start())
        elif match.group() == "}" and opened:
            closing[opened.pop()] = match.start()
    return closing


def _last_answer_line(text: str, boxes: list[Box]) -> tuple[int, str] | None:
    """The last `Answer:` outside boxes, with the rest of its line (or the next line that holds anything)."""
    for match in reversed(list(_ANSWER.finditer(text))):
        quoted = text[max(0, match.start() - 1) : match.start()] in _QUOTES
        if quoted and text[match.end() : match.end() + 1] in _QUOTES:
            continue  # a quotation of the prompt: ... after "Answer:".
        if any(start < match.start() < end for start, end, _ in boxes):
            continue
        return match.start(), _line_value(text[match.end() :])
    return None


_ALTERED_BEFORE = re.compile(
    r"\b(?:minus|plus|twice|thrice|double|triple|half(?: of)?|times|never|except|unlike|nor"
    r"|(?<!no )(?:less|more|fewer|greater|larger|smaller|other) than)\s*\Z",
    re.IGNORECASE,
)
_ALTERED_AFTER = re.compile(
    r"\s*(?:percent|per cent|hundred|thousand|million|billion|trillion|dozen|factorial"
    r"|(?:squared|cubed)(?!\s+[a-z]))\b",
    re.IGNORECASE,
)


def _line_value(rest: str) -> str:
    rest = rest.lstrip()
    sentence = _SENTENCE.fullmatch(rest.split("\n", 1)[0])
    if sentence and not _alters(sentence.group(1), sentence.group(3)):
        return sentence.group(2)
    for opening, closing in _OPENINGS:
        if rest.startswith(opening):
            end = rest.find(closing, len(opening))
            if end >= 0 and rest[len(opening) : end].strip():
                after = _without_remark(rest[end + len(closing) :].split("\n", 1)[0])
                return rest[len(opening) : end] + " " + after if after.strip(" .*") else rest[len(opening) : end]
    return _without_remark(rest.split("\n", 1)[0])


def _alters(before: str, after: str) -> bool:
    """True if words beside a formula change its value: "less than $42$", "$42$ squared"."""
    beside = _ALTERED_BEFORE.search(before) or _ALTERED_AFTER.match(after)
    return bool(beside or _SECOND_THOUGHT.search(before + after))


def _without_remark(line: str) -> str:
    """The line without a sentence after the answer: 12. I hope it is correct."""
    remark = _REMARK.search(line)
    return line if remark is None or _SECOND_THOUGHT.search(remark.group()) else line[: remark.start()]


def _boxed_group(text: str, boxes: list[Box]) -> str:
    """The last box with the operators around it, or the list of the boxes that it is joined to."""
    group = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box[1] : group[0][0]]
        if len(between) > MAX_JOIN or not _JOINED.fullmatch(between):
            break
        group.insert(0, box)
    start, end = group[0][0], group[-1][1]
    if len(group) == 1:
        answer = _bound(text, group[0])
    else:
        answer = " , ".join(_name_before(text[:box_start]) + content for box_start, _, content in group)
    after = _HEDGE_AFTER.match(text[end : end + 120])
    if after:
        answer = f"{answer} or {after.group(1)}"
    before = _HEDGE_BEFORE.search(text[max(0, start - 60) : start])
    if before and re.search(r"\d", before.group(1)) and "\\boxed" not in before.group(1):
        answer = f"{before.group(1)} or {answer}"
    return answer


def _name_before(text: str) -> str:
    """The x= in front of a box."""
    name = _NAMED.search(text[-40:])
    return name.group(1) if name else ""


def _bound(text: str, box: Box) -> str:
    r"""The content of a box with the operators around it: a sign, a power, a per cent sign, a factor."""
    start, end, content = box
    before, after = text[max(0, start - 80) : start], text[end : end + 80]
    prefix = suffix = ""
    if not (_BULLET.search(before.rstrip("$")) or _DASH_BEFORE.search(before)):
        bound = _DIGIT_BEFORE.search(before) or _BOUND_BEFORE.search(_OPENING.sub("", before, count=1))
        prefix = bound.group().strip("$") if bound else ""
    closed = _CLOSING.match(after)
    rest = after[closed.end() :] if closed else after
    adjacent = closed is None or "\n" not in closed.group()
    touching = closed is None or not re.search(r"[\s$]", closed.group())
    bound_after = (adjacent and _BOUND_AFTER.match(rest)) or (touching and re.match(r"\.?\d|[A-Za-z]", rest))
    if bound_after and not _DASH_AFTER.match(rest):
        bound_rest = _REST.match(rest)
        suffix = bound_rest.group() if bound_rest else rest
    return f"{prefix}{{{content}}}{suffix}" if prefix or suffix else content


def without_emphasis(text: str) -> str:
    """The text without markdown around it: **42**, *42*, `42`."""
    text = text.strip()
    for mark in ("**", "__", "*", "`"):
        while len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            text = text[len(mark) : -len(mark)].strip()
    return re.sub(r"^(?:\*\*|__)|(?:\*\*|__)(?=[\s.]*$)", "", text).strip()
