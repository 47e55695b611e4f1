"""A fleet and what it has to serve, written down once: for training, for evaluation and for the demo.

Limits, rates and deadlines belong together: :data:`DEMO` is an overload in which the large pool alone is lost, the
small one alone wastes quality, and what is right changes with the load and the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from controller.rates import busy_rate
from controller.types import PoolSpec, WorkerSpec
from envs.workloads import ArrivalProcess, Bursty, Gamma, Poisson
from predictors.latency.model import Profile

__all__ = ["DEMO", "QUEUE", "WAVES", "Modulated", "Scenario", "ScenarioPool", "WorkloadKind"]


class WorkloadKind(StrEnum):
    """How requests come, in the words of Learned Best-Effort LLM Serving (arXiv 2401.07886), and its bursts."""

    STABLE = "stable"
    """Poisson at the scenario's mean rate."""
    BURSTY = "bursty"
    """Poisson at the base rate, and at the burst rate within the scenario's bursts."""
    UNPREDICTABLE = "unpredictable"
    """A rate that jumps at random between half the base rate and 1.25 times the burst rate, with clumped arrivals."""


@dataclass(frozen=True, slots=True)
class Modulated:
    """A doubly stochastic process: in spells of random length, gamma-spaced arrivals at a rate drawn for the spell.

    Rates are log-uniform between ``low`` and ``high``; spells are exponential with mean ``dwell_s``; ``cv`` is the
    coefficient of variation of the gaps within a spell.
    """

    low: float
    high: float
    dwell_s: float = 6.0
    cv: float = 1.5

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high and self.dwell_s > 0 and self.cv > 0):
            raise ValueError(f"rates must ascend from above 0, dwell_s and cv be positive, not {self}")

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Arrival times in ascending order, without end."""
        start = 0.0
        while True:
            end = start + rng.exponential(self.dwell_s)
            rate = float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
            for gap in Gamma(rate, self.cv).times(rng):
                if start + gap >= end:
                    break
                yield start + gap
            start = end


@dataclass(frozen=True, slots=True)
class ScenarioPool:
    """A pool of simulated workers. ``profile`` names the engine profile, ``max_inflight`` is per worker."""

    name: str
    profile: str
    tier: int
    max_inflight: int
    workers: int = 1
    priority_scheduling: bool = False
    """Workers schedule by the queue's order, too."""

    def worker_names(self) -> tuple[str, ...]:
        """``large-0``, ``large-1``, …"""
        return tuple(f"{self.name}-{index}" for index in range(self.workers))

    def worker(self, name: str, url: str | None = None) -> WorkerSpec:
        """A worker of this pool."""
        return WorkerSpec(name, self.name, url or f"sim://{name}", self.max_inflight, self.priority_scheduling)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Pools from the lowest tier up, and a workload for them.

    Rates are requests per second, ``bursts`` (start, end) seconds; ``deadline_s`` is how long after its arrival a
    request's whole answer is wanted.
    """

    name: str
    pools: tuple[ScenarioPool, ...]
    base_rate: float
    burst_rate: float
    bursts: tuple[tuple[float, float], ...]
    duration_s: float
    deadline_s: float
    max_tokens: int = 512
    """The client's limit on every answer."""
    max_queue: int = 512
    seed: int = 0
    static_pool: str = ""
    """The pool that a static deployment would use: the best single one for this workload."""
    threshold: Mapping[str, Any] = field(default_factory=dict)
    """Options of the tier stage ``threshold``, tuned for this scenario on validation seeds."""
    best_effort: Mapping[str, Any] = field(default_factory=dict)
    """Options of the tier stage ``best_effort``."""
    tenants: Mapping[str, float] = field(default_factory=lambda: {"default": 1.0})
    """Who asks, and their shares of the requests."""
    dwell_s: float = 6.0
    """Mean length of a spell of one rate in the unpredictable workload."""

    @property
    def mean_rate(self) -> float:
        """Requests per second over the whole of the bursty workload."""
        share = sum(end - start for start, end in self.bursts) / self.duration_s
        return self.base_rate + share * (self.burst_rate - self.base_rate)

    def arrivals(self, kind: WorkloadKind) -> ArrivalProcess:
        """The process behind a kind of workload."""
        if kind is WorkloadKind.STABLE:
            return Poisson(self.mean_rate)
        if kind is WorkloadKind.BURSTY:
            return Bursty(self.base_rate, self.burst_rate, self.bursts)
        return Modulated(0.5 * self.base_rate, 1.25 * self.burst_rate, self.dwell_s)

    def pool(self, name: str) -> ScenarioPool:
        """The pool of this name; :class:`KeyError` if there is none."""
        return {pool.name: pool for pool in self.pools}[name]

    def pool_specs(self, profiles: Mapping[str, Profile]) -> tuple[PoolSpec, ...]:
        """The pools as the control plane knows them, given each pool's profile by the pool's name.

        What a pool can do and costs comes from its profile; ``prior_quality`` is the mean of its skill table.
        """
        return tuple(_spec(pool, profiles[pool.name]) for pool in self.pools)

    def service_rates(self, profiles: Mapping[str, Profile]) -> dict[str, float]:
        """Token-work per second of one busy worker of each pool: its in-flight limit over the time of a decode step."""
        return {pool.name: busy_rate(profiles[pool.name], pool.max_inflight) for pool in self.pools}

    def worker_specs(self, urls: Mapping[str, str] | None = None) -> tuple[WorkerSpec, ...]:
        """The workers; ``urls`` by worker name, and ``sim://NAME`` for those it leaves out."""
        return tuple(pool.worker(name, (urls or {}).get(name)) for pool in self.pools for name in pool.worker_names())


