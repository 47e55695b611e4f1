"""From the queues to the workers: whose turn it is, which ticket, which worker."""

from __future__ import annotations

from collections.abc import KeysView, Mapping, Sequence

import numpy as np

from controller.errors import ControlError
from controller.fairness import NoFairness
from controller.fleet import Fleet
from controller.homes import ANYWHERE
from controller.kv.account import KvLimits
from controller.kv.admission import KvAdmission
from controller.members import PoolState, WorkerState
from controller.protocols import ByLoad, CountsTokens, Homing, PlaceContext, Stages
from controller.signals import Signals
from controller.tickets import Stand, TicketState
from controller.types import Alternative, Choice, Dispatch
from controller.waiting import WaitingRoom

_RUNNING = Stand.RUNNING


class Dispatcher:
    """Sends tickets while there is room."""

    def __init__(
        self,
        fleet: Fleet,
        waiting: WaitingRoom,
        stages: Stages,
        signals: Signals,
        seed: int,
        kv: KvLimits | None = None,
    ) -> None:
        self._fleet = fleet
        self.kv: KvAdmission | None = None
        self._held_back = 0
        """By limits that were in force before."""
        self.limit(kv)
        self._waiting = waiting
        self._homeless = not waiting.homing
        self._order = stages.order
        self._fairness = stages.fairness
        self._place = stages.place
        self._by_load = stages.place if isinstance(stages.place, ByLoad) else None
        self._counts = isinstance(stages.place, CountsTokens)
        self._caches = stages.place if stages.fairness.spares_cached and isinstance(stages.place, Homing) else None
        self._charges = not isinstance(stages.fairness, NoFairness)
        self._signals = signals
        self._random = np.random.default_rng([seed, 1])

    def limit(self, kv: KvLimits | None) -> None:
        """Admit by the workers' KV budgets from now on, or no longer; what runs keeps what is reserved for it."""
        if self.kv is not None and self.kv.limits == kv:
            return
        self._held_back = self.held_for_kv
        self.kv = None if kv is None else KvAdmission(kv)

    @property
    def held_for_kv(self) -> int:
        """See :meth:`ControlPlane.held_for_kv`."""
        return self._held_back + (0 if self.kv is None else self.kv.held_back)

    def send(self, now: float) -> tuple[Dispatch, ...]:
        """As many requests as the in-flight limits allow, pool by pool. Then there is nothing to do until the fleet is
        stirred, unless a ticket waits for a particular worker, or for room in a KV cache."""
        sent: list[Dispatch] = []
        held: list[TicketState] = []
        again = False
        kv, next_ = self.kv, self._next if self._homeless else self._next_home
        for pool in self._fleet.pools.values():
            if not pool.queued:
                continue
            if kv is not None and (kept := kv.begin(pool)) is not None:
                sent.append(self._send_kept(*kept, pool, now))
            free: Sequence[WorkerState]
            while pool.queued and (free := pool.with_room()):
                if kv is not None and not (free := kv.open(pool, free)):
                    again = True  # whom a worker is kept for may leave or go elsewhere, which stirs nothing
                    break
                dispatch = next_(pool, free, held, now)
                if dispatch is not None:
                    sent.append(dispatch)
            while held:
                self._waiting.put_back(held.pop(0), pool, now)
                again = True
        self._fleet.stir.any = again
        return tuple(sent)

    def _next(
        self, pool: PoolState, free: Sequence[WorkerState], held: list[TicketState], now: float
    ) -> Dispatch | None:
        """Send the next ticket; one that had better wait for another worker is put into ``held`` instead."""
        fairness, name = self._fairness, pool.name
        standing = fairness.standing(name)
        group = fairness.pick(name)
        if group is None:
            raise ControlError(f"fairness {fairness.name} picks nobody of all that wait for {name!r}")
        state = self._waiting.take(pool, group, now)
        if state.bound is not None or state.avoid:
            free = _usable(state, pool, free)
        if free and self.kv is not None:
            free = self.kv.fitting(state, free)
            if not free:
                self.kv.short(state, pool, None, now)
        if not free:
            held.append(state)
            return None
        return self._send(state, pool, free, now, standing)

    def _next_home(
        self, pool: PoolState, free: Sequence[WorkerState], held: list[TicketState], now: float
    ) -> Dispatch | None:
        """The same where tickets wait at homes: the least loaded worker with room takes what waits for it or for any;
        else what waits where the most does, so that none idles. It takes another of the same group first that has
        fallen too far behind at its home."""
        waiting, fairness = self._waiting, self._fairness
        homes = waiting.homes(pool)
        worker, home = _turn(free, homes)
        anywhere = ANYWHERE in homes
        at = [home] if home is not None else []
        firsts = waiting.firsts(pool, [*at, ANYWHERE] if anywhere else at or [_fullest(pool, homes)])
        standing = fairness.standing(pool.name)
        group = fairness.pick(pool.name, _cached(firsts, worker))
        if group is None:  # whose turn it is waits for another worker
            group = fairness.pick(pool.name)
            first = None if group is None else waiting.first_of(pool, group)
        else:
            first = firsts[group]
        if group is None or first is None:
            raise ControlError(f"fairness {fairness.name} picks nobody of all that wait for {pool.name!r}")
        overdue = waiting.overdue_at_home(pool, first[1])
        where, _ = overdue or first
        state = waiting.take(pool, group, now, where)
        near = [worker] if overdue is None and where != ANYWHERE else free
        if state.bound is not None or state.avoid:
            near = free = _usable(state, pool, free)
        if near and self.kv is not None:  # at home, or else wherever it fits
            near = self.kv.fitting(state, near) or self.kv.fitting(state, free)
            if not near:
                self.kv.short(state, pool, worker, now)
        if not near:
            held.append(state)
            return None
        return self._send(state, pool, near, now, standing)

    def _send_kept(self, state: TicketState, worker: WorkerState, pool: PoolState, now: float) -> Dispatch:
        """The ticket that a worker was kept for goes there, whoever's turn it is."""
        standing = self._fairness.standing(pool.name)
        self._waiting.withdraw(state, now)
        return self._send(state, pool, [worker], now, standing)

    def _send(
        self,
        state: TicketState,
        pool: PoolState,
        free: Sequence[WorkerState],
        now: float,
        standing: tuple[Alternative, ...],
    ) -> Dispatch:
        fairness, order, group = self._fairness, self._order, state.group
        if self.kv is not None:
            self.kv.sent(pool)
            state.short_since, state.passed = None, 0
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
        if self._charges and not state.attempts:
            self._charge(state, pool, worker)
        self._place.placed(state.ticket, worker.name)
        return worker

    def _charge(self, state: TicketState, pool: PoolState, worker: WorkerState) -> None:
        """To its group, for a request that is sent for the first time."""
        fairness, prompt = self._fairness, state.prompt_tokens
        if self._caches is not None:
            prompt -= int(prompt * self._caches.cached(state.ticket, worker.name))
        state.prompt_charged = prompt
        fairness.admitted(pool.name, state.group, prompt)
        if fairness.prepays and state.generates:
            state.prepaid = state.expected_output
            fairness.decoded(pool.name, state.group, state.prepaid)

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
        had = state.output_tokens
        prompt, left = state.prompt_tokens + had, max(state.expected_output - had, 1)
        context = PlaceContext(state.ticket, views, now, self._random, pool.snapshot, recorded, prompt, left)
        choice = self._place.choose(context)
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
        if self._counts or self.kv is not None:  # else nobody asks what workers hold in their KV caches
            had = state.output_tokens
            reserved = 0 if self.kv is None else self.kv.reserve(state)
            state.booking = worker.tokens.book(state.prompt_tokens + had, max(state.expected_output - had, 0), reserved)
        self._fleet.start(worker, ticket.id, state.work, now)
        priority = self._order.engine_priority(state.key) if spec.priority_scheduling else None
        model = ticket.needs.adapter or worker.pool.spec.model
        return Dispatch(ticket.id, spec.pool, spec.name, spec.url, model, priority, attempt)


def _turn(free: Sequence[WorkerState], homes: KeysView[str]) -> tuple[WorkerState, str | None]:
    """The worker with room whose turn it is, the least loaded of those for which tickets wait where there are any, and
    its home if they do."""
    awaited = [worker for worker in free if worker.name in homes]
    worker = min(awaited or free, key=WorkerState.load)
    return worker, worker.name if awaited else None


def _fullest(pool: PoolState, homes: KeysView[str]) -> str:
    """The home where the most work waits, for the worker's size."""
    return max(homes, key=lambda home: pool.workers[home].homed / (pool.workers[home].limit or 1))


def _cached(firsts: Mapping[str, tuple[str, TicketState]], worker: WorkerState) -> dict[str, float]:
    """Of each group's first ticket, the share of its prompt that this worker is believed to have cached."""
    return {group: state.cached if home == worker.name else 0.0 for group, (home, state) in firsts.items()}


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
