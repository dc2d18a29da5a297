"""Are two answers the same value? Exactly where the grammar reaches; the worker processes are asked for the rest."""

import re

from rpg_openrlhf.rewards.exact import NotExact, TooBig
from rpg_openrlhf.rewards.screening import may_ask
from rpg_openrlhf.rewards.values import Bag, Based, Equation, Leaf, Row, Value, Words
from rpg_openrlhf.rewards.worker_pool import same_latex

MAX_QUESTIONS = 4  # to the workers, for one answer


class Ambiguous(Exception):
    """The answer holds more than one candidate where the gold answer is one value."""


class Undecided(Exception):
    """The comparison would pass the limits on time, memory or size."""


_NAME = re.compile(
    r"[A-Za-z]{1,3}'*(?:_\w+|_\{[^{}]*\})?(?:\([^()]*\))?|\\[A-Za-z]+(?: ?_\w+| ?_\{[^{}]*\})?|\|?[A-Z]{2}\|?"
)
_SEVERAL_NUMBERS = re.compile(r"[^\\\d]*\d+[^\\\d]+\d[^\\]*")
_FUNCTION_OF = re.compile(r"([A-Za-z])\(([a-z])\)")


def _squeeze(text: str) -> str:
    return re.sub(r"(?<![A-Za-z0-9]) +| +(?![A-Za-z0-9])", "", text)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", re.sub(r"\\text|\\mathrm", "", text).lower())


