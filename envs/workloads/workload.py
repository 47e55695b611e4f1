"""Arrival processes and requests joined to workloads: of one kind, or of many tenants."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import accumulate, islice, repeat, takewhile

import numpy as np

from envs.tasks import Task
from envs.workloads.conversations import Conversations, conversations
from envs.workloads.processes import ArrivalProcess, Bursty
from envs.workloads.requests import Arrival
from envs.workloads.sources import Request, RequestSource, Source, TaskSource, asking


@dataclass(frozen=True, slots=True)
class Demand:
    """Who asks, and with what limits. ``tenants`` maps a name to its share of requests."""

    tenants: Mapping[str, float] = field(default_factory=lambda: {"default": 1.0})
    max_tokens: int | None = None
    deadline_s: float | None = None
    asks: Mapping[str, Source] = field(default_factory=dict)
    """What tenants ask who do not ask what the others do; each has a stream of its own."""


def arrivals(
    process: ArrivalProcess,
    source: Source,
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
    common = asking(source, content)
    own = {name: asking(demand.asks[name], np.random.default_rng(_seed(seed, name))) for name in demand.asks}
    due = zip(times, _tenants(demand.tenants, tenancy), strict=False)
    return (_arrival(at, request, tenant, demand) for at, request, tenant in islice(_asked(due, common, own), count))


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


@dataclass(frozen=True, slots=True)
class TenantLoad:
    """What one tenant does: when it asks, what it asks, and with what limits.

    Its requests are single where ``asks`` is a source, and turns where it is a way of holding conversations; then
    ``process`` says when a conversation begins.
    """

    process: ArrivalProcess
    asks: Source | Conversations
    max_tokens: int | None = None
    deadline_s: float | None = None


def mixed(
    loads: Mapping[str, TenantLoad], seed: int, *, duration: float | None = None, count: int | None = None
) -> Iterator[Arrival]:
    """Many tenants' workloads as one, in order of time.

    Each tenant has a seed of its own, from its name: adding, changing or removing one leaves the others as they are.
    """
    if not loads:
        raise ValueError("no tenants to mix")
    streams = (_load(name, load, seed, duration) for name, load in loads.items())
    return islice(heapq.merge(*streams, key=lambda arrival: arrival.at), count)


def _load(name: str, load: TenantLoad, seed: int, duration: float | None) -> Iterator[Arrival]:
    own = _seed(seed, name)
    if isinstance(load.asks, Conversations):
        talk = partial(conversations, max_tokens=load.max_tokens, deadline_s=load.deadline_s)
        return talk(load.process, load.asks, own, tenant=name, duration=duration)
    demand = Demand({name: 1.0}, load.max_tokens, load.deadline_s)
    return arrivals(load.process, load.asks, own, duration=duration, demand=demand)


def _asked(
    due: Iterable[tuple[float, str]], common: Callable[[float], Request], own: Mapping[str, Callable[[float], Request]]
) -> Iterator[tuple[float, Request, str]]:
    for at, tenant in due:
        try:
            request = own.get(tenant, common)(at)
        except StopIteration:
            return
        yield at, request, tenant


def _seed(seed: int, name: str) -> int:
    """A seed for whatever has a name, apart from those of all other names."""
    return int.from_bytes(blake2b(f"{seed} {name}".encode(), digest_size=6).digest())


def _tenants(shares: Mapping[str, float], rng: np.random.Generator) -> Iterator[str]:
    names, edges = list(shares), list(accumulate(shares.values()))
    if not names or min(shares.values()) < 0 or edges[-1] <= 0:
        raise ValueError(f"tenants need shares above 0, not {dict(shares)}")
    if len(names) == 1:
        yield from repeat(names[0])
    while True:
        yield names[min(bisect_right(edges, rng.random() * edges[-1]), len(names) - 1)]


def _arrival(at: float, request: Request, tenant: str, demand: Demand) -> Arrival:
    task, lengths = (request, None) if isinstance(request, Task) else (None, request)
    return Arrival(at, task, lengths, tenant, demand.max_tokens, demand.deadline_s)
