"""Placement by what workers have cached of a prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import Field

from controller.caches.map import CacheMap
from controller.caches.view import CacheView
from controller.place.base import SHOWN, least_loaded, load_key
from controller.prefix import PrefixIndex
from controller.protocols import HomeContext, Options, Outcome, PlaceContext, Resources
from controller.types import Alternative, Choice, PoolName, Ticket, TicketId, WorkerName
from controller.view import WorkerView


class PrefixOptions(Options):
    """Options of ``prefix``."""

    capacity_blocks: int = Field(200_000, ge=1)
    """Blocks of prompt text that the index remembers, over all workers."""
    min_match: float = Field(0.1, ge=0, le=1)
    """Share of the prompt's blocks below which a match is not worth a detour."""
    gate_ratio: float = Field(1.5, ge=1)
    """A worker may carry so many times the load of the least loaded one to be chosen for its cache …"""
    gate_slack: float = Field(64.0, ge=0)
    """… plus so much token-work per in-flight slot."""
    homes: bool = True
    """Give a request that has to wait a worker to wait for."""
    home_s: float = Field(30.0, ge=0)
    """Seconds that it may be overtaken for that worker's sake, by requests of the same tenant that others serve. With
    orders that rank in another unit, as ``length_rank`` without ageing, these are that unit."""
    worker_blocks: int | None = Field(None, ge=1)
    """Blocks of prompt text that one worker's cache holds; unset, only ``capacity_blocks`` bounds the memory."""


class Prefix:
    """The worker that has seen most of the prompt, unless it is much busier than the least loaded one.

    Without the gate, a popular prefix would pull all its traffic to one worker.
    """

    name = "prefix"

    def __init__(self, options: PrefixOptions) -> None:
        self._min_match = options.min_match
        self._gate_ratio, self._gate_slack = options.gate_ratio, options.gate_slack
        self.homes, self.home_s = options.homes, options.home_s
        self._index = CacheView(options.capacity_blocks, options.worker_blocks)
        self._awaited = PrefixIndex(options.capacity_blocks, options.worker_blocks)
        """Prompts that wait for a worker, which will have them cached."""

    @classmethod
    def create(cls, options: PrefixOptions, resources: Resources) -> Prefix:
        return cls(options)

    def choose(self, context: PlaceContext) -> Choice:
        workers, prefix = context.workers, context.ticket.prefix
        chosen = least_loaded(workers)
        matches = self._index.matches(context.ticket, chosen.pool)
        if matches:
            near = self._nearest(workers, [worker.load for worker in workers], matches, len(prefix))
            if near:
                chosen = near[0] if len(near) == 1 else least_loaded(near)
        shown = _matched(workers, matches, len(prefix)) if context.recorded else ()
        return Choice("place", self.name, chosen.name, shown)

    def placed(self, ticket: Ticket, worker: WorkerName) -> None:
        self._index.placed(ticket, worker)

    def left(self, ticket: TicketId, worker: WorkerName, outcome: Outcome | None) -> None:
        """See :class:`~controller.protocols.LearnsFromOutcomes`."""
        self._index.left(ticket, worker)

    def home(self, context: HomeContext) -> WorkerName:
        """The same, by the loads with what waits for each; always one, so that what belongs together waits together."""
        prefix, workers = context.ticket.prefix, context.workers
        matches = self._index.matches(context.ticket, workers[0].pool)
        for name, blocks in self._awaited.matches(prefix).items():
            matches[name] = max(blocks, matches.get(name, 0))
        near = self._nearest(workers, [_waiting_load(worker) for worker in workers], matches, len(prefix))
        home = min(near or workers, key=lambda worker: (_waiting_load(worker), load_key(worker))).name
        self._awaited.add(prefix, home)
        return home

    def unhomed(self, ticket: TicketId) -> None:
        """Nothing is kept for one that waits."""

    def cached(self, ticket: Ticket, worker: WorkerName) -> float:
        """See :class:`~controller.protocols.Homing`."""
        return self._index.cached(ticket, worker) / len(ticket.prefix) if ticket.prefix else 0.0

    def forget(self, worker: WorkerName) -> None:
        self._index.forget(worker)
        self._awaited.forget(worker)

    def use(self, pool: PoolName, cached: CacheMap) -> None:
        """See :class:`~controller.caches.view.UsesCacheMaps`."""
        self._index.use(pool, cached)

    def _nearest(
        self, workers: Sequence[WorkerView], loads: Sequence[float], matches: Mapping[WorkerName, int], blocks: int
    ) -> list[WorkerView]:
        """Those that have seen most of the prompt, of those that are worth a detour."""
        gate = min(loads) * self._gate_ratio + self._gate_slack
        most = max(1, math.ceil(self._min_match * blocks))
        near: list[WorkerView] = []
        for worker, load in zip(workers, loads, strict=True):
            matched = matches.get(worker.name, 0)
            if matched >= most and load <= gate:
                if matched > most:
                    near, most = [], matched
                near.append(worker)
        return near


def _waiting_load(worker: WorkerView) -> float:
    """Its load, with what waits for it in particular."""
    return worker.load + worker.homed / worker.limit


def _matched(workers: tuple[WorkerView, ...], matches: Mapping[str, int], blocks: int) -> tuple[Alternative, ...]:
    of = f" of {blocks} blocks"
    nothing, get = "0" + of, matches.get
    return tuple(
        [
            Alternative(w.name, -w.load, True, f"{matched}{of}" if (matched := get(w.name)) else nothing)
            for w in workers[:SHOWN]
        ]
    )
