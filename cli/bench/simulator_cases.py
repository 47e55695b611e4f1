"""What ``headway bench simulator`` times: each case simulates so many requests, and says what it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from envs.episode import EpisodeSource
    from envs.fleet import FleetRequest, SimFleet
    from envs.long_replay import Requests
    from envs.workloads import Arrival
    from predictors.latency.model import Profile

__all__ = ["Case", "cases", "timed"]

_SHARE: Final = 0.01
"""Of the requests that get a decision record, in the cases with the whole control plane."""
_POOL: Final = "pool"


@dataclass(frozen=True, slots=True)
class Case:
    """``prepare`` builds what is timed, afresh each time; calling that gives how many requests it has simulated."""

    name: str
    what: str
    prepare: Callable[[], Callable[[], int]]
    target: float | None = None
    """Requests a second that are wanted on one core."""


def cases(profile: Profile, trace: Path | None, requests: int, seed: int) -> Iterator[Case]:
    """All of them; ``trace`` for the hour of conversations, or made lengths at its rate."""
    rng = np.random.default_rng(seed)
    yield Case("reference", "one engine, step by step", _reference(profile, _poisson(rng, 400, 4.0)))
    one = _poisson(rng, requests, 4.0)
    yield Case("one_engine", "one engine, 4 requests/s", _through(profile, one), 3e6)
    many = _poisson(rng, requests, 64.0)
    for place in ("round_robin", "least_load"):
        what = f"16 engines, 64 requests/s, compiled {place}"
        yield Case(f"16_engines_{place}", what, _compiled(profile, many, place), 1e6)
    hour = f"the trace {trace.name}" if trace else "an hour of made conversations"
    what = f"whole ControlPlane, 2 engines, {hour}"
    yield Case("control_plane", what, _control_plane(profile, trace, seed), 2e4)
    yield Case("environment", "steps of headway/BestEffort-v0, an episode's draw included", _environment(seed), 2e4)


def timed(run: Callable[[], int]) -> float:
    """Requests a second of this process's time on its core."""
    began = time.process_time()
    return run() / (time.process_time() - began)


def _poisson(rng: np.random.Generator, count: int, rate: float) -> Requests:
    """Prompts of 100 to 1,500 tokens, answers of 20 to 340."""
    from envs.long_replay import Requests

    none = np.zeros(count, dtype=np.int64)
    sizes = rng.integers(100, 1500, count), rng.integers(20, 340, count)
    starts = np.zeros(count + 1, dtype=np.int64)
    return Requests(np.cumsum(rng.exponential(1.0 / rate, count)), *sizes, none, starts, none[:0], none)


# ---------------------------------------------------------------------- engines alone


def _reference(profile: Profile, load: Requests) -> Callable[[], Callable[[], int]]:
    from envs.engines.base import EngineRequest
    from envs.engines.reference import ReferenceEngine

    def prepare() -> Callable[[], int]:
        engine = ReferenceEngine(profile)

        def run() -> int:
            for i in range(len(load)):
                sizes = int(load.prompt_tokens[i]), int(load.output_tokens[i])
                engine.advance(float(load.at[i]))
                engine.submit(EngineRequest(str(i), *sizes, arrival=float(load.at[i])))
            while (at := engine.next_event_at()) is not None:
                engine.advance(at)
            return len(load)

        return run

    return prepare


def _through(profile: Profile, load: Requests) -> Callable[[], Callable[[], int]]:
    from envs.engines.sim import SimEngine
    from envs.long_replay import through_one

    return lambda: lambda: int(through_one(load, SimEngine(profile)).completed.sum())


def _compiled(profile: Profile, load: Requests, place: str) -> Callable[[], Callable[[], int]]:
    from controller.types import WorkerSpec
    from envs.engines.sim import SimEngine
    from envs.long_replay import replay

    workers = [(WorkerSpec(f"w{i}", _POOL, f"sim://{i}", 256), SimEngine(profile)) for i in range(16)]
    return lambda: lambda: int(replay(load, workers, place).completed.sum())


# ---------------------------------------------------------------------- under the control plane


def _control_plane(profile: Profile, trace: Path | None, seed: int) -> Callable[[], Callable[[], int]]:
    @cache
    def requests() -> list[FleetRequest]:
        return [_request(i, arrival, profile) for i, arrival in enumerate(_hour(trace, seed))]

    def prepare() -> Callable[[], int]:
        asked, fleet = requests(), _fleet(profile)
        return lambda: len(fleet.replay(asked))

    return prepare


def _hour(trace: Path | None, seed: int) -> Sequence[Arrival]:
    from envs.traces import open_trace
    from envs.workloads import LogNormalLengths, Poisson, arrivals

    if trace is not None:
        return list(open_trace(trace))
    lengths = LogNormalLengths(750.0, 150.0, 0.8, 0.8, longest_prompt=6000, longest_output=1000)
    return list(arrivals(Poisson(5.5), lengths, seed, duration=3600.0))


def _request(index: int, arrival: Arrival, profile: Profile) -> FleetRequest:
    from controller.types import Scores, Ticket
    from envs.fleet import FleetRequest

    assert arrival.lengths is not None
    output = min(arrival.lengths.output_tokens, profile.max_model_len // 2)
    prompt = min(arrival.lengths.prompt_tokens, profile.max_model_len - output)
    scores = Scores(length_rank=float(output), output_tokens=float(output))
    ticket = Ticket(str(index), _POOL, prompt_tokens=prompt, max_tokens=output)
    return FleetRequest(arrival.at, ticket, prompt, {_POOL: output}, scores, index)


def _fleet(profile: Profile) -> SimFleet:
    from controller.pipeline import ControlPlane
    from controller.protocols import Resources
    from controller.settings import ControlSettings
    from controller.stages import build
    from controller.types import PoolSpec, WorkerSpec
    from envs.engines.sim import SimEngine
    from envs.fleet import SimFleet

    pools = (PoolSpec(_POOL, profile.model, 0, context_length=profile.max_model_len),)
    settings = ControlSettings(record_share=_SHARE)
    chosen: dict[str, Any] = {"order": ("length_rank", {}), "place": ("least_load", {})}
    fleet = SimFleet(ControlPlane(pools, build(chosen, Resources(pools=pools, settings=settings)), settings=settings))
    for i in range(2):
        fleet.add_worker(WorkerSpec(f"w{i}", _POOL, f"sim://{i}", 64), SimEngine(profile))
    return fleet


def _environment(seed: int) -> Callable[[], Callable[[], int]]:
    @cache
    def source() -> EpisodeSource:
        from envs.sources import default_source

        return default_source(seed=seed)

    def prepare() -> Callable[[], int]:
        from envs.best_effort import BestEffortEnv

        env = BestEffortEnv(source(), kind="bursty", record_share=_SHARE)
        actions = np.random.default_rng(seed).integers(env.codec.slots, size=100_000).tolist()

        def run() -> int:
            steps = 0
            for episode in range(4):
                env.reset(seed=seed + episode)
                done = False
                for action in islice(actions, steps, None):
                    _, _, done, _, _ = env.step(action)
                    steps += 1
                    if done:
                        break
            return steps

        return run

    return prepare
