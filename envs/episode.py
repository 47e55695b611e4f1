"""An episode: a fleet and every request it will see, drawn from a seed before anything is decided.

The same seed gives the same arrivals, prompts and machines whatever the policy does (common random numbers), so that
two policies can be compared request by request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from controller.pipeline import ControlPlane
from controller.protocols import Stages
from controller.settings import ControlSettings
from controller.types import PoolName, PoolSpec, Scores, Ticket
from envs.engines.sim import SimEngine
from envs.fleet import FleetClock, FleetRequest, SimFleet
from envs.scenarios import Scenario, ScenarioPool, WorkloadKind
from envs.scored import ScoredPrompts
from predictors.latency.model import Profile

__all__ = ["ALIAS", "Episode", "EpisodeSource", "Randomisation"]

ALIAS = "auto"
"""The model that every request asks for: any pool may answer."""

Floats = npt.NDArray[np.float64]
StageFactory = Callable[[Sequence[PoolSpec], ControlSettings], Stages]


@dataclass(frozen=True, slots=True)
class Randomisation:
    """How far training episodes stray from the scenario (domain randomisation; 0 everywhere strays nowhere).

    A factor ``f`` is log-uniform in [1/(1 + x), 1 + x] for the field's value x.
    """

    rate: float = 0.0
    """Of both arrival rates together."""
    deadline: float = 0.0
    speed: float = 0.0
    """Of every timing constant of a profile together, each pool by itself."""
    limit: float = 0.0
    """Of each pool's in-flight limit, rounded."""
    mix: float = 0.0
    """0: tasks as they are; else families and levels are weighted by exponentials to the power of this."""
    shift_s: float = 0.0
    """Bursts come up to so much earlier or later, together, and last by up to this share of themselves longer."""
    clock: float = 0.0
    """Of how often workers' gauges are read, and of how late the readings arrive."""
    unknown: float = 0.0
    """Share of requests for which there is no prediction of quality, whatever the predictor says of their prompts."""
    length: float = 0.0
    """Of a request's predicted output, each request by itself."""

    @classmethod
    def training(cls) -> Randomisation:
        """What the shipped policy is trained on."""
        by = cls.validation()
        return replace(by, rate=0.6, deadline=0.15, speed=0.15, mix=0.4, shift_s=8.0, clock=1.0)

    @classmethod
    def validation(cls) -> Randomisation:
        """What policies are tuned and chosen on: the scenario itself, with predictions worse than they are there.

        Prompts of the validation split are worded like those that the predictors learned from; prompts to come are not.
        """
        return cls(unknown=0.15, length=0.5)


