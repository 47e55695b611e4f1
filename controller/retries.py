"""How many further attempts there may be: a share of the requests, so that a failing fleet is not asked over and over.

Each request deposits a share of an attempt, each further attempt takes a whole one, and a few a second are free, or a
quiet gateway could never try again. What is not used fades away. Envoy and Finagle bound retries the same way.
https://finagle.github.io/blog/2016/02/08/retry-budgets/
"""

from __future__ import annotations

import math

__all__ = ["RetryBudget"]

_MEMORY_S = 30.0
"""Time constant with which the balance goes back to what is free."""
_FADE_EVERY_S = 0.5


class RetryBudget:
    """Times in seconds. ``share`` is attempts a request; ``None`` sets no bound.

    From any moment to any later one, at most ``share`` × requests + ``free_per_s`` × seconds further attempts are
    granted, and those that were saved before: ``free_per_s`` × 30 at the start.
    """

    __slots__ = ("_at", "_balance", "_resting", "_share", "refused")

    def __init__(self, share: float | None, free_per_s: float) -> None:
        self._share = share
        self._resting = free_per_s * _MEMORY_S
        self._balance = self._resting
        self._at = -math.inf
        self.refused = 0
        """Attempts that were not granted."""

    @property
    def balance(self) -> float:
        """Attempts that would be granted now."""
        return math.inf if self._share is None else self._balance

    def reconfigure(self, share: float | None, free_per_s: float) -> None:
        """Go by these from now on; what was saved stays."""
        self._share = share
        self._resting = free_per_s * _MEMORY_S

    def deposit(self, now: float) -> None:
        """A request was taken."""
        if self._share is not None:
            if now - self._at > _FADE_EVERY_S:
                self._fade(now)
            self._balance += self._share

    def take(self, now: float) -> bool:
        """Whether there may be a further attempt; if so, it is one less."""
        if self._share is None:
            return True
        self._fade(now)
        if self._balance < 1.0:
            self.refused += 1
            return False
        self._balance -= 1.0
        return True

    def _fade(self, now: float) -> None:
        passed, self._at = now - self._at, now
        if passed > 0.0:
            self._balance = self._resting + (self._balance - self._resting) * math.exp(-passed / _MEMORY_S)
