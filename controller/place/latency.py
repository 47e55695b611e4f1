"""Placement by predicted latency: how long the request would take on each worker, and what it would cost the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from heapq import nsmallest
from typing import Final

from pydantic import Field

from controller.caches.map import CacheMap
from controller.caches.view import CacheView
from controller.errors import HeadwayError
from controller.place.base import SHOWN, least_loaded, load_key, loads
from controller.place.timing import ROUGH, Pace, Situation, Steps
from controller.protocols import Options, Outcome, PlaceContext, Resources, Signal
from controller.types import Alternative, Choice, PoolName, Ticket, TicketId, WorkerName
from controller.view import WorkerView
from predictors.artifact import ArtifactError
from predictors.latency.model import Profile

__all__ = ["PredictedLatency", "PredictedLatencyOptions"]

_TRIAL: Final = 20
"""Answers after which a worker's own error counts."""


class PredictedLatencyOptions(Options):
    """Options of ``predicted_latency``."""

    externality: float = Field(0.5, ge=0)
    """Weight of the seconds that it costs those that run on the worker, against its own; 0 for its own alone."""
    first_token: float = Field(4.0, ge=0)
    """Weight of a second until the first token, against one of the rest of the answer."""
    doubt: float = Field(1.0, gt=0)
    """How far a profile may be off, in units of the spread of answers: the greater, the faster it is corrected."""
    forget: float = Field(0.998, gt=0.5, le=1)
    """Weight of an answer against the next one."""
    least_answers: int = Field(20, ge=1)
    """Answers of each worker before it decides, where the pool has no profile."""
    most_error: float = Field(3.0, gt=1)
    """A worker whose predictions are off by this factor, on average, is not believed."""
    most_workers: int = Field(16, ge=2)
    """Workers that are weighed at most: those that have most of the prompt cached, then the least loaded."""
    capacity_blocks: int = Field(200_000, ge=1)
    """Blocks of prompt text that the index of what workers have cached remembers, over all of them."""


