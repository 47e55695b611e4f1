"""Placement by turns and by load."""

from __future__ import annotations

from collections.abc import Sequence

from controller.place.base import SHOWN, least_loaded, load_key, loads
from controller.protocols import Options, PlaceContext, Resources
from controller.types import Alternative, Choice, PoolName, Ticket, WorkerName


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
        shown = names[:SHOWN] if context.recorded else ()
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
        return Choice("place", self.name, chosen.name, loads(context.workers) if context.recorded else ())

    def lightest(self, loads: Sequence[float]) -> int | None:
        """See :class:`~controller.protocols.ByLoad`."""
        least = min(loads)
        return loads.index(least) if loads.count(least) == 1 else None

    def placed(self, ticket: Ticket, worker: WorkerName) -> None:
        """The fleet accounts for it."""

    def forget(self, worker: WorkerName) -> None:
        """Nothing kept."""


class PowerOfTwo:
    """The less loaded of two workers drawn at random (Mitzenmacher, 2001): what stale loads cannot herd."""

    name = "power_of_two"

    @classmethod
    def create(cls, options: Options, resources: Resources) -> PowerOfTwo:
        return cls()

    def choose(self, context: PlaceContext) -> Choice:
        workers = context.workers
        if len(workers) > 2:
            first = int(context.random.integers(len(workers)))
            second = int(context.random.integers(len(workers) - 1))
            workers = (workers[first], workers[second + (second >= first)])
        chosen = min(workers, key=load_key)
        return Choice("place", self.name, chosen.name, loads(workers) if context.recorded else ())

    def placed(self, ticket: Ticket, worker: WorkerName) -> None:
        """The fleet accounts for it."""

    def forget(self, worker: WorkerName) -> None:
        """Nothing kept."""
