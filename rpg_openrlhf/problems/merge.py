"""Copies of a problem: the first is kept, the others are counted, and so is a copy with another answer."""

from typing import Literal

from rpg_openrlhf.problems.filters import digest, same_answer, spacing_key

Seen = Literal["new", "exact", "spacing"]


class Copies:
    """Remembers a digest and a short answer for every distinct problem, not its text."""

    def __init__(self) -> None:
        self._groups: dict[bytes, int] = {}  # digest of a text, as it is or up to spacing -> its problem
        self._answers: list[str] = []
        self.conflicting: set[int] = set()

    def add(self, text: str, answer: str) -> Seen:
        """Is this problem new? Problems are numbered in the order in which they were new."""
        exact = digest(text)
        group = self._groups.get(exact)
        if group is not None:
            self._compare(group, answer)
            return "exact"
        key = digest("\0" + spacing_key(text))  # the \0: a text is never the key of another
        group = self._groups.get(key)
        if group is not None:
            self._groups[exact] = group
            self._compare(group, answer)
            return "spacing"
        self._groups[exact] = self._groups[key] = len(self._answers)
        self._answers.append(answer)
        return "new"

    def _compare(self, group: int, answer: str) -> None:
        if group not in self.conflicting and not same_answer(self._answers[group], answer):
            self.conflicting.add(group)
