"""Poisson processes whose rate changes over time: ramp, steps, sinusoid, day. Rates are requests per second.

All are exact: curves made of straight pieces invert the cumulated rate, and the sinusoid is thinned from its peak
(Lewis and Shedler 1979).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, pairwise

import numpy as np

from envs.workloads.processes import above_zero

DAY_S = 86_400.0

_Piece = tuple[float, float, float]
"""Seconds, rate at the start, rate at the end; straight between them."""


@dataclass(frozen=True, slots=True)
class Ramp:
    """From ``start_rate`` in a straight line to ``end_rate`` at ``duration`` seconds, and that rate from then on."""

    start_rate: float
    end_rate: float
    duration: float

    def __post_init__(self) -> None:
        above_zero(end_rate=self.end_rate, duration=self.duration)
        if self.start_rate < 0:
            raise ValueError(f"start_rate must not be below 0, not {self.start_rate}")

    def rate_at(self, at: float) -> float:
        """The rate at a time."""
        share = min(max(at / self.duration, 0.0), 1.0)
        return self.start_rate + share * (self.end_rate - self.start_rate)

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Inverse of the cumulated rate."""
        pieces = [(self.duration, self.start_rate, self.end_rate), (math.inf, self.end_rate, self.end_rate)]
        return _along(iter(pieces), rng)


@dataclass(frozen=True, slots=True)
class Step:
    """Constant rates that change at given times: ``((0, 5), (60, 20))`` is 5 for a minute, then 20.

    The first time is 0, the last rate stays and is above 0; earlier ones may be 0.
    """

    steps: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.steps]
        if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
            raise ValueError(f"steps must be (time, rate) pairs in ascending time from 0 on, not {self.steps}")
        if min(rate for _, rate in self.steps) < 0 or self.steps[-1][1] <= 0:
            raise ValueError(f"rates must not be below 0, and the last must be above 0, not {self.steps}")

    def rate_at(self, at: float) -> float:
        """The rate at a time."""
        return next((rate for start, rate in reversed(self.steps) if start <= at), self.steps[0][1])

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Inverse of the cumulated rate."""
        ends = [*(start for start, _ in self.steps[1:]), math.inf]
        pieces = ((end - start, rate, rate) for (start, rate), end in zip(self.steps, ends, strict=True))
        return _along(pieces, rng)


@dataclass(frozen=True, slots=True)
class Sinusoid:
    """``mean · (1 + depth · sin(2π (t − shift) / period))``; the rate is the mean, and rising, at ``shift`` seconds."""

    mean: float
    depth: float = 0.5
    """From 0, a constant rate, to 1, which falls to nothing."""
    period: float = 3600.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        above_zero(mean=self.mean, period=self.period)
        if not 0 <= self.depth <= 1:
            raise ValueError(f"depth must be from 0 to 1, not {self.depth}")

    def rate_at(self, at: float) -> float:
        """The rate at a time."""
        return self.mean * (1.0 + self.depth * math.sin(2.0 * math.pi * (at - self.shift) / self.period))

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Arrivals at the peak rate, each kept with the probability that the rate is of the peak."""
        peak, now = self.mean * (1.0 + self.depth), 0.0
        while True:
            now += rng.exponential(1.0 / peak)
            if rng.random() * peak < self.rate_at(now):
                yield now


@dataclass(frozen=True, slots=True)
class Diurnal:
    """A day, over and over: rates at equal distances through the ``period``, straight lines between them.

    Twenty-four rates are one an hour. ``start`` is the second of the day at which the workload begins.
    """

    rates: tuple[float, ...]
    period: float = DAY_S
    start: float = 0.0

    def __post_init__(self) -> None:
        above_zero(period=self.period)
        if len(self.rates) < 2 or min(self.rates) < 0 or max(self.rates) <= 0:
            raise ValueError(f"needs two rates or more, none below 0 and one above, not {self.rates}")

    @classmethod
    def between(cls, low: float, high: float, *, peak_hour: float = 14.0, start: float = 0.0) -> Diurnal:
        """A cosine-shaped day in 24 pieces, ``high`` at ``peak_hour`` and ``low`` twelve hours from it."""
        hours = (math.cos(2.0 * math.pi * (hour - peak_hour) / 24.0) for hour in range(24))
        return cls(tuple(low + (high - low) * (1.0 + wave) / 2.0 for wave in hours), start=start)

    def rate_at(self, at: float) -> float:
        """The rate at a time."""
        place = (at + self.start) % self.period / self.period * len(self.rates)
        left = int(place) % len(self.rates)
        return self.rates[left] + (place - int(place)) * (self.rates[(left + 1) % len(self.rates)] - self.rates[left])

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Inverse of the cumulated rate."""
        return _along(self._pieces(), rng)

    def _pieces(self) -> Iterator[_Piece]:
        width = self.period / len(self.rates)
        first, into = divmod(self.start % self.period, width)
        turned = self.rates[int(first) :] + self.rates[: int(first)]
        yield width - into, self.rate_at(0.0), turned[1]
        whole = cycle([(width, a, b) for a, b in pairwise((*turned, turned[0]))])
        next(whole)
        yield from whole


def _along(pieces: Iterator[_Piece], rng: np.random.Generator) -> Iterator[float]:
    """Arrivals of unit rate, moved to where the cumulated rate reaches them. ``due`` counts from the piece's start."""
    start, due = 0.0, rng.exponential()
    for width, first, last in pieces:
        room = width * (first + last) / 2.0 if first + last > 0 else 0.0
        slope = 0.0 if first == last else (last - first) / width
        while due < room:
            yield start + min(_reached(due, first, slope), width)
            due += rng.exponential()
        start, due = start + width, due - room


def _reached(work: float, rate: float, slope: float) -> float:
    """Seconds until a rate that rises by ``slope`` per second has added up to ``work``."""
    if work <= 0:
        return 0.0
    return 2.0 * work / (rate + math.sqrt(max(rate * rate + 2.0 * slope * work, 0.0)))
