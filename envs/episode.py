"""An episode: a fleet and every request it will see, drawn from a seed before anything is decided.

The same seed gives the same arrivals, prompts and machines whatever the policy does (common random numbers), so that
two policies can be compared request by request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from controller.pipeline import ControlPlane
from controller.protocols import Stages
from controller.settings import ControlSettings
from controller.types import PoolName, PoolSpec, Scores, Tenant, Ticket, WorkerSpec
from envs.engines.base import Engine
from envs.engines.sequence import SchedulingPolicy
from envs.engines.sim import SimEngine
from envs.fleet import FleetClock, FleetRequest, SimFleet
from envs.hardship import Hardship, Machine
from envs.randomisation import Randomisation, factor
from envs.scenarios import Scenario, ScenarioPool, WorkloadKind
from envs.scored import ScoredPrompts
from envs.workloads import ArrivalProcess
from predictors.latency.model import Profile

__all__ = ["ALIAS", "Episode", "EpisodeSource", "Randomisation", "StageFactory"]

ALIAS = "auto"
"""The model that every request asks for: any pool may answer."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
StageFactory = Callable[[Sequence[PoolSpec], ControlSettings], Stages]


@dataclass(frozen=True)
class Episode:
    """A fleet to build and its requests in order of arrival. ``rows`` are their places in ``prompts``.

    ``growth`` (requests,) multiplies the length of each one's answer, where lengths drift.
    """

    scenario: Scenario
    kind: WorkloadKind
    seed: int
    profiles: Mapping[PoolName, Profile]
    clock: FleetClock
    prompts: ScoredPrompts
    rows: Integers
    requests: tuple[FleetRequest, ...]
    growth: Floats | None = None
    hardship: Hardship = field(default_factory=Hardship)

    @cached_property
    def output_tokens(self) -> Integers:
        """(requests, pools): the true length of each pool's answer before ``max_tokens`` cuts it."""
        return _grown(self.prompts.output_tokens[self.rows], self.growth)

    @cached_property
    def quality(self) -> Floats:
        """(requests, pools): the probability that the pool's answer is right; 0 where ``max_tokens`` cuts it short."""
        return np.where(self._cut, 0.0, self.prompts.quality[self.rows])

    @cached_property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(requests, pools): whether it is right, and whole."""
        return self.prompts.correct[self.rows] & ~self._cut

    @cached_property
    def _cut(self) -> npt.NDArray[np.bool_]:
        return self.output_tokens > self.scenario.max_tokens

    def settings(self) -> ControlSettings:
        """What the control plane goes by."""
        return ControlSettings(
            max_queue=self.scenario.max_queue, service_rates=self.scenario.service_rates(self.profiles)
        )

    def control(self, stages: StageFactory, settings: ControlSettings | None = None) -> ControlPlane:
        """A fresh control plane for the fleet, without workers."""
        pools = self.scenario.pool_specs(self.profiles)
        settings = settings or self.settings()
        aliases = {ALIAS: tuple(pool.name for pool in pools)}
        return self.hardship.control(pools, stages(pools, settings), aliases, settings, self.seed)

    def fleet(self, stages: StageFactory, settings: ControlSettings | None = None) -> SimFleet:
        """The fleet at time 0, every worker ready."""
        return self.populate(self.control(stages, settings))

    def populate(self, control: ControlPlane) -> SimFleet:
        """The same, under a control plane that has no workers yet."""
        fleet = SimFleet(control, self.clock)
        for worker in self.scenario.worker_specs():
            fleet.add_worker(worker, self.engine(worker))
        return fleet

    def engine(self, worker: WorkerSpec) -> Engine:
        """A worker's engine, ready at time 0, with what will befall it."""
        policy = SchedulingPolicy.PRIORITY if worker.priority_scheduling else SchedulingPolicy.FCFS
        engine = SimEngine(self.profiles[worker.pool], policy=policy)
        return Machine(engine, self.hardship.fate(worker.name)) if self.hardship.machines else engine


