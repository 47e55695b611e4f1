"""A token bucket whose time is passed in and whose rate can be scaled while it runs."""

from __future__ import annotations

import math

__all__ = ["Bucket"]

_ROUNDING_S = 1e-6
"""Added to waits, so that who comes back in time is not a rounding error too early."""


class Bucket:
    """Fills at ``rate`` a second up to ``capacity``; both are scaled by ``share``, in [0, 1].

    What is taken over any time t, less what is given back, is at most share·(capacity + rate·t), as long as no single
    amount is larger than the bucket. Such a one waits for the bucket to be full and leaves it below zero, which the
    following ones pay back. A ``now`` before the last one counts as the last one.
    """

    __slots__ = ("_at", "_flow", "_full", "_level", "capacity", "rate", "share")

    def __init__(self, rate: float, capacity: float, now: float, share: float = 1.0) -> None:
        self._scale(rate, capacity, share)
        self._level = self._full
        self._at = now

    def level(self, now: float) -> float:
        """What is in it; negative while a debt is paid back."""
        passed = now - self._at
        if passed > 0:
            self._at = now
            level = self._level + passed * self._flow
            self._level = level if level < self._full else self._full
        return self._level

    def wait(self, amount: float, now: float) -> float:
        """Seconds until ``amount`` may be taken; 0 if it may be now, infinite while the share is 0."""
        full = self._full
        if not full:
            return math.inf
        missing = (amount if amount < full else full) - (self._level if now <= self._at else self.level(now))
        return 0.0 if missing <= 0 else missing / self._flow + _ROUNDING_S

    def take(self, amount: float, now: float) -> None:
        """Take it, whether it is there or not; ask :meth:`wait` first. A negative amount is given back."""
        level = (self._level if now <= self._at else self.level(now)) - amount
        self._level = level if level < self._full else self._full

    def full_in(self, now: float) -> float:
        """Seconds until it is full."""
        missing = self._full - self.level(now)
        return missing / self._flow if missing > 0 else 0.0

    def whole(self, now: float) -> tuple[int, float]:
        """What may be taken at once, of all shares together, and the seconds until it is full."""
        level, share = self.level(now), self.share
        if not share:
            return 0, math.inf
        missing = self._full - level
        return int(level / share) if level > 0 else 0, missing / self._flow if missing > 0 else 0.0

    def lease(self, share: float, now: float) -> None:
        """Have another share from now on. A larger one fills at its own pace; of a smaller one the excess is lost."""
        self.level(now)
        self._scale(self.rate, self.capacity, share)
        self._level = min(self._level, self._full)

    def resize(self, rate: float, capacity: float, now: float) -> None:
        """Other limits from now on, in the same manner."""
        self.level(now)
        self._scale(rate, capacity, self.share)
        self._level = min(self._level, self._full)

    def _scale(self, rate: float, capacity: float, share: float) -> None:
        self.rate, self.capacity, self.share = rate, capacity, share
        self._flow, self._full = rate * share, capacity * share
