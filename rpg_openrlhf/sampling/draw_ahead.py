"""Drawing ahead for dynamic sampling: which prompts a rollout takes, and how many to draw at once.

Replacing rejected prompts one for one leaves engines idle: the last missing ones are sampled one after the other. Here
the acceptance rate decides how many are under way. A rollout still takes its draws in order, up to the one that
completes it, independently of which finish first: taking the first to finish would prefer short replies. Later draws
are given back.
"""

import math


class DrawAhead:
    """Draws of a rollout that needs `wanted` accepted ones, numbered from 0 in the order in which they are made.

    `passed` of `finished` draws were accepted in the previous rollout; this is the first estimate of the rate.
    """

    def __init__(self, wanted: int, passed: int = 0, finished: int = 0):
        self.wanted, self.drawn = wanted, 0  # drawn: finished or under way
        self.length = 0  # the rollout consists of at least the first `length` draws
        self._known = (passed, finished)
        self._accepted: dict[int, bool] = {}  # finished draw -> True if it was accepted
        self._passed = 0  # accepted draws among the finished ones
        self._taken = 0  # accepted draws among the first `length`

    def finish(self, draw: int, accepted: bool) -> None:
        """Record that a draw is finished, and accepted or rejected."""
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
        """True if the first `length` draws, all of them finished, hold `wanted` accepted ones."""
        return self._taken == self.wanted

    @property
    def lacking(self) -> int:
        """Number of draws to start now, so that at most `wanted` are under way."""
        passed, finished = (known + now for known, now in zip(self._known, self.seen, strict=True))
        expected = (self.wanted - self._passed) * (finished + 1) / (passed + 1)  # +1: the rate is never 0
        return max(0, min(self.wanted, math.ceil(expected)) - self.under_way)

    @property
    def seen(self) -> tuple[int, int]:
        """Numbers of accepted and of finished draws."""
        return self._passed, len(self._accepted)