def _spec(pool: ScenarioPool, profile: Profile) -> PoolSpec:
    shares = [share for levels in profile.skill.values() for share in levels]
    return PoolSpec(
        name=pool.name,
        model=profile.model,
        tier=pool.tier,
        context_length=profile.max_model_len,
        prior_quality=float(np.mean(shares)) if shares else 0.5,
        profile=pool.profile,
    )


DEMO = Scenario(
    name="demo",
    pools=(
        ScenarioPool("small", "h100-1b", tier=0, max_inflight=16),
        ScenarioPool("medium", "h100-8b", tier=1, max_inflight=8),
        ScenarioPool("large", "h100-32b", tier=2, max_inflight=8),
    ),
    base_rate=5.0,
    burst_rate=30.0,
    bursts=((8.0, 20.0), (28.0, 34.0)),
    duration_s=42.0,
    deadline_s=4.0,
    seed=7,
    static_pool="medium",
    threshold={"wait_s": 1.0, "waits_s": {"medium": 3.0, "large": 1.5}, "reopen": 0.9},
)


WAVES = Scenario(
    name="waves",
    pools=(
        ScenarioPool("medium", "h100-8b", tier=0, max_inflight=16),
        ScenarioPool("large", "h100-32b", tier=1, max_inflight=16),
    ),
    base_rate=4.0,
    burst_rate=40.0,
    bursts=((240.0, 480.0), (720.0, 900.0)),
    duration_s=1200.0,
    deadline_s=8.0,
    seed=11,
    static_pool="medium",
    threshold={"wait_s": 2.0, "waits_s": {"large": 3.0}, "reopen": 0.9},
    dwell_s=120.0,
)
"""Twenty minutes with two waves, each longer than an engine takes to start; for the number of replicas."""

QUEUE = Scenario(
    name="queue",
    pools=(ScenarioPool("medium", "h100-8b", tier=1, max_inflight=8, workers=2),),
    base_rate=15.0,
    burst_rate=45.0,
    bursts=((8.0, 20.0), (28.0, 34.0)),
    duration_s=42.0,
    deadline_s=20.0,
    seed=5,
    static_pool="medium",
    tenants={"search": 0.6, "chat": 0.3, "batch": 0.1},
)
"""One pool before which requests queue in two bursts; for the order of the queue."""