class Comparison:
    """One answer against one gold answer; `questions` counts what went to the workers."""

    def __init__(self) -> None:
        self.questions = 0
        self.asking = True

    def same(self, gold: Value, answer: Value) -> bool:
        """Ambiguous and Undecided are raised; everything else is decided."""
        if isinstance(gold, Equation) and isinstance(answer, Equation):
            return self.same_equation(gold, answer)
        if isinstance(answer, Equation):
            answer = self.last_side(answer)
        if isinstance(gold, Equation):
            left = gold.sides[0]
            if isinstance(left, Leaf) and not _NAME.fullmatch(left.text):
                return False
            gold = gold.value
        if isinstance(gold, Bag) and len(gold.items) == 1:
            gold = gold.items[0]
        if isinstance(answer, Bag) and len(answer.items) == 1:
            answer = answer.items[0]
        if isinstance(gold, Bag):
            return self.same_bag(gold, answer)
        if isinstance(answer, Bag):
            return self.one_of_many(gold, answer)
        if isinstance(gold, Row) and isinstance(answer, Row):
            return self.same_row(gold, answer)
        if isinstance(gold, Words) or isinstance(answer, Words):
            return self.same_words(gold, answer)
        if isinstance(gold, Leaf) and isinstance(answer, Leaf):
            return self.same_leaf(gold, answer)
        return isinstance(gold, Based) and gold == answer

    def last_side(self, answer: Equation) -> Value:
        """The value of a = b = c; two sides that are different numbers are two candidates."""
        last, first = answer.value, answer.sides[0]
        if isinstance(last, Leaf) and last.text == "0" and isinstance(first, Leaf) and not _NAME.fullmatch(first.text):
            return Leaf(answer.text)  # an equation to be solved, not an answer of zero
        if isinstance(last, Leaf) and last.value is not None and not last.value.names:
            number = last.value
            values = [side.value for side in answer.sides[:-1] if isinstance(side, Leaf)]
            if not all(value is None or value.names or value.equals(number) for value in values):
                raise Ambiguous
        return last

    def same_equation(self, gold: Equation, answer: Equation) -> bool:
        if _squeeze(gold.text) == _squeeze(answer.text):
            return True
        left, right = gold.sides[0], answer.sides[0]
        if isinstance(left, Leaf) and isinstance(right, Leaf):
            if _squeeze(left.text) == _squeeze(right.text) and _NAME.fullmatch(left.text):
                return self.same(gold.value, self.last_side(answer))
            g, a = _FUNCTION_OF.fullmatch(left.text), _FUNCTION_OF.fullmatch(right.text)
            if g and a and g.group(1) == a.group(1) and isinstance(answer.value, Leaf):
                renamed = re.sub(rf"(?<![A-Za-z\\]){a.group(2)}(?![A-Za-z])", g.group(2), answer.value.text)
                return self.same(gold.value, Leaf(renamed))
        elif type(left) is type(right) and self.same(left, right):
            return self.same(gold.value, answer.value)
        return self.same_zero(gold, answer)

    def same_zero(self, gold: Equation, answer: Equation) -> bool:
        """Two equations of two sides are the same if their differences are proportional."""
        sides = [*gold.sides, *answer.sides]
        if len(sides) != 4 or not all(isinstance(side, Leaf) for side in sides):
            return False
        values = [side.value for side in sides if isinstance(side, Leaf)]
        exact = [value for value in values if value is not None]
        if len(exact) == 4:
            try:
                if (exact[0] + -exact[1]).proportional(exact[2] + -exact[3]):
                    return True
            except TooBig:
                raise Undecided from None
            if all(value.closed for value in exact):
                return False
        return self.ask(gold.text, answer.text)

    def same_bag(self, gold: Bag, answer: Value) -> bool:
        """The same elements, each as often (sets: at least once), in any order."""
        if isinstance(answer, Row) and gold.kind == "list" and answer.brackets == "()":
            if any(isinstance(item, Row) for item in gold.items):
                return False
            answer = Bag("list", answer.items)
        if not isinstance(answer, Bag):
            return False
        wanted, offered = list(gold.items), list(answer.items)
        if "set" in (gold.kind, answer.kind) and len(wanted) != len(offered):
            wanted, offered = self.distinct(wanted), self.distinct(offered)
        if len(wanted) != len(offered):
            return False
        for asking in (False, True):  # what is certain first: the workers see only what is left over
            left = []
            for item in wanted:
                match = next((i for i, other in enumerate(offered) if self.quietly_same(item, other, asking)), None)
                if match is None:
                    left.append(item)
                    if asking:
                        return False
                else:
                    offered.pop(match)
            wanted = left
        return not wanted

    def quietly_same(self, gold: Value, answer: Value, asking: bool) -> bool:
        before, self.asking = self.asking, asking and self.asking
        try:
            return self.same(gold, answer)
        except Ambiguous:
            return False
        finally:
            self.asking = before

    def distinct(self, items: list[Value]) -> list[Value]:
        found: list[Value] = []
        for item in items[:50]:
            if not any(self.quietly_same(other, item, False) for other in found):
                found.append(item)
        return found

    def one_of_many(self, gold: Value, answer: Bag) -> bool:
        """A list where one value is wanted: only a tuple without its brackets, or one value said twice, is right."""
        if isinstance(gold, Row) and gold.brackets == "()" and len(gold.items) == len(answer.items):
            if answer.kind != "list" or any(isinstance(item, Row) for item in answer.items):
                raise Ambiguous
            return all(self.same(g, a) for g, a in zip(gold.items, answer.items, strict=True))
        if answer.items and all(self.quietly_same(gold, item, False) for item in answer.items):
            return True
        raise Ambiguous

    def same_row(self, gold: Row, answer: Row) -> bool:
        if gold.brackets != answer.brackets or len(gold.items) != len(answer.items):
            return False
        return all(self.same(g, a) for g, a in zip(gold.items, answer.items, strict=True))

    def same_words(self, gold: Value, answer: Value) -> bool:
        texts = [value.text for value in (gold, answer) if isinstance(value, Words | Leaf)]
        return len(texts) == 2 and _letters(texts[0]) == _letters(texts[1]) != ""

    def same_leaf(self, gold: Leaf, answer: Leaf) -> bool:
        if gold.percent != answer.percent:
            return False
        if _squeeze(gold.text) == _squeeze(answer.text):
            return True
        if isinstance(answer.reading, TooBig):
            raise Undecided
        if isinstance(gold.reading, TooBig) and answer.value is not None:
            return False  # what is of no explosive size is not this gold answer
        if gold.value is not None and answer.value is not None:
            try:
                if gold.value.equals(answer.value):
                    return True
            except TooBig:
                raise Undecided from None
            except NotExact:
                return False
            if gold.value.closed and answer.value.closed:
                return False
        elif gold.value is not None and not gold.value.names and _SEVERAL_NUMBERS.fullmatch(answer.text):
            raise Ambiguous  # 42 41, 42 rather than 41
        return self.ask(gold.text, answer.text)

    def ask(self, gold: str, answer: str) -> bool:
        """The workers' verdict on two expressions, if the question is a sensible and affordable one."""
        verdict = may_ask(gold, answer)
        if verdict is not None:
            if verdict == "undecided" and self.asking:
                raise Undecided
            return False
        if not self.asking:
            return False
        self.questions += 1
        if self.questions > MAX_QUESTIONS:
            raise Undecided
        same = same_latex(gold, answer)
        if same is None:
            raise Undecided
        return same