class PredictedLatency:
    """The worker where the request costs least: its own predicted latency, and what it adds to that of the others.

    An online regression a worker, on the terms of the pool's profile (:mod:`controller.place.timing`), learns from
    every complete answer. ``least_load`` decides while a pool without a profile is unknown, and where predictions have
    been far off.
    """

    name = "predicted_latency"
    counts_tokens = True
    needs = frozenset({Signal.LENGTH})

    def __init__(self, options: PredictedLatencyOptions, steps: Mapping[PoolName, Steps] | None = None) -> None:
        self._options = options
        self._steps = dict(steps or {})
        self._worst = math.log(options.most_error)
        self._index = CacheView(options.capacity_blocks)
        self._paces: dict[WorkerName, Pace] = {}
        self._asked: tuple[TicketId, WorkerName, Situation] | None = None
        self._sent: dict[tuple[TicketId, WorkerName], tuple[Situation, bool]] = {}
        """As it was when each was sent, and whether its answer is a stream."""

    @classmethod
    def create(cls, options: PredictedLatencyOptions, resources: Resources) -> PredictedLatency:
        """A pool whose profile cannot be read is learned from traffic, as one without."""
        steps: dict[PoolName, Steps] = {}
        for pool in resources.pools:
            if pool.profile is None or resources.artifacts is None:
                continue
            try:
                steps[pool.name] = Steps.of(Profile.load(resources.artifacts.resolve(f"profile/{pool.profile}")))
            except (ArtifactError, HeadwayError, OSError):
                continue
        return cls(options, steps)

    @property
    def under_way(self) -> int:
        """Requests whose outcome is still to come."""
        return len(self._sent)

    def pace(self, worker: WorkerName) -> Pace | None:
        """What has been learned of a worker, if it has been asked for."""
        return self._paces.get(worker)

    def choose(self, context: PlaceContext) -> Choice:
        matches = self._index.matches(context.ticket, context.workers[0].pool)
        whole = len(context.ticket.prefix)
        prompt, output = context.prompt_tokens, context.expected_output
        workers = self._weighed(context.workers, matches)
        best: WorkerView | None = None
        least = (math.inf, 0.0, 0, "")
        costs: list[float] = []
        why: str | None = None
        for worker in workers:
            cached = matches.get(worker.name, 0) / whole if whole else 0.0
            at = _situation(worker, prompt, output, cached)
            cost = self._cost(worker, at)
            if isinstance(cost, str):
                why = cost
                continue
            costs.append(cost)
            key = cost, worker.inflight / worker.limit, worker.dispatched, worker.name
            if key < least:
                best, least = worker, key
                self._asked = context.ticket.id, worker.name, at
        if best is None or why is not None:
            best = least_loaded(context.workers)
            cached = matches.get(best.name, 0) / whole if whole else 0.0
            self._asked = context.ticket.id, best.name, _situation(best, prompt, output, cached)
            shown = loads(context.workers) if context.recorded else ()
            return Choice("place", "least_load", best.name, shown, fallback=why or "out_of_distribution")
        alternatives: tuple[Alternative, ...] = ()
        if context.recorded:
            seen = zip(workers[:SHOWN], costs, strict=False)
            alternatives = tuple([Alternative(worker.name, -cost) for worker, cost in seen])
        return Choice("place", self.name, best.name, alternatives)

    def placed(self, ticket: Ticket, worker: WorkerName) -> None:
        self._index.placed(ticket, worker)
        if self._asked is not None and self._asked[:2] == (ticket.id, worker):
            self._sent[ticket.id, worker] = self._asked[2], ticket.streams
        self._asked = None

    def left(self, ticket: TicketId, worker: WorkerName, outcome: Outcome | None) -> None:
        """See :class:`~controller.protocols.LearnsFromOutcomes`."""
        self._index.left(ticket, worker)
        sent = self._sent.pop((ticket, worker), None)
        pace = self._paces.get(worker)
        if sent is None or outcome is None or pace is None:
            return
        at, streams = sent
        usage = outcome.usage
        read = at.uncached if outcome.cached_tokens is None else max(usage.prompt_tokens - outcome.cached_tokens, 0)
        true = Situation(read, at.unread, at.others, at.held, at.remaining, usage.prompt_tokens, usage.output_tokens)
        first = outcome.first_token_at - outcome.dispatched_at if streams else None
        pace.learn(true, first, outcome.ended_at - outcome.dispatched_at)

    def forget(self, worker: WorkerName) -> None:
        self._index.forget(worker)
        self._paces.pop(worker, None)

    def use(self, pool: PoolName, cached: CacheMap) -> None:
        """See :class:`~controller.caches.view.UsesCacheMaps`."""
        self._index.use(pool, cached)

    def _weighed(self, workers: Sequence[WorkerView], matches: Mapping[WorkerName, int]) -> Sequence[WorkerView]:
        """Those that are weighed; of many, a few that are likely to be the best."""
        most = self._options.most_workers
        if len(workers) <= most:
            return workers
        near = [worker for worker in workers if worker.name in matches]
        found = nsmallest(most // 2, near, key=lambda worker: (-matches[worker.name], worker.load, worker.name))
        names = {worker.name for worker in found}
        rest = [worker for worker in workers if worker.name not in names]
        return [*found, *nsmallest(most - len(found), rest, key=load_key)]

    def _cost(self, worker: WorkerView, at: Situation) -> float | str:
        """Seconds, or why there is nothing to say."""
        pace = self._paces.get(worker.name)
        steps = self._steps.get(worker.pool, ROUGH)
        if pace is None:
            doubt = self._options.doubt if steps.known else 10.0 * self._options.doubt
            pace = self._paces[worker.name] = Pace(steps, doubt, self._options.forget)
        if not steps.known and pace.answers < self._options.least_answers:
            return "unknown_worker"
        if pace.answers >= _TRIAL and pace.error > self._worst:
            return "out_of_distribution"
        said = pace.predict(at)
        if said is None:
            return "out_of_distribution"
        first, token = said
        cost = self._options.first_token * first + (at.output - 1) * token
        if at.others:
            cost += self._options.externality * _externality(steps, at, token)
            cost += _shortage(worker, at) * token
        return cost


def _situation(worker: WorkerView, prompt: int, output: int, cached: float) -> Situation:
    return Situation(
        prompt * (1.0 - cached),
        worker.unread,
        worker.inflight + worker.external,
        worker.kv_tokens + worker.kv_foreign,
        worker.kv_expected - worker.kv_tokens,
        prompt,
        output,
    )


def _externality(steps: Steps, at: Situation, token: float) -> float:
    """Seconds that the others lose in all: each waits while the prompt is read, and its steps get longer for as long as
    both run. A worker that is slow in its own steps is so in these."""
    together = min(at.remaining, at.others * at.output)
    extra = steps.b * at.uncached * at.others + (steps.c + steps.d * (at.prompt + 0.5 * at.output)) * together
    return extra * token / (steps.a + steps.c * (1.0 + at.others) + steps.d * at.held)


def _shortage(worker: WorkerView, at: Situation) -> float:
    """Steps until there is KV cache for all of them: as long as the batch takes to leave behind what is too much."""
    capacity = worker.kv_capacity
    over = 0 if capacity is None else worker.kv_expected + worker.kv_foreign + at.prompt + at.output - capacity
    return over / max(at.held, 1) * at.remaining / at.others if over > 0 else 0.0
