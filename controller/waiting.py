"""Where tickets wait: for their scores, for their turn, and until their time is up."""

from __future__ import annotations

import math
from collections.abc import Iterator

from controller.backlog import Backlog
from controller.members import PoolState
from controller.protocols import FairnessStage, OrderContext, OrderStage
from controller.queue import KeyedHeap, PoolQueue
from controller.settings import ControlSettings
from controller.tickets import Stand, TicketState, pool_of
from controller.types import PoolName, Tenant


class WaitingRoom:
    """Every ticket that is not running, in one queue a pool, with the time limits of all."""

    def __init__(self, order: OrderStage, fairness: FairnessStage, settings: ControlSettings) -> None:
        self._order = order
        self._fairness = fairness
        self._settings = settings
        self._queues: dict[PoolName, PoolQueue[TicketState]] = {}
        self._open: KeyedHeap[TicketState] = KeyedHeap()
        self._limits: KeyedHeap[TicketState] = KeyedHeap()
        self.backlog = Backlog()

    def reconfigure(self, settings: ControlSettings) -> None:
        """Go by these settings from now on; tickets that wait keep the limits they came with."""
        self._settings = settings

    @property
    def open(self) -> int:
        """Tickets whose tier is not chosen yet."""
        return len(self._open)

    def __iter__(self) -> Iterator[TicketState]:
        yield from self._open
        for queue in self._queues.values():
            yield from queue

    def of_tenant(self, tenant: Tenant) -> int:
        """Tickets of this tenant that wait."""
        return self.backlog.of(tenant)[0]

    def of_pool(self, pool: PoolState) -> list[TicketState]:
        """Tickets that wait for this pool."""
        return list(self._queues.get(pool.name, ()))

    def hold(self, state: TicketState) -> None:
        """Keep a ticket until its scores come, or its budget is over."""
        self._open.push(state, state.submitted_at + self._settings.scoring_budget_s, state.serial)
        self._enter(state)

    def enqueue(self, state: TicketState, pool: PoolState, now: float, *, keep_key: bool = False) -> None:
        """Put a ticket into a pool's queue; ``keep_key`` for one that has been there before."""
        if state.stand is Stand.OPEN:
            self._open.discard(state)
        state.stand = Stand.QUEUED
        state.pool = pool
        state.group = self._fairness.group(state.ticket.tenant)
        state.prompt_tokens = pool.prompt.count(state.ticket)
        if not keep_key:
            state.key = self._order.key(OrderContext(state.ticket, state.submitted_at, state.scores))
        self._account(state, pool)
        queue = self._queues.get(pool.name)
        if queue is None:
            queue = self._queues[pool.name] = PoolQueue()
        if queue.push(state.group, state, _place(state), state.serial):
            self._fairness.arrived(pool.name, state.group)
        pool.wait(1, state.work, now)
        self._enter(state)

    def rekey(self, state: TicketState, now: float) -> None:
        """A queued ticket's scores came: its place in the queue, and the work it stands for, may change."""
        pool = pool_of(state)
        before = state.work
        state.key = self._order.key(OrderContext(state.ticket, state.submitted_at, state.scores))
        self._account(state, pool)
        self._queues[pool.name].push(state.group, state, _place(state), state.serial)
        pool.wait(0, state.work - before, now)

    def take(self, pool: PoolState, group: str, now: float) -> TicketState:
        """The first ticket of the group leaves the queue to be sent."""
        state, emptied = self._queues[pool.name].pop(group)
        if not state.attempts:
            self._fairness.admitted(pool.name, group, state.prompt_tokens)
        self._left(state, pool, emptied, now)
        return state

    def discard(self, state: TicketState, now: float) -> None:
        """A waiting ticket leaves for another reason."""
        if state.stand is Stand.OPEN:
            self._open.discard(state)
            self._exit(state)
            return
        pool = pool_of(state)
        self._left(state, pool, self._queues[pool.name].discard(state.group, state), now)

    def overdue(self, now: float) -> list[TicketState]:
        """Tickets whose scoring budget is over."""
        return _due(self._open, now)

    def expired(self, now: float) -> list[TicketState]:
        """Tickets whose time to wait is over."""
        return _due(self._limits, now)

    def next_at(self) -> float | None:
        """When the next ticket becomes overdue or expires."""
        firsts = (heap.first() for heap in (self._open, self._limits))
        return min((first[1] for first in firsts if first is not None), default=None)

    def _account(self, state: TicketState, pool: PoolState) -> None:
        if not state.continued:
            predicted = None if state.scores is None else state.scores.output_tokens
            state.expected_output = pool.output.expect(predicted, state.ticket.max_tokens)
        read = state.prompt_tokens + state.output_tokens
        left = max(1, state.expected_output - state.output_tokens)
        state.work = left + round(self._settings.prompt_work * read)

    def _enter(self, state: TicketState) -> None:
        if state not in self._limits:
            self.backlog.add(state.ticket)
            self._limits.push(state, state.expires_at, state.serial)

    def _exit(self, state: TicketState) -> None:
        self._limits.discard(state)
        self.backlog.remove(state.ticket)

    def _left(self, state: TicketState, pool: PoolState, emptied: bool, now: float) -> None:
        if emptied:
            self._fairness.emptied(pool.name, state.group)
        pool.wait(-1, -state.work, now)
        self._exit(state)


def _place(state: TicketState) -> float:
    """Its key, or, in the middle of its answer, in front of all."""
    return -math.inf if state.continued else state.key


def _due(heap: KeyedHeap[TicketState], now: float) -> list[TicketState]:
    due = []
    while (first := heap.first()) is not None and first[1] <= now:
        due.append(heap.pop())
    return due
