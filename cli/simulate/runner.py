"""Running a workload under a policy: the seam, and the runner that drives the whole control plane."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt

from cli.simulate.gauges import Gauges, Reading, Sampler
from cli.simulate.machines import ALIAS, Machines
from cli.simulate.policies import Policy, build_stages
from cli.simulate.workload import Ranks, Workload

if TYPE_CHECKING:
    from controller.pipeline import ControlPlane
    from controller.settings import ControlSettings
    from controller.types import WorkerSpec
    from envs.engines.base import EngineState
    from envs.engines.sim import SimEngine
    from envs.fleet import Ended, FleetRequest, SimFleet

__all__ = [
    "COMPLETED",
    "FAILED",
    "REJECTED",
    "FullRunner",
    "Limits",
    "Outcome",
    "Runner",
    "control_settings",
    "worker_specs",
]

COMPLETED, REJECTED, FAILED = 0, 1, 2
"""Codes of how a request ended; one that was aborted has failed."""
_FLUSH: Final = 512
"""Requests after which those that have ended are taken out of the fleet."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Limits:
    """The gateway's limits where a policy does not set its own."""

    max_inflight: int = 64
    """Requests on one worker at most."""
    max_queue: int = 1024
    max_queue_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of n requests, as columns (n,) in order of arrival, and of the fleet meanwhile.

    ``e2e`` and ``ttft`` in seconds from each arrival, NaN where there was no complete answer or no first token.
    """

    result: npt.NDArray[np.int8]
    e2e: Floats
    ttft: Floats
    output_tokens: npt.NDArray[np.int64]
    gauges: Gauges
    preemptions: int | None
    """``None`` where the runner does not count them."""
    prefix_hit_rate: float | None
    """Share of the prompts' tokens that engines found in their prefix caches; ``None`` where they have none."""
    duration_s: float
    """From the first arrival to the last end."""
    wall_s: float
    """What simulating it took."""


class Runner(Protocol):
    """A way to simulate. The same workload and policy give the same outcome, but for ``wall_s``."""

    def check(self, policy: Policy) -> None:
        """Nothing, if it can do this policy.

        Raises:
            ValueError: it cannot, or nobody could; the message says what would be right.
        """
        ...

    def run(self, workload: Workload, policy: Policy, progress: Callable[[int], None]) -> Outcome:
        """Run it to the last end; ``progress`` is told of requests that have arrived since it was told last.

        Raises:
            ValueError: as :meth:`check`, or it cannot do this workload.
        """
        ...


class FullRunner:
    """Every request through the real control plane, over simulated engines."""

    def __init__(
        self,
        machines: Machines,
        *,
        limits: Limits | None = None,
        ranks: Ranks | None = None,
        seed: int = 0,
        prefix_caching: bool = True,
    ) -> None:
        self._machines = machines
        self._limits = limits or Limits()
        self._ranks = ranks
        self._seed = seed
        self._prefix_caching = prefix_caching

    def run(self, workload: Workload, policy: Policy, progress: Callable[[int], None]) -> Outcome:
        """See :meth:`Runner.run`."""
        self.check(policy)
        fleet, engines = self._fleet(workload, policy)
        outcome = _Columns(len(workload))
        sampler = Sampler(workload.span_s)
        requests = _Requests(self._machines, workload, self._ranks, truth=policy.chosen("order") == "oracle")
        started = time.perf_counter()
        told = 0
        for request in requests.all():
            while sampler.due <= request.at:
                fleet.advance(sampler.due)
                sampler.take(_reading(fleet.control, engines, sampler.due))
            fleet.advance(request.at)
            if fleet.submit(request):
                fleet.score(request.ticket.id)
            if request.index - told >= _FLUSH:
                outcome.take(fleet.take_ended())
                progress(request.index - told)
                told = request.index
        while fleet.open:
            fleet.advance(sampler.due)
            sampler.take(_reading(fleet.control, engines, sampler.due))
        outcome.take(fleet.take_ended())
        wall = time.perf_counter() - started
        progress(len(workload) - told)
        return outcome.outcome(sampler.gauges(), [engine.state() for engine in engines], wall)

    def check(self, policy: Policy) -> None:
        """See :meth:`Runner.check`."""
        build_stages(policy, self._machines, control_settings(self._machines, self._limits, policy))

    def _fleet(self, workload: Workload, policy: Policy) -> tuple[SimFleet, list[SimEngine]]:
        from controller.pipeline import ControlPlane
        from envs.engines.sequence import SchedulingPolicy
        from envs.engines.sim import SimEngine
        from envs.fleet import SimFleet
        from envs.moving import MovingFleet

        machines, limits = self._machines, self._limits
        settings = control_settings(machines, limits, policy)
        stages = build_stages(policy, machines, settings)
        aliases = {ALIAS: tuple(pool.name for pool in machines.pools)}
        control = ControlPlane(machines.pools, stages, aliases=aliases, settings=settings, seed=self._seed)
        fleet = SimFleet(control) if policy.chosen("rebalance") == "none" else MovingFleet(control)
        engines = []
        block = workload.prefix_block if self._prefix_caching else None
        scheduling = SchedulingPolicy(policy.scheduling)
        for spec, machine in zip(worker_specs(machines, limits, policy), machines.workers, strict=True):
            engine = SimEngine(machine.profile, policy=scheduling, prefix_tokens=block)
            fleet.add_worker(spec, engine)
            engines.append(engine)
        return fleet, engines


