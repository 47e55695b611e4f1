"""When requests come, and what they ask for: seeded, streaming, without end unless bounded.

Arrival processes give times; :func:`arrivals` joins them with requests. Rates are requests per second, times seconds
from the start of the workload.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice, takewhile
from typing import Protocol

import numpy as np

from envs.families import LEVELS
from envs.tasks import Split, Task, stream


@dataclass(frozen=True, slots=True)
class Lengths:
    """A request known by its sizes alone, as traces have it. ``prefix`` is the chain of block hashes of the prompt."""

    prompt_tokens: int
    output_tokens: int
    prefix: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request at a time. It carries a task to be asked, or lengths to be simulated."""

    at: float
    task: Task | None = None
    lengths: Lengths | None = None
    tenant: str = "default"
    max_tokens: int | None = None
    deadline_s: float | None = None
    """Seconds after ``at`` by which the answer is wanted in full."""


class ArrivalProcess(Protocol):
    """A random process in time."""

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Arrival times in ascending order, without end."""
        ...


def _positive(**rates: float) -> None:
    for name, value in rates.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, not {value}")


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals at a constant rate."""

    rate: float

    def __post_init__(self) -> None:
        _positive(rate=self.rate)

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
        _positive(rate=self.rate, cv=self.cv)

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
        _positive(base_rate=self.base_rate, burst_rate=self.burst_rate)
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
        now = 0.0
        edges = [edge for burst in self.bursts for edge in burst]
        while True:
            work = rng.exponential()
            for edge in (edge for edge in edges if edge > now):
                room = (edge - now) * self.rate_at(now)
                if work < room:
                    break
                work, now = work - room, edge
            now += work / self.rate_at(now)
            yield now


class RequestSource(Protocol):
    """Says what is asked at each arrival."""

    def requests(self, rng: np.random.Generator) -> Iterator[Task | Lengths]:
        """Tasks or lengths, without end."""
        ...


@dataclass(frozen=True, slots=True)
class TaskSource:
    """Tasks of one stream of the suite. Its seed is its own, so that workers can hold the same book."""

    seed: int
    split: Split = Split.TEST
    families: tuple[str, ...] | None = None
    levels: tuple[int, ...] = LEVELS

    def requests(self, rng: np.random.Generator) -> Iterator[Task | Lengths]:
        """The stream in its order."""
        return iter(stream(self.seed, self.split, self.families, self.levels))


@dataclass(frozen=True, slots=True)
class GivenTasks:
    """Tasks from a list, in its order, and from its start again when it ends."""

    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("no tasks to draw from")

    def requests(self, rng: np.random.Generator) -> Iterator[Task | Lengths]:
        """The list, over and over."""
        return (self.tasks[index % len(self.tasks)] for index in count())


@dataclass(frozen=True, slots=True)
class LengthSource:
    """Requests drawn with replacement from known lengths, for example those of a trace."""

    lengths: tuple[Lengths, ...]

    def __post_init__(self) -> None:
        if not self.lengths:
            raise ValueError("no lengths to draw from")

    def requests(self, rng: np.random.Generator) -> Iterator[Task | Lengths]:
        """Uniform draws."""
        while True:
            yield self.lengths[int(rng.integers(len(self.lengths)))]


@dataclass(frozen=True, slots=True)
class Demand:
    """Who asks, and with what limits. ``tenants`` maps a name to its share of requests."""

    tenants: Mapping[str, float] = field(default_factory=lambda: {"default": 1.0})
    max_tokens: int | None = None
    deadline_s: float | None = None


def arrivals(
    process: ArrivalProcess,
    source: RequestSource,
    seed: int,
    *,
    duration: float | None = None,
    count: int | None = None,
    demand: Demand | None = None,
) -> Iterator[Arrival]:
    """A workload, as a stream; up to ``duration`` seconds and ``count`` requests, without end if neither is given.

    Times, requests and tenants come from separate streams of the seed: changing one leaves the others as they are.
    """
    demand = demand or Demand()
    clock, content, tenancy = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    times: Iterable[float] = process.times(clock)
    if duration is not None:
        times = takewhile(lambda at: at < duration, times)
    pairs = zip(times, source.requests(content), _tenants(demand.tenants, tenancy), strict=False)
    return (_arrival(at, request, tenant, demand) for at, request, tenant in islice(pairs, count))


def bursty(
    seed: int,
    duration: float,
    base_rate: float,
    burst_rate: float,
    bursts: Sequence[tuple[float, float]],
    *,
    source: RequestSource | None = None,
    demand: Demand | None = None,
) -> list[Arrival]:
    """A bursty workload as a list; of test tasks unless another source is given."""
    process = Bursty(base_rate, burst_rate, tuple(bursts))
    return list(arrivals(process, source or TaskSource(seed), seed, duration=duration, demand=demand))


def _tenants(shares: Mapping[str, float], rng: np.random.Generator) -> Iterator[str]:
    names = list(shares)
    edges = np.cumsum([shares[name] for name in names])
    if not names or edges[-1] <= 0:
        raise ValueError(f"tenants need shares above 0, not {dict(shares)}")
    while True:
        yield names[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]


def _arrival(at: float, request: Task | Lengths, tenant: str, demand: Demand) -> Arrival:
    task, lengths = (request, None) if isinstance(request, Task) else (None, request)
    return Arrival(at, task, lengths, tenant, demand.max_tokens, demand.deadline_s)
