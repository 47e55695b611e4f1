"""Capacity: the greatest rate that a fleet still serves well, found by bisection (Etalon, Agrawal et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

_VICINITY = 0.8
"""A pass above this share of the upper bound makes the bound too low to believe in."""


class CapacitySearch:
    """Asks for rates to try, and is told how they went; owns no clock, no fleet, and never asks for a rate twice.

    Begins between 0 and ``2·start`` requests/s, in the middle. A rate that passes becomes the lower bound, and where it
    lies above 0.8 of the upper one, that doubles, though not beyond a rate that has failed; a rate that fails becomes
    the upper bound. It ends when the bounds lie within ``granularity`` (a share) of the last rate, after ``iterations``
    rates, or when the next rate, rounded to ``digits`` decimals, is the last one again. ``known`` are results of
    earlier runs, which count as iterations but are not asked for again.
    """

    def __init__(
        self,
        start: float,
        *,
        granularity: float = 0.05,
        iterations: int = 10,
        digits: int = 2,
        known: Mapping[float, bool] | None = None,
    ) -> None:
        if not 0 < start < math.inf:
            raise ValueError(f"the search starts at a finite rate above 0, not at {start}")
        if not (0 < granularity < 1 and iterations >= 1):
            raise ValueError(
                f"granularity must lie in (0, 1) and iterations be at least 1: {granularity}, {iterations}"
            )
        self.results: dict[float, bool] = dict(known or {})
        """Rate → whether it passed: all that is known so far."""
        self.capacity: float | None = None
        """The greatest rate tried that passed; ``None`` as long as none did."""
        self._granularity, self._digits, self._left = granularity, digits, iterations
        self._low, self._high = 0.0, 2.0 * start
        self._least_failed = math.inf
        self._last = 0.0
        self._next: float | None = None
        self._go_on()

    @property
    def next_rate(self) -> float | None:
        """The rate to try now, in requests/s; ``None`` when the search has ended."""
        return self._next

    def record(self, passed: bool) -> None:
        """How :attr:`next_rate` went.

        Raises:
            ValueError: the search has ended.
        """
        if self._next is None:
            raise ValueError("the search has ended; no rate is being tried")
        self.results[self._next] = passed
        self._take(self._next, passed)
        self._go_on()

    def _go_on(self) -> None:
        """Choose the next rate, passing over those whose result is known."""
        while (rate := self._choose()) is not None and rate in self.results:
            self._take(rate, self.results[rate])
        self._next = rate

    def _choose(self) -> float | None:
        if self._left == 0 or abs(self._high - self._low) < self._granularity * self._last:
            return None
        rate = round((self._low + self._high) / 2.0, self._digits)
        return None if rate in (self._last, 0.0) else rate

    def _take(self, rate: float, passed: bool) -> None:
        self._left -= 1
        self._last = rate
        if passed:
            self.capacity = rate if self.capacity is None else max(rate, self.capacity)
            if rate > _VICINITY * self._high:
                self._high = min(2.0 * self._high, self._least_failed)
            self._low = rate
        else:
            self._high = rate
            self._least_failed = min(rate, self._least_failed)


def search_capacity(passes: Callable[[float], bool], search: CapacitySearch) -> float | None:
    """Run a search to its end: ``passes`` is called with each rate in requests/s, and says whether it was served well.

    The greatest rate that passed, or ``None`` if none did.
    """
    while (rate := search.next_rate) is not None:
        search.record(passes(rate))
    return search.capacity
