"""Which questions may go to the LaTeX workers: the gold answer is trusted, the model's text is not.

A comparison there costs 10 to 100 ms if it is ordinary and seconds if it is not, so what is plainly no expression is
refused as different, and what could explode (towers, factorials, long or deep texts) as undecided.
"""

import re

MAX_LENGTH = 240
MAX_DEPTH = 8
MAX_EXPONENT = 60
MAX_LITERAL = 12  # digits
MAX_OPERATIONS = 60

_COMMAND = re.compile(r"\\[A-Za-z]+|\\.")
_KNOWN_NAMES = """
    frac sqrt binom cdot times div le ge ne infty pm mp text ln log lg exp sin cos tan cot sec csc arcsin arccos
    arctan arccot sinh cosh tanh lfloor rfloor lceil rceil alpha beta gamma delta epsilon varepsilon zeta eta
    theta kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi
    Omega hbar ell pi ddot dot
"""
_KNOWN = frozenset(("\\" + name) for name in _KNOWN_NAMES.split())
_COSTLY_NAMES = """
    int iint oint sum prod lim partial nabla det begin end max min gcd lcm bmod mod
"""
_COSTLY = frozenset(("\\" + name) for name in _COSTLY_NAMES.split())
_ALLOWED = re.compile(r"[A-Za-z0-9\\{}()\[\]^_+\-*/.,|!<>=' ]*", re.ASCII)
_CONSTANTS = frozenset("eid")
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{4,}")
_LITERAL = re.compile(r"\d+")


def _exponents(text: str) -> list[str]:
    """The text after each ^, up to the end of its group."""
    found = []
    for match in re.finditer(r"\^\s*", text):
        start, depth = match.end(), 0
        for end in range(start, min(len(text), start + MAX_LENGTH)):
            depth += (text[end] in "{(") - (text[end] in "})")
            if depth <= 0 and (text[end] in "})" or (end > start and not text[end].isdigit())):
                break
        else:
            end = len(text) - 1
        found.append(text[start : end + 1])
    return found


def _letters(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[A-Za-z]", _COMMAND.sub(" ", re.sub(r"\\text\{[^{}]*\}", " ", text))))


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest


def may_ask(gold: str, answer: str) -> str | None:
    """None if the workers may be asked; else "different", or "undecided" where the answer is too costly to read."""
    if not _ALLOWED.fullmatch(answer) or not answer.strip():
        return "different"
    mine, theirs = _letters(gold), _letters(answer)
    if bool(mine - _CONSTANTS) != bool(theirs - _CONSTANTS):
        return "different"  # a number is no expression in letters
    commands, trusted = set(_COMMAND.findall(answer)), set(_COMMAND.findall(gold))
    if not commands - {"\\text"} and not trusted - {"\\text"} and not re.search(r"[\^!()|<>=]", answer):
        return "different"  # plain letters and digits: the closed grammar has seen all of it
    unknown = commands - _KNOWN - trusted
    if unknown & _COSTLY:
        return "undecided"
    if unknown or (_WORD.search(answer) and not _WORD.search(gold)):
        return "different"
    if len(answer) > max(MAX_LENGTH, 2 * len(gold)) or _depth(answer) > max(MAX_DEPTH, _depth(gold)):
        return "undecided"
    if explosive(gold, answer):
        return "undecided"
    if mine != theirs and {c.lower() for c in mine} == {c.lower() for c in theirs}:
        return "different"  # the LaTeX reader is blind to case
    return None


def explosive(gold: str, answer: str) -> bool:
    """Numbers or towers in the answer beyond what an honest rewriting of the gold answer needs."""
    longest = max((len(literal) for literal in _LITERAL.findall(gold)), default=0)
    if any(len(literal) > max(MAX_LITERAL, longest) for literal in _LITERAL.findall(answer)):
        return True
    if "!" in answer and not ("!" in gold or "\\binom" in gold):
        return True
    if len(re.findall(r"[\^!+\-*/]|\\[A-Za-z]+", answer)) > max(MAX_OPERATIONS, 2 * len(gold)):
        return True
    for exponent in _exponents(answer):
        if exponent.count("^") > 1 or "!" in exponent:
            return True
        if any(len(n) > 9 or int(n) > MAX_EXPONENT for n in _LITERAL.findall(exponent)) and exponent not in gold:
            return True
    return "!" in answer and any(len(n) > 9 or int(n) > MAX_EXPONENT for n in _LITERAL.findall(answer))
