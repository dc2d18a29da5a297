r"""Lexer: the text of an answer, LaTeX or plain, to tokens.

It drops only notation that never changes a value (spacing, sizes, fonts, dollar signs). Every other character becomes
a token, so a parser that cannot read all tokens knows that it did not understand the answer.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rpg_openrlhf.rewards.notation import synonyms, words_of

MAX_TOKENS = 800


class Unreadable(ValueError):
    """The text contains something that is not part of the notation of answers."""


@dataclass(frozen=True, slots=True)
class Token:
    """Token of kind number, letter, word, command, mark, begin or end. `spaced`: white space is before it."""

    kind: str
    text: str
    spaced: bool = field(default=False, compare=False)


_UNICODE = str.maketrans(synonyms("unicode"))
# Letters too: the normal form lays them flat, 2ⁿ⁺¹ would be 2n+1 and aₙ would be an.
_RAISED, _LOWERED = (
    re.compile(f"[{''.join(c for c in map(chr, range(0xB2, 0x2D00)) if unicodedata.decomposition(c)[:4] == kind)}]+")
    for kind in ("<sup", "<sub")
)
_DEGREES = [sign for name in (r"\circ", r"\degreesign") for sign in (["^", name], ["^", "{", name, "}"])]
_REWRITTEN: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\\(?:textcolor|color)\s*\{[^{}]*\}"), " "),
    (re.compile(r"\b(?:np|math|numpy|sympy)\.(?=[a-z])"), ""),
    (re.compile(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}"), r"\\frac{\1}{\2}"),
    (
        re.compile(r"\^\s*(?:\{\s*+(?:(?:\\prime|')\s*+)+\}|\\prime(?![A-Za-z]))"),
        lambda match: "'" * len(re.findall("prime|'", match.group())),
    ),
    (re.compile(r"^\s*\\\$\s*(\d[\d.,{}\\!]*)$"), r"\1\\text{ dollars}"),
    (re.compile(r"\{:\}"), ":"),
    # 1,234 in a fraction is a number: a fraction contains no list.
    (re.compile(r"(?<=c\{|\}\{)\d{1,3}(?:,\d{3})+(?=\})"), lambda match: match.group().replace(",", "")),
    (re.compile(r"(?<=\d)(?:(?:st|nd|rd|th)(?![A-Za-z])|\^\{?\\(?:text|mathrm)\{(?:st|nd|rd|th)\}\}?)"), ""),
    # 1{,}234  1,\!234  1\,234: these groups of digits cannot be lists
    (re.compile(r"(?<=\d)\s*(?:\{\s*,\s*\}\s*|,\\!\s*|\\[,!;:]\s*|\\ )(?=\d{3}(?!\d))"), ""),
    (re.compile(r"(?<!\\)\\\s*$"), ""),
    (
        re.compile(r"(?<![\d.,])[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?(?![\d ]|\s*[/_])"),
        lambda match: match.group().replace(" ", ""),
    ),
)

_TOKEN = re.compile(
    r"(?P<space>\s+|~|\\[,;:!> ]|\\\n)"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+(?![\d.^A-Za-z]))?)"
    r"|(?P<command>\\(?:[A-Za-z]+\*?|.))|(?P<letters>[A-Za-z]+)"
    r"|(?P<mark>\*\*|<=|>=|!=|[-+*/^_!()\[\]{}|,;:=<>%.'&?\"`])|(?P<dollar>\$)",
    re.ASCII | re.DOTALL,
)

_SPACES, _STYLES, _TEXTS = words_of("spaces"), words_of("styles"), words_of("texts")
_RENAMED, _MARKS = synonyms("renamed"), synonyms("marks")
_FUNCTIONS, _SHORT_WORDS = words_of("functions"), words_of("short_words")
_ALSO_WORDS = frozenset(("max", "min", "arg", "Re", "Im"))  # functions only before a bracket
_PLAIN_NAMES = {"infinity": "infty", "inf": "infty", "oo": "infty"}
_ENVIRONMENT = re.compile(r"\s*\{([A-Za-z]+)\*?\}(?:\s*\{[lcr|\s]*\})?")


def tokens_of(text: str) -> tuple[Token, ...]:
    """All tokens of an answer. Unreadable if a character is not part of the notation of answers."""
    text = _LOWERED.sub(r"_{\g<0>}", _RAISED.sub(r"^{\g<0>}", text.translate(_UNICODE)))
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-")  # of a raised minus
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    tokens = _Lexer(text).run()
    if len(tokens) > MAX_TOKENS:
        raise Unreadable("length")
    texts = [token.text for token in tokens]
    for place in reversed(range(len(tokens))):
        for sign in _DEGREES:
            if texts[place : place + len(sign)] == sign:
                tokens[place : place + len(sign)] = [replace(tokens[place], kind="command", text=r"\degreesign")]
    return tuple(tokens)


class _Lexer:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.tokens: list[Token] = []
        self.spaced = False
        self.environments = 0

    def run(self) -> list[Token]:
        while self.position < len(self.text):
            self.step(self.match(), words=False)
        return self.tokens

    def match(self) -> re.Match[str]:
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            raise Unreadable(f"character {self.text[self.position]!r}")
        self.position = match.end()
        return match

    def add(self, kind: str, text: str) -> None:
        self.tokens.append(Token(kind, text, self.spaced))
        self.spaced = False

    def step(self, match: re.Match[str], words: bool) -> None:
        """Add the token of one match. `words`: inside a text command, where letters form words."""
        kind, text = match.lastgroup, match.group()
        if kind in ("space", "dollar"):
            self.spaced = True
        elif kind == "number":
            self.add("number", text)
        elif kind == "letters":
            self.letters(text, words)
        elif kind == "mark":
            self.mark(text)
        else:
            self.command(text, words)

    def mark(self, text: str) -> None:
        if text == "'" and self.tokens and self.tokens[-1].kind == "letter" and not self.spaced:
            self.tokens[-1] = replace(self.tokens[-1], text=self.tokens[-1].text + "'")
        elif text == "&" and not self.environments:
            self.spaced = True
        elif text not in ('"', "`"):
            renamed = _MARKS.get(text, text)
            self.add("command" if renamed[0] == "\\" and renamed[1:].isalpha() else "mark", renamed)

    def letters(self, text: str, words: bool) -> None:
        name = _PLAIN_NAMES.get(text, text)
        is_call = self.text[self.position : self.position + 1] == "("
        if name == "infty" or (name in _FUNCTIONS and (is_call or name not in _ALSO_WORDS)):
            self.add("command", "\\" + _RENAMED.get(name, name))
        elif words or len(text) > 3 or text.lower() in _SHORT_WORDS:
            self.add("word", text)
        else:
            for character in text:
                self.add("letter", character)

    def command(self, text: str, words: bool) -> None:
        name = text[1:]
        name = _RENAMED.get(name, name)
        text = "\\" + name
        if text in _SPACES or name == "$":
            self.spaced = True
            if text in (r"\left", r"\right") and self.text[self.position : self.position + 1] == ".":
                self.position += 1
        elif text in _STYLES:
            return
        elif text in _TEXTS:
            self.words()
        elif text in _MARKS:
            self.add("mark", _MARKS[text])
        elif name in ("begin", "end"):
            self.environment(name)
        elif name == "i":
            self.add("letter", "i")
        elif name in ("\\", "cr"):
            self.row()
        elif name.isalpha():
            self.add("command", text)
        else:
            raise Unreadable(f"command {text}")

    def row(self) -> None:
        skip = re.compile(r"\[[^\]]{0,10}\]").match(self.text, self.position)  # \\[4pt]
        if self.environments:
            self.position = skip.end() if skip else self.position
            self.add("mark", r"\\")
        elif self.text[self.position : self.position + 1].isalpha():
            self.position -= 1  # \\\\frac: the backslash escaped once more
        elif self.text[self.position :].strip(" $.\n"):
            raise Unreadable("line break")

    def environment(self, name: str) -> None:
        match = _ENVIRONMENT.match(self.text, self.position)
        if match is None:
            raise Unreadable("environment")
        self.position = match.end()
        self.environments += 1 if name == "begin" else -1
        self.add(name, match.group(1))

    def words(self) -> None:
        """The group of a text command: letters are words, everything else is what it is outside."""
        start = re.compile(r"\s*\{").match(self.text, self.position)
        if start is None:
            return
        self.position = start.end()
        inside = len(self.tokens)
        depth = 1
        while depth:
            if self.position >= len(self.text):
                raise Unreadable("group without end")
            match = self.match()
            depth += (match.group() == "{") - (match.group() == "}")
            if depth:
                self.step(match, words=True)
        added = self.tokens[inside:]
        if len(added) == 1 and added[0].text in ("i", "e", "d"):  # \mathrm{i}: only the font of a name
            self.tokens[inside] = replace(added[0], kind="letter")
