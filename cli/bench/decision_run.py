"""One gateway's decisions in this process: its driver, scoring desk and control plane, and workers that only take time.

Everything is as ``headway serve`` builds it; only sockets are missing. Functions are measured where they are called.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from cli.bench.stopwatch import Stopwatch
from cli.collector import quiet

if TYPE_CHECKING:
    from controller.configuration import Configuration
    from controller.pipeline import ControlPlane
    from controller.protocols import Stages
    from controller.scoring import Scorer
    from controller.store import ArtifactStore, RecordWriter
    from controller.types import DecisionRecord, Scale, WorkerSpec
    from gateway.driver import Driver
    from predictors.types import Prompt

__all__ = ["Measured", "Plan", "run"]

_POOLS: Final = (("small", "qwen2.5-7b-instruct"), ("medium", "gemma-2-9b-it"),
                 ("large", "llama-3.3-nemotron-super-49b-v1"))  # fmt: skip
_WORKERS: Final = 4
_INFLIGHT: Final = 64
_TENANTS: Final = 8
_SERVICE_S: Final = 0.25
"""Mean time in which a worker answers."""
_MOST_TOKENS: Final = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run. ``rate`` in requests per second, after ``warm_up`` requests that are not counted."""

    tier: str
    rate: float
    warm_up: int
    seed: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of each request by part, and counts of what became of their scores, by signal and outcome."""

    parts: Mapping[str, NDArray[np.float64]]
    cpu: NDArray[np.float64]
    """CPU seconds of the event loop's thread for all of a request's parts there (n,)."""
    scores: Mapping[tuple[str, str], int]
    fallbacks: Mapping[str, int]
    """Reasons for which the tier stage fell back."""
    pools: Mapping[str, int]
    late: float
    """Share of requests that began more than 10 ms later than planned."""
    refused: int
    """Requests that the gateway did not take, for a full queue."""

    @property
    def total(self) -> NDArray[np.float64]:
        """Seconds of each request (n,), all parts together."""
        return self.sum_of(tuple(self.parts))

    def sum_of(self, parts: Sequence[str]) -> NDArray[np.float64]:
        """Seconds of each request (n,) in these parts."""
        whole: NDArray[np.float64] = np.sum([self.parts[part] for part in parts], axis=0)
        return whole

    def share(self, *outcomes: str) -> float:
        """Of all scores that requests should have, those with one of these outcomes."""
        everything = sum(self.scores.values()) + self.refused
        return sum(n for (_, outcome), n in self.scores.items() if outcome in outcomes) / max(everything, 1)


def run(plan: Plan, prompts: Sequence[str], folder: Path) -> Measured:
    """Offer the prompts, one each ``1 / rate`` seconds in the mean, and measure. Records are written to ``folder``."""
    from controller.store import ArtifactStore, RecordWriter, home_in, shipped_models

    store = ArtifactStore(shipped_models(), home_in({"HEADWAY_HOME": str(folder / "home")}))
    watch = Stopwatch(len(prompts))
    configuration = _configuration(plan)
    with ExitStack() as stack:
        writer = stack.enter_context(RecordWriter(folder / "records"))
        world = _World(configuration, store, plan, watch, writer)
        stack.enter_context(quiet())
        late = asyncio.run(world.offer(prompts))
    return world.measured(late)


def _configuration(plan: Plan) -> Configuration:
    from controller.configuration import Configuration

    return Configuration.model_validate(
        {
            "pools": [
                {
                    "name": name,
                    "model": model,
                    "tier": tier,
                    "context_length": 131072,
                    "price": {"input_usd_per_mtok": 0.1 * 3**tier, "output_usd_per_mtok": 0.2 * 3**tier},
                    "workers": [
                        {
                            "url": f"http://127.0.0.1:{1 + 100 * tier + worker}",
                            "max_inflight": _INFLIGHT,
                            "priority_scheduling": True,
                        }
                        for worker in range(_WORKERS)
                    ],
                }
                for tier, (name, model) in enumerate(_POOLS)
            ],
            "tenants": [{"name": f"tenant-{i}", "weight": 1.0 + i % 2} for i in range(_TENANTS)],
            "stages": {"tier": plan.tier, "order": "length_rank", "fairness": "vtc", "place": "prefix"},
            "scoring": {"when": "always", "length": "length/fast", "quality": "quality/llmrouter"},
            "seed": plan.seed,
        }
    )


class _World:
    """The driver's observer too: it takes the records."""

    def __init__(
        self,
        configuration: Configuration,
        store: ArtifactStore,
        plan: Plan,
        watch: Stopwatch,
        writer: RecordWriter,
    ) -> None:
        self._plan = plan
        self._watch = watch
        self._write = watch.timed("record", writer.write)
        self._index: dict[str, int] = {}
        self._of_prompt: dict[int, int] = {}
        self._plane = _control_plane(configuration, store, watch)
        self._scorer = _scorer(configuration, store, watch, self._owners)
        self._specs = configuration.worker_specs()
        self._cpu = np.zeros(0)
        self._random = np.random.default_rng([plan.seed, 1])
        self._counted: tuple[Mapping[Any, int], Mapping[Any, int]] = ({}, {})
        self._pools: dict[str, int] = {}
        self._refused = 0

    async def offer(self, prompts: Sequence[str]) -> float:
        """All of it; gives the share of requests that began late."""
        from controller.types import WorkerPhase
        from gateway.driver import Driver
        from gateway.scoring import Budget

        plan, clock = self._plan, time.monotonic
        driver = Driver(self._plane, self, clock=clock, scorer=self._scorer, budget=Budget())
        for spec in self._specs:
            driver.add_worker(spec, clock(), WorkerPhase.READY)
        driver.start()
        self._cpu = np.zeros(len(prompts))
        waits = self._random.exponential(1.0 / plan.rate, len(prompts))
        due, late, under_way = clock(), 0, set[asyncio.Task[None]]()
        for number, text in enumerate(prompts):
            due += waits[number]
            await asyncio.sleep(max(0.0, due - clock()))
            late += clock() - due > 0.01
            if number == plan.warm_up:
                self._counted = (self._plane.counters(), self._plane.fallbacks())
            task = asyncio.create_task(self._one(driver, number, text))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
        await driver.close()
        return late / len(prompts)

    async def _one(self, driver: Driver, number: int, text: str) -> None:
        from controller.prefix import block_hashes
        from controller.types import Ticket, Usage
        from gateway.errors import ApiError
        from predictors.types import Prompt

        watch = self._watch
        limit = int(self._random.integers(16, _MOST_TOKENS)) if number % 2 else None
        prompt = Prompt(text, limit)
        watch.request = number
        self._index[str(number)] = self._of_prompt[id(prompt)] = number
        started = time.thread_time()
        prefix = watch.timed("hash", block_hashes)(text)
        tenant = f"tenant-{number % _TENANTS}"
        ticket = Ticket(str(number), "auto", tenant, len(text), None, limit, prefix=prefix)
        try:
            turn = watch.timed("drive", driver.submit)(ticket, prompt)
        except ApiError:
            self._refused += number >= self._plan.warm_up
            return
        self._cpu[number] += time.thread_time() - started
        dispatch = await turn.dispatched()
        self._of_prompt.pop(id(prompt), None)
        if number >= self._plan.warm_up:
            self._pools[dispatch.pool] = self._pools.get(dispatch.pool, 0) + 1
        took, tokens = self._random.exponential(_SERVICE_S), int(self._random.integers(1, limit or _MOST_TOKENS))
        await asyncio.sleep(0.2 * took)
        self._told(number, turn.first_token)
        await asyncio.sleep(0.8 * took)
        self._told(number, turn.finish, Usage(max(1, len(text) // 4), tokens))

    def _told(self, number: int, what: Any, *about: Any) -> None:
        self._watch.request = number
        started = time.thread_time()
        what(*about)
        self._cpu[number] += time.thread_time() - started

    def _owners(self, prompts: Sequence[Prompt]) -> Sequence[int]:
        return [self._of_prompt.get(id(prompt), self._watch.request) for prompt in prompts]

    def measured(self, late: float) -> Measured:
        """What was seen, without the warm-up."""
        outcomes, reasons = self._plane.counters(), self._plane.fallbacks()
        before, reasons_before = self._counted
        scores: dict[tuple[str, str], int] = {}
        for (stage, signal, outcome), count in outcomes.items():
            if stage == "score":
                scores[signal, outcome] = count - before.get((stage, signal, outcome), 0)
        fallbacks: dict[str, int] = {}
        for (stage, by, reason), count in reasons.items():
            since = count - reasons_before.get((stage, by, reason), 0)
            if stage == "tier":
                fallbacks[reason] = since
            elif stage == "score" and reason == "no_prediction":
                scores[by, "fallback"] -= since
                scores[by, "unknown"] = since
        parts = {part: spent[self._plan.warm_up :] for part, spent in self._watch.parts.items()}
        return Measured(parts, self._cpu[self._plan.warm_up :], scores, fallbacks, self._pools, late, self._refused)

    # What the driver tells

    def decided(self, step: str, seconds: float) -> None:
        """It is measured here already."""

    def recorded(self, record: DecisionRecord, prompt: Prompt | None) -> None:
        self._watch.request = self._index[record.ticket]
        self._write(record)

    def scale(self, decisions: Iterable[Scale]) -> None:
        """Nothing is scaled."""

    def suspect(self, worker: str, code: str) -> None:
        """No worker fails."""

    def joined(self, spec: WorkerSpec) -> None:
        """Expected."""

    def left(self, worker: str) -> None:
        """None does."""


def _control_plane(configuration: Configuration, store: ArtifactStore, watch: Stopwatch) -> ControlPlane:
    from gateway.assembly import control_plane

    plane = control_plane(configuration, store)
    _fearless(plane.stages, store)
    watch.watch(plane.stages.tier, choose="tier")
    watch.watch(plane.stages.place, choose="place", placed="place")
    watch.watch(plane, submit="submit", on_scores="submit", dispatch="dispatch")
    watch.watch(plane, on_first_token="track", on_finish="track", drain_records="record")
    return plane


def _fearless(stages: Stages, store: ArtifactStore) -> None:
    """Let a trained policy decide however many requests arrive: its cost is what counts here, not its wisdom."""
    from controller.best_effort import BestEffort
    from controller.policy import load_policy
    from controller.tier import Threshold, ThresholdOptions

    if isinstance(stages.tier, BestEffort):
        trained = load_policy(store.resolve("policy/best-effort"))
        unbounded = replace(trained, low=np.full_like(trained.low, -np.inf), high=np.full_like(trained.high, np.inf))
        fearless = BestEffort(unbounded, Threshold(ThresholdOptions()))
        vars(stages.tier).update(vars(fearless))


def _scorer(configuration: Configuration, store: ArtifactStore, watch: Stopwatch, whose: Any) -> Scorer:
    from controller.scoring import Scorer
    from predictors.embedding import Embedder
    from predictors.length.model import FastLength
    from predictors.quality.model import KnnQuality

    embedder = Embedder()
    length = FastLength.load(store.resolve(configuration.scoring.length or "length/fast"))
    quality = KnnQuality.load(store.resolve(configuration.scoring.quality or "quality/llmrouter"))
    watch.watch(embedder, embed="embed", embed_one="embed")
    watch.watch(length, predict="rank", predict_one="rank")
    watch.watch(quality, predict="quality", predict_one="quality")
    scorer = Scorer(embedder, length, quality, {pool.name: pool.model for pool in configuration.pools})
    setattr(scorer, "score", watch.timed("score", scorer.score, whose))  # noqa: B010
    return scorer
