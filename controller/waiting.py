"""Where tickets wait: for their scores, for their turn, and until their time is up."""

from __future__ import annotations

import math
from collections.abc import Iterator

from controller.backlog import Backlog
from controller.members import PoolState
from controller.protocols import FairnessStage, OrderContext, OrderStage
from controller.queue import PoolQueue, Timers
from controller.settings import ControlSettings
from controller.tickets import Stand, TicketState, pool_of
from controller.types import PoolName

_OPEN, _QUEUED = Stand.OPEN, Stand.QUEUED


class WaitingRoom:
    """Every ticket that is not running, in one queue a pool, with the time limits of all."""

    def __init__(self, order: OrderStage, fairness: FairnessStage, settings: ControlSettings) -> None:
        self._order = order
        self._fairness = fairness
        self._settings = settings
        self._queues: dict[PoolName, PoolQueue[TicketState]] = {}
        self.held: Timers[TicketState] = Timers()
        """Tickets whose tier is not chosen yet, until their budget is over."""
        self.limits: Timers[TicketState] = Timers()
        self.backlog = Backlog()

    def reconfigure(self, settings: ControlSettings) -> None:
        """Go by these settings from now on; tickets that wait keep the limits they came with."""
        self._settings = settings

    def __iter__(self) -> Iterator[TicketState]:
        yield from self.held
        for queue in self._queues.values():
            yield from queue

    def of_pool(self, pool: PoolState) -> list[TicketState]:
        """Tickets that wait for this pool."""
        return list(self._queues.get(pool.name, ()))

    def hold(self, state: TicketState) -> None:
        """Keep a new ticket until its scores come, or its budget is over."""
        serial = state.serial
        self.held.push(state, state.submitted_at + self._settings.scoring_budget_s, serial)
        self.limits.push(state, state.expires_at, serial)
        self.backlog.add(state.ticket)

    def enqueue(self, state: TicketState, pool: PoolState, now: float, *, keep_key: bool = False) -> None:
        """Put a ticket into a pool's queue; ``keep_key`` for one that has been there before."""
        ticket, name = state.ticket, pool.name
        held = state.stand is _OPEN and self.held.discard(state)
        state.stand = _QUEUED
        state.pool = pool
        group = state.group = self._fairness.group(ticket.tenant)
        counted = ticket.prompt_tokens
        state.prompt_tokens = pool.prompt.count(ticket) if counted is None else counted
        if not keep_key:
            state.key = self._order.key(OrderContext(ticket, state.submitted_at, state.scores))
        self._account(state, pool)
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = PoolQueue()
        if queue.push(group, state, -math.inf if state.continued else state.key, state.serial):
            self._fairness.arrived(name, group)  # in the middle of its answer it goes in front of all
        pool.wait(1, state.work, now)
        if not held:
            self._enter(state)

    def rekey(self, state: TicketState, now: float) -> None:
        """A queued ticket's scores came: its place in the queue, and the work it stands for, may change."""
        pool = pool_of(state)
        before = state.work
        state.key = self._order.key(OrderContext(state.ticket, state.submitted_at, state.scores))
        self._account(state, pool)
        self._queues[pool.name].push(state.group, state, -math.inf if state.continued else state.key, state.serial)
        pool.wait(0, state.work - before, now)

    def take(self, pool: PoolState, group: str, now: float) -> TicketState:
        """The first ticket of the group leaves the queue to be sent."""
        name = pool.name
        state, emptied = self._queues[name].pop(group)
        if not state.attempts:
            self._fairness.admitted(name, group, state.prompt_tokens)
        if emptied:
            self._fairness.emptied(name, group)
        pool.wait(-1, -state.work, now)
        self.limits.discard(state)
        self.backlog.remove(state.ticket)
        return state

    def discard(self, state: TicketState, now: float) -> None:
        """A waiting ticket leaves for another reason."""
        if state.stand is _OPEN:
            self.held.discard(state)
            self._exit(state)
            return
        pool = pool_of(state)
        if self._queues[pool.name].discard(state.group, state):
            self._fairness.emptied(pool.name, state.group)
        pool.wait(-1, -state.work, now)
        self._exit(state)

    def overdue(self, now: float) -> list[TicketState]:
        """Tickets whose scoring budget is over."""
        return self.held.due(now)

    def expired(self, now: float) -> list[TicketState]:
        """Tickets whose time to wait is over."""
        return self.limits.due(now)

    def next_at(self) -> float | None:
        """When the next ticket becomes overdue or expires."""
        overdue, expires = self.held.next_at(), self.limits.next_at()
        if overdue is None or expires is None:
            return expires if overdue is None else overdue
        return min(overdue, expires)

    def _account(self, state: TicketState, pool: PoolState) -> None:
        if not state.continued:
            predicted = None if state.scores is None else state.scores.output_tokens
            state.expected_output = pool.output.expect(predicted, state.ticket.max_tokens)
        read = state.prompt_tokens + state.output_tokens
        left = state.expected_output - state.output_tokens
        state.work = (left if left > 1 else 1) + round(self._settings.prompt_work * read)

    def _enter(self, state: TicketState) -> None:
        if state not in self.limits:
            self.backlog.add(state.ticket)
            self.limits.push(state, state.expires_at, state.serial)

    def _exit(self, state: TicketState) -> None:
        self.limits.discard(state)
        self.backlog.remove(state.ticket)
