"""When requests come: random processes in time, without end. Rates are requests per second, times seconds.

A process is drawn from one generator, so the same seed gives the same times. None holds more than its state: a week at
a hundred requests per second is a stream like any other.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class ArrivalProcess(Protocol):
    """A random process in time."""

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Arrival times in ascending order, without end."""
        ...


def above_zero(**values: float) -> None:
    """Raise ``ValueError`` for the first of them that is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, not {value}")


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals at a constant rate."""

    rate: float

    def __post_init__(self) -> None:
        above_zero(rate=self.rate)

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Exponential gaps."""
        now = 0.0
        while True:
            now += rng.exponential(1.0 / self.rate)
            yield now


@dataclass(frozen=True, slots=True)
class Gamma:
    """Gamma-distributed gaps with coefficient of variation ``cv``: above 1 clumped, 1 Poisson, below 1 regular."""

    rate: float
    cv: float = 1.0

    def __post_init__(self) -> None:
        above_zero(rate=self.rate, cv=self.cv)

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Gaps of shape ``1 / cv²`` and mean ``1 / rate``."""
        shape = 1.0 / self.cv**2
        now = 0.0
        while True:
            now += rng.gamma(shape, 1.0 / (shape * self.rate))
            yield now


@dataclass(frozen=True, slots=True)
class Bursty:
    """A Poisson process whose rate is ``base_rate``, and ``burst_rate`` within the bursts (start, end)."""

    base_rate: float
    burst_rate: float
    bursts: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        above_zero(base_rate=self.base_rate, burst_rate=self.burst_rate)
        edges = [edge for burst in self.bursts for edge in burst]
        if edges != sorted(edges) or (edges and edges[0] < 0):
            raise ValueError(f"bursts must be ascending (start, end) pairs that do not overlap, not {self.bursts}")

    def rate_at(self, at: float) -> float:
        """The rate at a time."""
        return self.burst_rate if self.in_burst(at) else self.base_rate

    def in_burst(self, at: float) -> bool:
        """Whether a time lies in a burst."""
        return any(start <= at < end for start, end in self.bursts)

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Unit-rate exponential gaps, run through the inverse of the cumulated rate."""
        now, rate = 0.0, self.rate_at(0.0)
        edges = deque([edge for burst in self.bursts for edge in burst])
        while True:
            work = rng.exponential()
            while edges:
                room = (edges[0] - now) * rate
                if edges[0] > now and work < room:
                    break
                if edges[0] > now:
                    work -= room
                    now = edges[0]
                edges.popleft()
                rate = self.rate_at(now)
            now += work / rate
            yield now


@dataclass(frozen=True, slots=True)
class MMPP:
    """A Markov-modulated Poisson process: Poisson at ``rates[s]`` in state s, which lasts ``dwells_s[s]`` on average.

    Dwell times are exponential. ``moves[s][t]`` is the probability that t follows s; left out, every other state is as
    likely. The process begins in a state drawn by the long-run share of time. A rate of 0 is a state of silence.
    """

    rates: tuple[float, ...]
    dwells_s: tuple[float, ...]
    moves: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        states = len(self.rates)
        if states < 2 or len(self.dwells_s) != states or min(self.rates) < 0 or max(self.rates) <= 0:
            raise ValueError(f"needs a dwell time for each of two or more rates, and a rate above 0, not {self}")
        above_zero(dwell_s=min(self.dwells_s))
        table = self._moves()
        if table.shape != (states, states) or table.min() < 0 or not np.allclose(table.sum(axis=1), 1.0):
            raise ValueError(f"moves must be {states} rows of {states} probabilities that add up to 1")
        if np.diag(table).any():
            raise ValueError("a state does not follow itself: make its dwell time longer instead")

    @property
    def rate(self) -> float:
        """The mean rate in the long run."""
        return float(self._shares() @ np.asarray(self.rates))

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Poisson arrivals in each state for as long as it lasts."""
        moves, states = np.cumsum(self._moves(), axis=1), len(self.rates)
        state = int(rng.choice(states, p=self._shares()))
        now = 0.0
        while True:
            end, rate = now + rng.exponential(self.dwells_s[state]), self.rates[state]
            at = now + rng.exponential(1.0 / rate) if rate > 0 else end
            while at < end:
                yield at
                at += rng.exponential(1.0 / rate)
            state = min(int(np.searchsorted(moves[state], rng.random(), side="right")), states - 1)
            now = end

    def _moves(self) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        states = len(self.rates)
        if self.moves is None:
            return (np.ones((states, states)) - np.eye(states)) / (states - 1)
        return np.asarray(self.moves, dtype=np.float64)

    def _shares(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Share of time in each state: the stationary distribution of the moves, weighted by the dwell times."""
        moves, states = self._moves(), len(self.rates)
        balance = np.vstack([moves.T - np.eye(states), np.ones(states)])
        visits = np.linalg.lstsq(balance, np.append(np.zeros(states), 1.0), rcond=None)[0].clip(min=0.0)
        time = visits * np.asarray(self.dwells_s)
        return np.asarray(time / time.sum(), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Superposition:
    """Several processes at once: all their arrivals, in order. Each has its own stream of the seed."""

    parts: tuple[ArrivalProcess, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("no processes to lay over one another")

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """The parts' times, merged."""
        streams = rng.spawn(len(self.parts))
        return heapq.merge(*(part.times(stream) for part, stream in zip(self.parts, streams, strict=True)))
