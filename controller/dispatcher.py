"""From the queues to the workers: whose turn it is, which ticket, which worker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controller.errors import ControlError
from controller.fleet import Fleet
from controller.members import PoolState, WorkerState
from controller.protocols import ByLoad, PlaceContext, Stages
from controller.signals import Signals
from controller.tickets import Stand, TicketState
from controller.types import Choice, Dispatch
from controller.waiting import WaitingRoom

_RUNNING = Stand.RUNNING


class Dispatcher:
    """Sends tickets while there is room."""

    def __init__(self, fleet: Fleet, waiting: WaitingRoom, stages: Stages, signals: Signals, seed: int) -> None:
        self._fleet = fleet
        self._waiting = waiting
        self._order = stages.order
        self._fairness = stages.fairness
        self._place = stages.place
        self._by_load = stages.place if isinstance(stages.place, ByLoad) else None
        self._signals = signals
        self._random = np.random.default_rng([seed, 1])

    def send(self, now: float) -> tuple[Dispatch, ...]:
        """As many requests as the in-flight limits allow, pool by pool. Then there is nothing to do until the fleet is
        stirred, unless a ticket waits for a particular worker."""
        sent: list[Dispatch] = []
        held: list[TicketState] = []
        again = False
        for pool in self._fleet.pools.values():
            while pool.queued and (free := pool.with_room()):
                dispatch = self._next(pool, free, held, now)
                if dispatch is not None:
                    sent.append(dispatch)
            while held:
                self._waiting.enqueue(held.pop(0), pool, now, keep_key=True)
                again = True
        self._fleet.stir.any = again
        return tuple(sent)

    def _next(
        self, pool: PoolState, free: Sequence[WorkerState], held: list[TicketState], now: float
    ) -> Dispatch | None:
        """Send the next ticket; one that had better wait for another worker is put into ``held`` instead."""
        fairness, order, name = self._fairness, self._order, pool.name
        standing = fairness.standing(name)
        group = fairness.pick(name)
        state = self._waiting.take(pool, group, now)
        if state.bound is not None or state.avoid:
            free = _usable(state, pool, free)
            if not free:
                held.append(state)
                return None
        if state.recorded:
            if standing:
                state.choices.append(Choice("fairness", fairness.name, group, standing))
            fallback = state.unranked if order.needs else None
            state.choices.append(Choice("order", order.name, f"key {state.key:.3f}", fallback=fallback))
        if state.wanted:
            self._signals.spare(state)
        return self._start(state, self._worker(state, pool, free, now), now)

    def _worker(self, state: TicketState, pool: PoolState, free: Sequence[WorkerState], now: float) -> WorkerState:
        worker = None if state.recorded else self._lightest(free)
        if worker is None:
            worker = self._chosen(state, pool, free, now)
        self._place.placed(state.ticket, worker.name)
        return worker

    def _lightest(self, free: Sequence[WorkerState]) -> WorkerState | None:
        """The worker that the stage takes, where it can tell without a look at more than loads."""
        if self._by_load is None:
            return None
        if len(free) == 1:
            return free[0]
        position = self._by_load.lightest([worker.load() for worker in free])
        return None if position is None else free[position]

    def _chosen(self, state: TicketState, pool: PoolState, free: Sequence[WorkerState], now: float) -> WorkerState:
        views = tuple([worker.view or worker.snapshot() for worker in free])
        recorded = state.recorded
        choice = self._place.choose(PlaceContext(state.ticket, views, now, self._random, pool.snapshot, recorded))
        if recorded:
            state.choices.append(choice)
        for worker in free:
            if worker.name == choice.chosen:
                return worker
        raise ControlError(f"place {self._place.name} chose {choice.chosen!r}, which has no room")

    def _start(self, state: TicketState, worker: WorkerState, now: float) -> Dispatch:
        state.stand = _RUNNING
        state.worker = worker
        state.bound = None
        attempt = state.attempts = state.attempts + 1
        state.dispatched_at = now
        ticket, spec = state.ticket, worker.spec
        self._fleet.start(worker, ticket.id, state.work, now)
        priority = self._order.engine_priority(state.key) if spec.priority_scheduling else None
        model = ticket.needs.adapter or worker.pool.spec.model
        return Dispatch(ticket.id, spec.pool, spec.name, spec.url, model, priority, attempt)


def _usable(state: TicketState, pool: PoolState, free: Sequence[WorkerState]) -> Sequence[WorkerState]:
    """The workers with room that a ticket may go to: never back to one that failed it while another serves the pool,
    even if that one is full now."""
    if state.bound is not None:
        bound = [worker for worker in free if worker.name == state.bound]
        if bound:
            return bound
    if not state.avoid:
        return free
    if any(worker.serves and worker.name not in state.avoid for worker in pool.workers.values()):
        return [worker for worker in free if worker.name not in state.avoid]
    return free
