"""Dynamic sampling, drawn ahead: which prompts a rollout takes, and how many to draw at once.

Replacing a rejected prompt one for one lets the engines run empty: the last ones that are missing come one after the
other, each taking as long as its replies are. Here as many are under way as the share that passes calls for. What a
rollout takes does not change by it: the draws up to the one that completes it, as if they were made one by one and
whatever is finished first (to take what is first would prefer short replies). Draws beyond that one are given back.
"""

import math


class DrawAhead:
    """The draws of a rollout that wants `wanted` accepted ones, numbered from 0 in the order they are made.

    `passed` of `finished` is what is known of the share that is accepted, from the rollout before.
    """

    def __init__(self, wanted: int, passed: int = 0, finished: int = 0):
        self.wanted, self.drawn = wanted, 0  # drawn: finished or under way
        self.length = 0  # draws, from the first on, of which the rollout consists, as far as that is known
        self._known = (passed, finished)
        self._accepted: dict[int, bool] = {}  # of the finished draws
        self._passed = 0  # of them
        self._taken = 0  # accepted ones among the first `length`

    def finish(self, draw: int, accepted: bool) -> None:
        """A draw that was under way is accepted or rejected."""
        self._accepted[draw] = accepted
        self._passed += accepted
        while self._taken < self.wanted and self.length in self._accepted:
            self._taken += self._accepted[self.length]
            self.length += 1

    @property
    def under_way(self) -> int:
        """Draws that are not finished."""
        return self.drawn - len(self._accepted)

    @property
    def complete(self) -> bool:
        """True if the first `length` draws hold as many accepted ones as are wanted, and none before them is open."""
        return self._taken == self.wanted

    @property
    def lacking(self) -> int:
        """Number of draws to make now: never so many that more are under way than the rollout began with."""
        passed, finished = (known + now for known, now in zip(self._known, self.seen, strict=True))
        expected = (self.wanted - self._passed) * (finished + 1) / (passed + 1)  # as if one more had passed
        return max(0, min(self.wanted, math.ceil(expected)) - self.under_way)

    @property
    def seen(self) -> tuple[int, int]:
        """Accepted and finished draws."""
        return self._passed, len(self._accepted)