@dataclass(frozen=True, slots=True)
class Episode:
    """A fleet to build and its requests in order of arrival. ``rows`` are their places in ``prompts``."""

    scenario: Scenario
    kind: WorkloadKind
    seed: int
    profiles: Mapping[PoolName, Profile]
    clock: FleetClock
    prompts: ScoredPrompts
    rows: npt.NDArray[np.int64]
    requests: tuple[FleetRequest, ...]

    @property
    def quality(self) -> Floats:
        """(requests, pools): the probability that the pool's answer is right; 0 where ``max_tokens`` cuts it short."""
        return np.where(self._cut, 0.0, self.prompts.quality[self.rows])

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(requests, pools): whether it is right, and whole."""
        return self.prompts.correct[self.rows] & ~self._cut

    @property
    def _cut(self) -> npt.NDArray[np.bool_]:
        return self.prompts.output_tokens[self.rows] > self.scenario.max_tokens

    def control(self, stages: StageFactory) -> ControlPlane:
        """A fresh control plane for the fleet, without workers."""
        pools = self.scenario.pool_specs(self.profiles)
        settings = ControlSettings(
            max_queue=self.scenario.max_queue, service_rates=self.scenario.service_rates(self.profiles)
        )
        ladder = tuple(pool.name for pool in pools)
        aliases = {ALIAS: ladder}
        return ControlPlane(pools, stages(pools, settings), aliases=aliases, settings=settings, seed=self.seed)

    def fleet(self, stages: StageFactory) -> SimFleet:
        """The fleet at time 0, every worker ready."""
        fleet = SimFleet(self.control(stages), self.clock)
        for worker in self.scenario.worker_specs():
            fleet.add_worker(worker, SimEngine(self.profiles[worker.pool]))
        return fleet


@dataclass(frozen=True, slots=True)
class EpisodeSource:
    """Draws episodes of a scenario. ``profiles`` by pool name; ``prompts`` is what requests are drawn from."""

    scenario: Scenario
    profiles: Mapping[PoolName, Profile]
    prompts: ScoredPrompts
    randomisation: Randomisation = field(default_factory=Randomisation)
    clock: FleetClock = field(default_factory=FleetClock)

    def draw(self, seed: int, kind: WorkloadKind | None = None) -> Episode:
        """The episode of a seed; ``kind`` is drawn too if it is ``None``."""
        world, clock, content, sight = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))
        drawn = list(WorkloadKind)[int(world.integers(len(WorkloadKind)))]
        scenario = self._scenario(world)
        profiles = {name: self._profile(profile, world) for name, profile in self.profiles.items()}
        times = list(takewhile(lambda at: at < scenario.duration_s, scenario.arrivals(kind or drawn).times(clock)))
        rows = content.choice(len(self.prompts), size=len(times), p=self._weights(world))
        scores = self._scores(rows, sight)
        requests = tuple(self._request(scenario, i, at, int(rows[i]), scores[i]) for i, at in enumerate(times))
        return Episode(scenario, kind or drawn, seed, profiles, self._clock(world), self.prompts, rows, requests)

    def _scores(self, rows: npt.NDArray[np.int64], rng: np.random.Generator) -> list[Scores]:
        """What the predictors say of each request, or would say if they knew its wording less well."""
        hidden = (rng.random(len(rows)) < self.randomisation.unknown).tolist()
        factors = np.exp(rng.uniform(-1.0, 1.0, len(rows)) * np.log1p(self.randomisation.length)).tolist()
        seen = [self.prompts.scores[row] for row in rows.tolist()]
        return [_worse(*each) for each in zip(seen, hidden, factors, strict=True)]

    def _request(self, scenario: Scenario, index: int, at: float, row: int, scores: Scores) -> FleetRequest:
        prompts = self.prompts
        limit = scenario.max_tokens
        lengths = np.minimum(prompts.output_tokens[row], limit).tolist()
        ticket = Ticket(
            id=f"r{index}",
            model=ALIAS,
            prompt_chars=len(prompts.tasks[row].prompt),
            max_tokens=limit,
            deadline=at + scenario.deadline_s,
        )
        answers = dict(zip(prompts.pools, lengths, strict=True))
        return FleetRequest(at, ticket, int(prompts.prompt_tokens[row]), answers, scores, index)

    def _scenario(self, rng: np.random.Generator) -> Scenario:
        scenario, by = self.scenario, self.randomisation
        rate = _factor(rng, by.rate)
        shift, longer = rng.uniform(-1, 1) * by.shift_s, 1.0 + rng.uniform(0, 1) * min(1.0, by.shift_s)
        bursts = _moved(scenario.bursts, shift, longer, scenario.duration_s)
        return replace(
            scenario,
            base_rate=scenario.base_rate * rate,
            burst_rate=scenario.burst_rate * rate,
            bursts=bursts,
            deadline_s=scenario.deadline_s * _factor(rng, by.deadline),
            pools=tuple(_limited(pool, _factor(rng, by.limit)) for pool in scenario.pools),
        )

    def _profile(self, profile: Profile, rng: np.random.Generator) -> Profile:
        by = _factor(rng, self.randomisation.speed)
        return replace(profile, a=profile.a * by, b=profile.b * by, c=profile.c * by, d=profile.d * by)

    def _clock(self, rng: np.random.Generator) -> FleetClock:
        by = self.randomisation.clock
        return replace(
            self.clock,
            report_interval=self.clock.report_interval * _factor(rng, by),
            report_delay=self.clock.report_delay * _factor(rng, by),
        )

    def _weights(self, rng: np.random.Generator) -> Floats | None:
        if self.randomisation.mix == 0.0:
            return None
        kinds = [(task.family, task.level) for task in self.prompts.tasks]
        names = sorted(set(kinds))
        weight = dict(zip(names, rng.exponential(size=len(names)) ** self.randomisation.mix, strict=True))
        weights = np.array([weight[kind] for kind in kinds], np.float64)
        weights /= weights.sum()
        return weights


def _worse(scores: Scores, hidden: bool, factor: float) -> Scores:
    """Without the quality if that is ``hidden``, and with the output ``factor`` times as long."""
    tokens = None if scores.output_tokens is None else scores.output_tokens * factor
    return replace(scores, output_tokens=tokens, quality=None if hidden else scores.quality)


def _factor(rng: np.random.Generator, by: float) -> float:
    return float(np.exp(rng.uniform(-1.0, 1.0) * np.log1p(by)))


def _limited(pool: ScenarioPool, factor: float) -> ScenarioPool:
    return replace(pool, max_inflight=max(1, round(pool.max_inflight * factor)))


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