@dataclass(frozen=True, slots=True)
class EpisodeSource:
    """Draws episodes of a scenario. ``profiles`` by pool name; ``prompts`` is what requests are drawn from."""

    scenario: Scenario
    profiles: Mapping[PoolName, Profile]
    prompts: ScoredPrompts
    randomisation: Randomisation = field(default_factory=Randomisation)
    clock: FleetClock = field(default_factory=FleetClock)
    process: ArrivalProcess | None = None
    """How requests come, where it is not one of the scenario's own workloads; a rate that strays makes its time run
    faster or slower."""

    def draw(self, seed: int, kind: WorkloadKind | None = None) -> Episode:
        """The episode of a seed; ``kind`` is drawn too if it is ``None``.

        Each kind of chance has a stream of its own, so that a field of the randomisation changes what it names and
        nothing else.
        """
        streams = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(8))
        world, arrivals, content, sight, machines, drift, tenancy, fate = streams
        drawn = list(WorkloadKind)[int(world.integers(len(WorkloadKind)))]
        scenario = self._scenario(world)
        profiles = {name: self._profile(profile, world, machines) for name, profile in self.profiles.items()}
        times = list(takewhile(float(scenario.duration_s).__gt__, self._times(scenario, kind or drawn, arrivals)))
        rows = content.choice(len(self.prompts), size=len(times), p=self._weights(world, self.randomisation.mix))
        rows = self._drifted(rows, times, scenario.duration_s, drift)
        growth = self._growth(times, scenario.duration_s, drift)
        hardship = self._hardship(seed, scenario, fate)
        requests = self._requests(scenario, times, rows, growth, self._scores(rows, sight), tenancy)
        clock = self._clock(world, fate)
        return Episode(
            scenario, kind or drawn, seed, profiles, clock, self.prompts, rows, requests, growth, hardship
        )  # fmt: skip

    def _times(self, scenario: Scenario, kind: WorkloadKind, rng: np.random.Generator) -> Iterator[float]:
        if self.process is None:
            return scenario.arrivals(kind).times(rng)
        pace = scenario.base_rate / self.scenario.base_rate
        return (at / pace for at in self.process.times(rng))

    def _scores(self, rows: Integers, rng: np.random.Generator) -> list[Scores]:
        """What the predictors say of each request, or would say if they knew its wording less well."""
        seen = [self.prompts.scores[row] for row in rows.tolist()]
        by = self.randomisation
        if not by.unknown and not by.length:
            return seen
        hidden = (rng.random(len(rows)) < by.unknown).tolist()
        factors = np.exp(rng.uniform(-1.0, 1.0, len(rows)) * np.log1p(by.length)).tolist()
        return [_worse(*each) for each in zip(seen, hidden, factors, strict=True)]

    def _requests(
        self,
        scenario: Scenario,
        times: Sequence[float],
        rows: Integers,
        growth: Floats | None,
        scores: Sequence[Scores],
        rng: np.random.Generator,
    ) -> tuple[FleetRequest, ...]:
        prompts, limit, deadline, pools = self.prompts, scenario.max_tokens, scenario.deadline_s, self.prompts.pools
        sizes = prompts.prompt_tokens[rows].tolist()
        answers = np.minimum(_grown(prompts.output_tokens[rows], growth), limit).T.tolist()
        tenants = _tenants(scenario.tenants, len(times), rng)
        tasks = prompts.tasks
        texts = [tasks[row].prompt for row in rows.tolist()]
        drawn = zip(times, tenants, texts, sizes, zip(*answers, strict=True), scores, strict=True)
        return tuple(
            [
                FleetRequest(
                    at,
                    Ticket(f"r{index}", ALIAS, tenant, len(text), None, limit, deadline=at + deadline),
                    size,
                    dict(zip(pools, lengths, strict=True)),
                    score,
                    index,
                    text,
                )
                for index, (at, tenant, text, size, lengths, score) in enumerate(drawn)
            ]
        )

    def _scenario(self, rng: np.random.Generator) -> Scenario:
        scenario, by = self.scenario, self.randomisation
        rate = factor(rng, by.rate)
        shift, longer = rng.uniform(-1, 1) * by.shift_s, 1.0 + rng.uniform(0, 1) * min(1.0, by.shift_s)
        bursts = _moved(scenario.bursts, shift, longer, scenario.duration_s)
        return replace(
            scenario,
            base_rate=scenario.base_rate * rate,
            burst_rate=scenario.burst_rate * rate,
            bursts=bursts,
            deadline_s=scenario.deadline_s * factor(rng, by.deadline),
            pools=tuple(_limited(pool, factor(rng, by.limit)) for pool in scenario.pools),
        )

    def _profile(self, profile: Profile, rng: np.random.Generator, machines: np.random.Generator) -> Profile:
        by = factor(rng, self.randomisation.speed)
        whole = replace(profile, a=profile.a * by, b=profile.b * by, c=profile.c * by, d=profile.d * by)
        return self.randomisation.machine(whole, machines)

    def _clock(self, rng: np.random.Generator, fate: np.random.Generator) -> FleetClock:
        by = self.randomisation
        interval = self.clock.report_interval * factor(rng, by.clock)
        delay = self.clock.report_delay * factor(rng, by.clock) * factor(fate, by.report_delay)
        return replace(self.clock, report_interval=interval, report_delay=delay)

    def _hardship(self, seed: int, scenario: Scenario, rng: np.random.Generator) -> Hardship:
        by = self.randomisation
        crashes, stragglers, lost = rng.uniform(0.0, 1.0, 3).tolist()
        return Hardship(
            seed=seed,
            horizon_s=scenario.duration_s,
            crashes_per_hour=by.crashes_per_hour * crashes,
            stragglers_per_hour=by.stragglers_per_hour * stragglers,
            slowness=by.slowness,
            lost=by.dropout * lost,
        )

    def _drifted(self, rows: Integers, times: Sequence[float], end: float, rng: np.random.Generator) -> Integers:
        """Prompts, more and more of which are from another mix of tasks."""
        if not self.randomisation.task_drift:
            return rows
        weights = self._weights(rng, self.randomisation.task_drift)
        others = rng.choice(len(self.prompts), size=len(rows), p=weights)
        return np.where(rng.random(len(rows)) < np.array(times) / end, others, rows)

    def _growth(self, times: Sequence[float], end: float, rng: np.random.Generator) -> Floats | None:
        """(requests,): by what answers grow or shrink while the episode lasts."""
        if not self.randomisation.length_drift:
            return None
        grown: Floats = factor(rng, self.randomisation.length_drift) ** (np.array(times) / end)
        return grown

    def _weights(self, rng: np.random.Generator, power: float) -> Floats | None:
        if power == 0.0:
            return None
        kinds = [(task.family, task.level) for task in self.prompts.tasks]
        names = sorted(set(kinds))
        weight = dict(zip(names, rng.exponential(size=len(names)) ** power, strict=True))
        weights = np.array([weight[kind] for kind in kinds], np.float64)
        weights /= weights.sum()
        return weights


