"""Stage ``place``: which worker of the chosen pool."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import Field

from controller.prefix import PrefixIndex
from controller.protocols import Options, PlaceContext, Resources
from controller.types import Alternative, Choice, PoolName, Ticket, WorkerName
from controller.view import WorkerView

_SHOWN = 8


class RoundRobin:
    """Each worker in turn, by name."""

    name = "round_robin"

    def __init__(self) -> None:
        self._last: dict[PoolName, WorkerName] = {}

    @classmethod
    def create(cls, options: Options, resources: Resources) -> RoundRobin:
        return cls()

    def choose(self, context: PlaceContext) -> Choice:
        names = sorted(worker.name for worker in context.workers)
        last = self._last.get(context.pool.name, "")
        chosen = next((name for name in names if name > last), names[0])
        self._last[context.pool.name] = chosen
        shown = names[:_SHOWN] if context.recorded else ()
        return Choice("place", self.name, chosen, tuple([Alternative(name, None) for name in shown]))

    def placed(self, ticket: Ticket, worker: WorkerName) -> None:
        """Nothing to keep."""

    def forget(self, worker: WorkerName) -> None:
        """Nothing kept."""


class LeastLoad:
    """The worker with the least token-work outstanding for its size; ties by requests, then by turns."""

    name = "least_load"

    @classmethod
    def create(cls, options: Options, resources: Resources) -> LeastLoad:
        return cls()

    def choose(self, context: PlaceContext) -> Choice:
        chosen = least_loaded(context.workers)
        return Choice("place", self.name, chosen.name, _loads(context.workers) if context.recorded else ())

    def lightest(self, loads: Sequence[float]) -> int | None:
        """See :class:`~controller.protocols.ByLoad`."""
        least = min(loads)
        return loads.index(least) if loads.count(least) == 1 else None

    def placed(self, ticket: Ticket, worker: WorkerName) -> None:
        """The fleet accounts for it."""

    def forget(self, worker: WorkerName) -> None:
        """Nothing kept."""


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


class Prefix:
    """The worker that has seen most of the prompt, unless it is much busier than the least loaded one.

    Without the gate, a popular prefix would pull all its traffic to one worker.
    """

    name = "prefix"

    def __init__(self, options: PrefixOptions) -> None:
        self._min_match = options.min_match
        self._gate_ratio, self._gate_slack = options.gate_ratio, options.gate_slack
        self._index = PrefixIndex(options.capacity_blocks)

    @classmethod
    def create(cls, options: PrefixOptions, resources: Resources) -> Prefix:
        return cls(options)

    def choose(self, context: PlaceContext) -> Choice:
        workers, prefix = context.workers, context.ticket.prefix
        chosen = least_loaded(workers)
        matches = self._index.matches(prefix)
        if matches:
            near = self._nearest(workers, matches, len(prefix), chosen.load)
            if near:
                chosen = near[0] if len(near) == 1 else least_loaded(near)
        shown = _matched(workers, matches, len(prefix)) if context.recorded else ()
        return Choice("place", self.name, chosen.name, shown)

    def placed(self, ticket: Ticket, worker: WorkerName) -> None:
        self._index.add(ticket.prefix, worker)

    def forget(self, worker: WorkerName) -> None:
        self._index.forget(worker)

    def _nearest(
        self, workers: Sequence[WorkerView], matches: Mapping[WorkerName, int], blocks: int, idle: float
    ) -> list[WorkerView]:
        """Those that have seen most of the prompt, of those that are worth a detour; ``idle`` is the least load."""
        gate = idle * self._gate_ratio + self._gate_slack
        most = max(1, math.ceil(self._min_match * blocks))
        near: list[WorkerView] = []
        for worker in workers:
            matched = matches.get(worker.name, 0)
            if matched >= most and worker.load <= gate:
                if matched > most:
                    near, most = [], matched
                near.append(worker)
        return near


def least_loaded(workers: Sequence[WorkerView]) -> WorkerView:
    """The least loaded of some workers."""
    if len(workers) == 1:
        return workers[0]
    least = min([worker.load for worker in workers])
    found = [worker for worker in workers if worker.load == least]
    return found[0] if len(found) == 1 else min(found, key=_load_key)


def _load_key(worker: WorkerView) -> tuple[float, float, int, str]:
    return worker.load, worker.inflight / worker.limit, worker.dispatched, worker.name


def _loads(workers: tuple[WorkerView, ...]) -> tuple[Alternative, ...]:
    return tuple([Alternative(worker.name, -worker.load) for worker in workers[:_SHOWN]])


def _matched(workers: tuple[WorkerView, ...], matches: Mapping[str, int], blocks: int) -> tuple[Alternative, ...]:
    of = f" of {blocks} blocks"
    nothing, get = "0" + of, matches.get
    return tuple(
        [
            Alternative(w.name, -w.load, True, f"{matched}{of}" if (matched := get(w.name)) else nothing)
            for w in workers[:_SHOWN]
        ]
    )
