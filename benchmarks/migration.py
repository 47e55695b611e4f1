"""What moving running requests is worth, in simulation: latency and the time to drain a worker, with and without it.

    python -m benchmarks.migration [--seeds 10] [--json FILE]

Four workers of the profile ``h100-8b`` with 32 requests each at most; Poisson arrivals at ``--load`` of what they can
do; log-normal answers, of which some are very long. Scenarios, each with every ``--place``:

    steady      nothing happens: moving must do no harm
    straggler   a quarter into the run, everything takes one worker ``--slowness`` times as long, to the end
    drain       halfway, a worker is told to stop; ``drain_s`` until it has nothing left

The control plane has an estimate of each answer's length with a log-normal error of ``--error``; with ``--unknown``
nothing but the pool's mean. Both policies see the same requests. Intervals are over seeds; the ratios (migrate ÷ none)
are of the seeds' geometric means, resampled in pairs. A request without an answer would count as ``failed``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from cli.report import Report
from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.rates import busy_rate
from controller.settings import ControlSettings
from controller.stages import build
from controller.store import ArtifactStore, shipped_models
from controller.types import PoolSpec, Result, Scores, Ticket, WorkerPhase, WorkerSpec
from controller.view import WorkerView
from envs.engines.sim import SimEngine
from envs.fleet import Ended, FleetClock, FleetRequest
from envs.moving import MovingFleet
from predictors.intervals import bootstrap, bootstrap_mean
from predictors.latency.model import Profile
from predictors.types import Interval

POOL = "p"
_WORKERS = 4
_SEATS = 32
_STEP_S = 0.05
_STREAM_S = 0.1
"""The control plane hears so often how far the streams have come; a gateway hears of every event."""
_SCENARIOS = ("steady", "straggler", "drain")
_MEASURES = ("p50", "p99", "mean", "token_p99", "drain_s")
_POLICIES = ("none", "migrate")


@dataclass(frozen=True)
class Load:
    """What comes: requests of one seed."""

    seconds: float
    load: float
    error: float
    very_long: float

    def requests(self, seed: int, rate: float) -> list[FleetRequest]:
        """``rate`` is the tokens a second that all workers make when they are full."""
        rng = np.random.default_rng(seed)
        count = rng.poisson(self.load * rate / self._mean() * self.seconds)
        at = np.sort(rng.uniform(0.0, self.seconds, count))
        prompts = np.clip(rng.lognormal(math.log(250), 0.8, count), 8, 2000).astype(int)
        short = np.clip(rng.lognormal(math.log(180), 0.7, count), 4, 1500)
        outputs = np.where(rng.random(count) < self.very_long, rng.uniform(3000, 6000, count), short).astype(int)
        guesses = outputs * np.exp(rng.normal(0.0, self.error, count))
        return [
            FleetRequest(
                float(at[i]),
                Ticket(f"t{i}", POOL, prompt_tokens=int(prompts[i])),
                int(prompts[i]),
                {POOL: int(outputs[i])},
                Scores(float(guesses[i]), float(guesses[i])),
            )
            for i in range(count)
        ]

    def _mean(self) -> float:
        return (1 - self.very_long) * 180 * math.exp(0.7**2 / 2) + self.very_long * 4500


@dataclass(frozen=True)
class Outcome:
    """Of one run. Seconds; ``token_p99`` is of the normalised latency, seconds a token of the answer."""

    p50: float
    p99: float
    mean: float
    token_p99: float
    drain_s: float | None
    failed: int
    moves: int
    requests: int


def main(
    seeds: Annotated[int, typer.Option(min=2)] = 10,
    seconds: Annotated[float, typer.Option(min=10.0, help="Of arrivals.")] = 120.0,
    load: Annotated[float, typer.Option(min=0.01, help="Share of what the workers can do.")] = 0.5,
    slowness: Annotated[float, typer.Option(min=1.0, help="Of the straggler.")] = 3.0,
    error: Annotated[float, typer.Option(min=0.0, help="Standard deviation of the log of a predicted length.")] = 0.6,
    very_long: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of answers of 3,000 to 6,000.")] = 0.03,
    pause_s: Annotated[float, typer.Option(min=0.0, help="What breaking off and asking again takes.")] = 0.06,
    unknown: Annotated[bool, typer.Option("--unknown", help="Lengths are not predicted.")] = False,
    place: Annotated[list[str] | None, typer.Option(help="Stage place; again for several.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE")] = None,
) -> None:
    """Run every scenario with both policies, and compare."""
    profile = Profile.load(ArtifactStore(shipped_models(), None).resolve("profile/h100-8b"))
    places = place or ["round_robin", "least_load"]
    offered = Load(seconds, load, error, very_long)
    settings = {
        "seeds": seeds, "seconds": seconds, "load": load, "slowness": slowness, "error": error,
        "very_long": very_long, "unknown": unknown, "pause_s": pause_s, "workers": _WORKERS, "max_inflight": _SEATS,
    }  # fmt: skip
    report = Report("benchmarks migration", 0, settings)
    ratios: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, dict[str, float]]] = {}
    for scenario in _SCENARIOS:
        for placed in places:
            world = World(profile, offered, scenario, not unknown, slowness, pause_s, placed)
            runs = {policy: [world.run(policy, seed) for seed in range(seeds)] for policy in _POLICIES}
            for policy, outcomes in runs.items():
                labels = {"scenario": scenario, "place": placed, "policy": policy}
                report.row(labels, dict(_summary(outcomes)))
            for name, ratio in _ratios(runs["none"], runs["migrate"]):
                key = f"{scenario}/{placed}"
                ratios.setdefault(key, {})[name] = ratio.value
                intervals.setdefault(key, {})[name] = {"value": ratio.value, "lo": ratio.lo, "hi": ratio.hi}
    report.extra("ratios", ratios)
    report.extra("ratios_ci", intervals)
    report.write(json_path)
    report.show(Console(), "Moving running requests (seconds, 95 % interval over seeds)")
    for key, found in intervals.items():
        text = ", ".join(f"{name} {r['value']:.3f} [{r['lo']:.3f}, {r['hi']:.3f}]" for name, r in found.items())
        Console().print(f"{key}: migrate ÷ none: {text}")


@dataclass(frozen=True)
class World:
    """One scenario."""

    profile: Profile
    load: Load
    scenario: str
    predicted: bool
    slowness: float
    pause_s: float
    place: str

    def run(self, policy: str, seed: int) -> Outcome:
        """All requests of a seed to their ends."""
        rate = busy_rate(self.profile, _SEATS)
        fleet, engines = self._fleet(policy, rate, seed)
        requests = self.load.requests(seed, rate * _WORKERS)
        strikes_at = self.load.seconds * (0.25 if self.scenario == "straggler" else 0.5)
        struck, drained_at = self.scenario == "steady", None
        for request in requests:
            if not struck and request.at >= strikes_at:
                fleet.advance(strikes_at)
                self._strike(fleet, engines)
                struck = True
            if struck and self.scenario == "drain" and drained_at is None:
                drained_at = _drained(fleet, request.at)
            fleet.advance(request.at)
            if fleet.submit(request):
                fleet.score(request.ticket.id)
        if self.scenario == "drain" and drained_at is None:
            drained_at = _drained(fleet, math.inf)
        fleet.drain()
        ended = fleet.take_ended()
        return _outcome(ended, None if drained_at is None else drained_at - strikes_at, len(fleet.moves))

    def _fleet(self, policy: str, rate: float, seed: int) -> tuple[MovingFleet, list[SimEngine]]:
        pool = PoolSpec(POOL, "model", 0, profile="h100-8b")
        settings = ControlSettings(score_always=True, service_rates={POOL: rate})
        resources = Resources(pools=(pool,), settings=settings, artifacts=ArtifactStore(shipped_models(), None))
        order = ("length_rank", {"ageing": "relative"}) if self.predicted else ("fcfs", {})
        choices = {"order": order, "place": (self.place, {}), "rebalance": (policy, {})}
        control = ControlPlane([pool], build(choices, resources), settings=settings, seed=seed)
        fleet = MovingFleet(control, FleetClock(report_interval=_STREAM_S), pause_s=self.pause_s)
        engines = [SimEngine(self.profile, room=_SEATS) for _ in range(_WORKERS)]
        for index, engine in enumerate(engines):
            fleet.add_worker(WorkerSpec(f"w{index}", POOL, f"sim://{index}", _SEATS), engine)
        return fleet, engines

    def _strike(self, fleet: MovingFleet, engines: list[SimEngine]) -> None:
        if self.scenario == "straggler":
            engines[0].slow_down(self.slowness)
        else:
            fleet.control.set_phase("w0", WorkerPhase.DRAINING, fleet.now)


def _drained(fleet: MovingFleet, until: float) -> float | None:
    """When the worker that stops had nothing left, if that was by then."""
    while fleet.open and fleet.now < until:
        if _first(fleet).inflight == 0:
            return fleet.now
        fleet.advance(min(fleet.now + _STEP_S, until))
    return fleet.now if _first(fleet).inflight == 0 else None


def _first(fleet: MovingFleet) -> WorkerView:
    return fleet.control.view(fleet.now).pool(POOL).workers[0]


def _outcome(ended: list[Ended], drain_s: float | None, moves: int) -> Outcome:
    latencies = np.array([one.at - one.request.at for one in ended if one.result is Result.COMPLETED])
    lost = len(ended) - latencies.size
    p50, p99 = np.percentile(latencies, [50, 99])
    normal = latencies / np.array([one.output_tokens for one in ended if one.result is Result.COMPLETED])
    token = float(np.percentile(normal, 99))
    return Outcome(float(p50), float(p99), float(latencies.mean()), token, drain_s, lost, moves, len(ended))


def _summary(outcomes: list[Outcome]) -> Iterator[tuple[str, Interval | float | None]]:
    for name in _MEASURES:
        values = [value for one in outcomes if (value := getattr(one, name)) is not None]
        yield f"{name}_s".replace("_s_s", "_s"), bootstrap_mean(values, 0) if values else None
    yield "moves", bootstrap_mean([one.moves for one in outcomes], 0)
    yield "failed", float(sum(one.failed for one in outcomes))
    yield "requests", float(sum(one.requests for one in outcomes))


def _ratios(none: list[Outcome], migrate: list[Outcome]) -> Iterator[tuple[str, Interval]]:
    for name in _MEASURES:
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(none, migrate, strict=True)]
        if all(a is not None and b is not None and a > 0 and b > 0 for a, b in pairs):
            logs = np.log(np.array([b / a for a, b in pairs]))
            yield name, bootstrap(lambda found: float(np.exp(found.mean())), logs, seed=0)


if __name__ == "__main__":
    typer.run(main)