def control_settings(machines: Machines, limits: Limits, policy: Policy) -> ControlSettings:
    """What the control plane is set to; no request leaves a decision record."""
    from controller.rates import busy_rate
    from controller.settings import ControlSettings

    inflight = policy.max_inflight or limits.max_inflight
    rates: dict[str, float] = {}
    for worker in machines.workers:
        rates.setdefault(worker.pool, busy_rate(worker.profile, inflight))
    return ControlSettings(
        max_queue=limits.max_queue if policy.max_queue is None else policy.max_queue,
        max_queue_s=limits.max_queue_s if policy.max_queue_s is None else policy.max_queue_s,
        service_rates=rates,
        record_share=0.0,
    )


def worker_specs(machines: Machines, limits: Limits, policy: Policy) -> list[WorkerSpec]:
    """The workers as the control plane knows them, in their order."""
    from controller.types import WorkerSpec

    inflight, by_priority = policy.max_inflight or limits.max_inflight, policy.scheduling == "priority"
    return [
        WorkerSpec(
            worker.name,
            worker.pool,
            f"sim://{worker.name}",
            inflight,
            by_priority,
            worker.profile.kv_blocks * worker.profile.block_size,
        )
        for worker in machines.workers
    ]


class _Requests:
    """Makes one request at a time out of the workload's columns."""

    def __init__(self, machines: Machines, workload: Workload, ranks: Ranks | None, *, truth: bool = False) -> None:
        self._workload, self._truth = workload, truth
        self._contexts = [(pool.name, pool.context_length) for pool in machines.pools]
        self._prompts, self._outputs = workload.prompt_tokens.tolist(), workload.output_tokens.tolist()
        self._limits, self._deadlines = workload.max_tokens.tolist(), workload.deadline_s.tolist()
        self._tenants = [workload.tenants[tenant] for tenant in workload.tenant.tolist()]
        self._prompt_hashes = workload.prompt_hashes.tolist()
        self._has_prefix = workload.prefix_block is not None
        self._ranks = None if ranks is None else ranks.values.tolist()

    def all(self) -> Iterator[FleetRequest]:
        """Every request in order. An answer ends where the context of its pool does, as vLLM ends it."""
        from controller.types import Scores, Ticket
        from envs.fleet import FleetRequest

        workload, ranks = self._workload, self._ranks
        for index, at in enumerate(workload.at.tolist()):
            prompt, output, deadline = self._prompts[index], self._outputs[index], self._deadlines[index]
            prefix = workload.prefix_of(index) if self._has_prefix else ()
            ticket = Ticket(
                id=f"r{index}",
                model=ALIAS,
                tenant=self._tenants[index],
                prompt_tokens=prompt,
                max_tokens=self._limits[index] or None,
                prefix=prefix[: self._prompt_hashes[index]],
                deadline=None if deadline == math.inf else at + deadline,
            )
            lengths = {pool: max(1, min(output, context - prompt)) for pool, context in self._contexts}
            rank, tokens = None if ranks is None else ranks[index], float(output) if self._truth else None
            scores = None if rank is None and tokens is None else Scores(rank, tokens)
            yield FleetRequest(at, ticket, prompt, lengths, scores, index, prefix=prefix)


class _Columns:
    """Collects how requests ended."""

    def __init__(self, count: int) -> None:
        self._result = np.full(count, FAILED, np.int8)
        self._e2e, self._ttft = np.full(count, np.nan), np.full(count, np.nan)
        self._tokens = np.zeros(count, np.int64)
        self._last = 0.0

    def take(self, ended: Iterable[Ended]) -> None:
        """Requests that have ended since the last call."""
        from controller.types import Result

        codes = {Result.COMPLETED: COMPLETED, Result.REJECTED: REJECTED}
        for end in ended:
            index, at = end.request.index, end.request.at
            self._result[index] = codes.get(end.result, FAILED)
            self._tokens[index] = end.output_tokens
            if end.first_token_at is not None:
                self._ttft[index] = end.first_token_at - at
            if end.result is Result.COMPLETED:
                self._e2e[index] = end.at - at
            self._last = max(self._last, end.at)

    def outcome(self, gauges: Gauges, states: Sequence[EngineState], wall_s: float) -> Outcome:
        """All of it, with what the engines' own gauges show in the end."""
        queries, hits = sum(state.prefix_queries for state in states), sum(state.prefix_hits for state in states)
        return Outcome(
            result=self._result,
            e2e=self._e2e,
            ttft=self._ttft,
            output_tokens=self._tokens,
            gauges=gauges,
            preemptions=sum(state.preemptions for state in states),
            prefix_hit_rate=hits / queries if queries else None,
            duration_s=self._last,
            wall_s=wall_s,
        )


def _reading(control: ControlPlane, engines: Iterable[SimEngine], now: float) -> Reading:
    view = control.view(now)
    states = [engine.state() for engine in engines]
    queued = view.open + sum(pool.queued for pool in view.pools)
    usage = [state.kv_usage for state in states]
    return Reading(
        waiting=queued + sum(state.waiting for state in states),
        running=sum(state.running for state in states),
        kv_mean=sum(usage) / len(usage),
        kv_most=max(usage),
    )
