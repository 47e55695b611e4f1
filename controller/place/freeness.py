"""Placement by how much of the KV cache is left a request (Llumnix: Sun et al., OSDI'24, §4.4)."""

from __future__ import annotations

from pydantic import Field

from controller.place.base import SHOWN, least_loaded, loads
from controller.protocols import Options, PlaceContext, Resources, Signal
from controller.types import Alternative, Choice, Ticket, WorkerName
from controller.view import WorkerView

__all__ = ["Freeness", "FreenessOptions"]


class FreenessOptions(Options):
    """Options of ``freeness``."""

    growth: float = Field(1.0, ge=0, le=1)
    """Share of what running answers are expected to grow by that counts as used already; 0 counts what they hold."""


class Freeness:
    """The worker with the most KV cache left over for each request of its batch.

    Freeness is ``(capacity - virtual usage) / batch size`` in tokens: how long a worker can go on before its requests
    no longer fit, in tokens each. Virtual usage is what its requests hold and will hold, whether they are in the batch
    or queued there, the work that waits for it in particular, and what others hold by its last report. Where the
    capacity of a worker is not known, the least loaded one is taken.
    """

    name = "freeness"
    counts_tokens = True
    needs = frozenset({Signal.LENGTH})

    def __init__(self, options: FreenessOptions) -> None:
        self._growth = options.growth

    @classmethod
    def create(cls, options: FreenessOptions, resources: Resources) -> Freeness:
        return cls(options)

    def choose(self, context: PlaceContext) -> Choice:
        workers = context.workers
        best: WorkerView | None = None
        most = (0.0, 0.0, 0, "")
        for worker in workers:
            capacity = worker.kv_capacity
            if capacity is None:
                shown = loads(workers) if context.recorded else ()
                return Choice("place", "least_load", least_loaded(workers).name, shown, fallback="unknown_capacity")
            key = -self._of(worker, capacity), worker.inflight / worker.limit, worker.dispatched, worker.name
            if best is None or key < most:
                best, most = worker, key
        if best is None:
            raise ValueError("there is no worker to choose from")
        alternatives: tuple[Alternative, ...] = ()
        if context.recorded:
            alternatives = tuple([Alternative(w.name, self._of(w, w.kv_capacity or 0)) for w in workers[:SHOWN]])
        return Choice("place", self.name, best.name, alternatives)

    def placed(self, ticket: Ticket, worker: WorkerName) -> None:
        """The fleet accounts for it."""

    def forget(self, worker: WorkerName) -> None:
        """Nothing kept."""

    def _of(self, worker: WorkerView, capacity: int) -> float:
        grown = worker.kv_tokens + self._growth * (worker.kv_expected - worker.kv_tokens)
        used = grown + worker.kv_foreign + worker.homed
        left = capacity - used
        # Of two that are over their capacity, the one with more requests is not the freer.
        return left / max(worker.inflight + worker.external, 1) if left > 0.0 else left
