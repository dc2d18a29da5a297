r"""Search for training problems that repeat a benchmark's problem: shared n-grams first, then bags of tokens.

exact: the same text up to spaces, dollars, dots, case and \dfrac. near: a common 8-gram of tokens, and multisets of
tokens with a Jaccard index of 0.75; 0.5 is enough if the answers agree too. The index 0.75 may also be reached without
the sentences about the answer's form, because DAPO-Math-17k asks for m + n where its sources ask for m/n.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

GRAM = 8  # tokens
SIMILAR = 0.75
SIMILAR_WITH_ANSWER = 0.5
SHORTEST_CORE = 8  # tokens: a shorter text is not compared

_WORD = re.compile(r"[a-z]+|\d+")
_TOKEN = re.compile(r"[a-z]+|\d+|[-+=^*/<>|]")
_LEFT_OUT = re.compile(r"[\s$.]+")
_SENTENCE = re.compile(r"(?<=[.?!])[\s$]+(?=[a-z\\$(])")
_FORM = re.compile(
    r"(?:in|of|as) the form|relatively prime|coprime|original answer|simplest form"
    r"|please (?:find|calculate|provide|give)"
    r"|(?:find|compute|what is)(?: the value of)?[\s\\($]{0,6}[a-z][\s\\$]{0,6}[+-]"
)
_ANSWER_NOISE = re.compile(r"[\s${}]|\\left|\\right|\\?,|(?<=\d)\.0+$")

Name = tuple[str, str]  # benchmark and problem


def _plain(text: str) -> str:
    return text.lower().replace("dfrac", "frac").replace("tfrac", "frac")


def _core(text: str) -> str:
    """Text without the sentences about the answer's form, if any other remain."""
    kept = [sentence for sentence in _SENTENCE.split(text) if not _FORM.search(sentence)]
    return " ".join(kept) if kept else text


def _jaccard(left: Counter[str], right: Counter[str]) -> float:
    shared = sum(min(count, right[token]) for token, count in left.items() if token in right)
    return shared / max(1, left.total() + right.total() - shared)


class _Text:
    """One problem as bags of tokens, and its answers."""

    def __init__(self, text: str, answers: Iterable[str]):
        self.answers = {_ANSWER_NOISE.sub("", _plain(answer)) for answer in answers} - {""}
        self.words, self.tokens = Counter(_WORD.findall(text)), Counter(_TOKEN.findall(text))
        self.core = Counter(_TOKEN.findall(_core(text)))

    def is_near(self, other: "_Text") -> bool:
        """True if similar. Tokens include signs, which change a problem; if the answers agree, words are enough."""
        similar = _jaccard(self.tokens, other.tokens)
        if self.answers & other.answers:
            return max(similar, _jaccard(self.words, other.words)) >= SIMILAR_WITH_ANSWER
        if similar >= SIMILAR:
            return True
        return self.core.total() >= SHORTEST_CORE and _jaccard(self.core, other.core) >= SIMILAR


def _grams(text: str) -> set[int]:
    tokens = _TOKEN.findall(text)
    return {hash(tuple(tokens[start : start + GRAM])) for start in range(max(1, len(tokens) - GRAM + 1))}


class ProblemIndex:
    """Index of the benchmarks' problems, in which training rows are looked up one by one.

    problems: mappings with `benchmark`, `problem` (its id), `text`, and `golds` or `gold`.
    """

    def __init__(self, problems: Iterable[Mapping[str, Any]]):
        self.texts: dict[Name, _Text] = {}
        self.exact: dict[str, list[Name]] = {}
        self.grams: dict[int, list[Name]] = {}
        for row in problems:
            name, text = (row["benchmark"], row["problem"]), _plain(row["text"])
            self.texts[name] = _Text(text, row.get("golds") or [row["gold"]])
            self.exact.setdefault(_LEFT_OUT.sub("", text), []).append(name)
            for gram in _grams(text):
                self.grams.setdefault(gram, []).append(name)

    def matches(self, text: str, answer: str) -> dict[Name, str]:
        """Problems that a training row repeats -> "exact" or "near"."""
        text = _plain(text)
        matches = dict.fromkeys(self.exact.get(_LEFT_OUT.sub("", text), ()), "exact")
        names = {name for gram in _grams(text) for name in self.grams.get(gram, ())}.difference(matches)
        if names:
            other = _Text(text, [answer])
            matches |= {name: "near" for name in names if self.texts[name].is_near(other)}
        return matches
