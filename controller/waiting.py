"""Where tickets wait: for their scores, for their turn, and until their time is up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, KeysView

from controller.backlog import Backlog
from controller.homes import ANYWHERE, HomeQueues
from controller.members import PoolState
from controller.protocols import FairnessStage, HomeContext, Homing, OrderContext, OrderStage, PlaceStage
from controller.queue import PoolQueue, Timers
from controller.settings import ControlSettings
from controller.tickets import Stand, TicketState, pool_of
from controller.types import PoolName
from controller.view import TicketView

_OPEN, _QUEUED = Stand.OPEN, Stand.QUEUED


class WaitingRoom:
    """Every ticket that is not running, in one queue a pool, with the time limits of all.

    Where the ``place`` stage gives waiting tickets a home, a pool has one queue a home instead.
    """

    def __init__(
        self, order: OrderStage, fairness: FairnessStage, settings: ControlSettings, place: PlaceStage | None = None
    ) -> None:
        self._order = order
        self._fairness = fairness
        self._settings = settings
        self._homing = place if isinstance(place, Homing) and place.homes else None
        self._home_s = 0.0 if self._homing is None else self._homing.home_s
        self._queues: dict[PoolName, PoolQueue[TicketState]] = {}
        self._homes: dict[PoolName, HomeQueues[TicketState]] = {}
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
        for homes in self._homes.values():
            yield from homes

    @property
    def homing(self) -> bool:
        """Whether tickets may wait for one worker in particular."""
        return self._homing is not None

    def of_pool(self, pool: PoolState) -> list[TicketState]:
        """Tickets that wait for this pool."""
        return list(self._queues.get(pool.name, ()) if self._homing is None else self._homes.get(pool.name, ()))

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
        self._account(state, pool)
        if not keep_key:
            state.key = self._key(state)
        if self._homing is not None:
            self._settle(state, pool, self._homing, now)
        if self._push(state, name):
            self._fairness.arrived(name, group)
        pool.wait(1, state.work, now)
        if not held:
            self._enter(state)

    def put_back(self, state: TicketState, pool: PoolState, now: float) -> None:
        """A ticket that was taken a moment ago and could not be sent waits again, as and where it did."""
        if self._homing is not None and state.home:
            _occupy(pool, state.home, state.work)
        if self._push(state, pool.name):
            self._fairness.returned(pool.name, state.group)
        pool.wait(1, state.work, now)
        self._enter(state)

    def rekey(self, state: TicketState, now: float) -> None:
        """A queued ticket's scores came: its place in the queue, and the work it stands for, may change."""
        pool = pool_of(state)
        before = state.work
        self._account(state, pool)
        state.key = self._key(state)
        self._push(state, pool.name)
        if state.home:
            _occupy(pool, state.home, state.work - before)
        pool.wait(0, state.work - before, now)

    def take(self, pool: PoolState, group: str, now: float, home: str = ANYWHERE) -> TicketState:
        """The first ticket of the group, of those that wait at this home, leaves the queue to be sent."""
        name = pool.name
        if self._homing is None:
            state, emptied = self._queues[name].pop(group)
        else:
            state, emptied = self._homes[name].pop(home, group)
            if home:
                _occupy(pool, home, -state.work)
        if emptied:
            self._fairness.emptied(name, group)
        pool.wait(-1, -state.work, now)
        self.limits.discard(state)
        self.backlog.remove(state.ticket)
        return state

    def withdraw(self, state: TicketState, now: float) -> None:
        """This ticket leaves the queue to be sent, wherever in it it is."""
        pool = pool_of(state)
        if self._drop(state, pool):
            self._fairness.emptied(pool.name, state.group)
        pool.wait(-1, -state.work, now)
        self._exit(state)

    def discard(self, state: TicketState, now: float) -> None:
        """A waiting ticket leaves for another reason."""
        if state.stand is _OPEN:
            self.held.discard(state)
            self._exit(state)
            return
        if self._homing is not None and state.home:
            self._homing.unhomed(state.ticket.id)
        self.withdraw(state, now)

    def heads(self) -> tuple[TicketView, ...]:
        """The first ticket of every group that waits for a pool, of each home where there are homes."""
        queues = [*self._queues.values(), *(queue for homes in self._homes.values() for queue in homes.queues())]
        return tuple([state.view() for queue in queues for _, state, _, _ in queue.firsts()])

    def firsts(self, pool: PoolState, homes: Iterable[str]) -> dict[str, tuple[str, TicketState]]:
        """For each group that waits at one of these homes: which one its first ticket is at, and that ticket."""
        return self._homes[pool.name].firsts(homes)

    def first_of(self, pool: PoolState, group: str) -> tuple[str, TicketState] | None:
        """Where a group's first ticket of all homes is, and that ticket."""
        return self._homes[pool.name].first_of(group)

    def overdue_at_home(self, pool: PoolState, first: TicketState) -> tuple[str, TicketState] | None:
        """Where a ticket of the same group is that would fall too far behind for its home's sake if ``first`` were sent
        now, and that ticket; ``None`` if there is none."""
        return self._homes[pool.name].first_of(first.group, _key_of(first) - self._home_s)

    def homes(self, pool: PoolState) -> KeysView[str]:
        """Where tickets of this pool wait. Those whose worker no longer serves wait for any from now on."""
        queues = self._homes.get(pool.name)
        if queues is None:
            queues = self._homes[pool.name] = HomeQueues()
        for home in tuple(queues.homes()):
            worker = pool.workers.get(home)
            if home and (worker is None or not worker.serves or worker.seats < 1):
                for state in queues.of(home):
                    self._drop(state, pool)
                    state.home, state.cached = ANYWHERE, 0.0
                    self._push(state, pool.name)
        return queues.homes()

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

    def _settle(self, state: TicketState, pool: PoolState, homing: Homing, now: float) -> None:
        """Choose the worker that a ticket had better wait for, unless one can take it at once."""
        state.home, state.cached = ANYWHERE, 0.0
        if state.avoid or state.bound is not None or pool.has_room():
            return
        workers = tuple([worker.snapshot() for worker in pool.workers.values() if worker.serves and worker.seats > 0])
        if not workers:
            return
        context = HomeContext(state.ticket, workers, state.prompt_tokens, state.expected_output, now)
        home = homing.home(context)
        if home is not None:
            state.home, state.cached = home, homing.cached(state.ticket, home)
            _occupy(pool, home, state.work)

    def _push(self, state: TicketState, pool: PoolName) -> bool:
        """Into its queue, or to another place in it; true if its group waited for nothing before."""
        key = _key_of(state) if state.continued else state.key
        tie = state.serial
        if self._settings.kv is not None:
            # Of equal turn the larger one first, as in decreasing first-fit (S³, Jin et al., NeurIPS'23).
            tie -= (state.prompt_tokens + state.expected_output) << 40
        if self._homing is not None:
            homes = self._homes.get(pool)
            if homes is None:
                homes = self._homes[pool] = HomeQueues()
            return homes.push(state.home, state.group, state, key, tie)
        queue = self._queues.get(pool)
        if queue is None:
            queue = self._queues[pool] = PoolQueue()
        return queue.push(state.group, state, key, tie)

    def _drop(self, state: TicketState, pool: PoolState) -> bool:
        """Out of its queue; true if its group waits for nothing now."""
        if self._homing is None:
            return self._queues[pool.name].discard(state.group, state)
        if state.home:
            _occupy(pool, state.home, -state.work)
        return self._homes[pool.name].discard(state.home, state.group, state)

    def _key(self, state: TicketState) -> float:
        return self._order.key(
            OrderContext(state.ticket, state.submitted_at, state.scores, state.prompt_tokens, state.expected_output)
        )

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


def _key_of(state: TicketState) -> float:
    """Its key in the queue: in the middle of its answer a ticket goes in front of all."""
    return -math.inf if state.continued and not state.yielded else state.key


def _occupy(pool: PoolState, home: str, work: int) -> None:
    """So much more token-work (or less) waits for this worker in particular."""
    worker = pool.workers.get(home)
    if worker is not None:
        worker.homed += work
        worker.view = None
