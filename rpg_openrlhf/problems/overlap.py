r"""Does a training problem repeat a benchmark's? N-grams first, then bags of tokens.

exact: the same text but for spaces, dollars, dots, case and \dfrac. near: an 8-gram of tokens in common, and the
multisets of tokens have a Jaccard index of 0.75, or 0.5 where the answers agree too, or 0.75 without the sentences
that only say in which form the answer is wanted: DAPO-Math-17k asks for m + n where its sources ask for m/n.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

GRAM = 8  # tokens
SIMILAR = 0.75
SIMILAR_WITH_ANSWER = 0.5
SHORTEST_CORE = 8  # tokens: less than this says nothing

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
    """Text without the sentences about the answer's form."""
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
        """Compare tokens with signs, for a sign makes another problem; where the answers agree, words are enough."""
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
    """The benchmark's side, which is the small one; training rows are looked up in it one by one.

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
        """The problems that a training row repeats, and how."""
        text = _plain(text)
        matches = dict.fromkeys(self.exact.get(_LEFT_OUT.sub("", text), ()), "exact")
        names = {name for gram in _grams(text) for name in self.grams.get(gram, ())}.difference(matches)
        if names:
            other = _Text(text, [answer])
            matches |= {name: "near" for name in names if self.texts[name].is_near(other)}
        return matches