def _grown(lengths: Integers, growth: Floats | None) -> Integers:
    if growth is None:
        return lengths
    return np.maximum(np.rint(lengths * growth[:, None]).astype(np.int64), 1)


def _worse(scores: Scores, hidden: bool, times: float) -> Scores:
    """Without the quality if that is ``hidden``, and with the output ``times`` as long."""
    tokens = None if scores.output_tokens is None else scores.output_tokens * times
    return Scores(scores.length_rank, tokens, None if hidden else scores.quality)


def _tenants(shares: Mapping[Tenant, float], count: int, rng: np.random.Generator) -> Sequence[Tenant]:
    if len(shares) < 2:
        return (next(iter(shares), "default"),) * count
    weights = np.array(list(shares.values()))
    names: list[Tenant] = rng.choice(list(shares), size=count, p=weights / weights.sum()).tolist()
    return names


def _limited(pool: ScenarioPool, times: float) -> ScenarioPool:
    return replace(pool, max_inflight=max(1, round(pool.max_inflight * times)))


def _moved(
    bursts: tuple[tuple[float, float], ...], shift: float, longer: float, duration: float
) -> tuple[tuple[float, float], ...]:
    """Bursts moved and stretched, cut where they would leave the episode or run into each other."""
    moved: list[tuple[float, float]] = []
    for start, end in bursts:
        left = max(start + shift, 0.0, moved[-1][1] if moved else 0.0)
        right = min(start + shift + (end - start) * longer, duration)
        if left < right:
            moved.append((left, right))
    return tuple(moved)
