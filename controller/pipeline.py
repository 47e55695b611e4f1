"""The control plane: events in, decisions out.

    submit → (on_scores) → dispatch → on_first_token → on_tokens … → on_finish
                              ↑  └─ on_worker_error ─┘          on_abort at any time; tick for what time brings about

Sans-IO: one thread calls these methods, with a ``now`` that never goes back. The same calls give the same decisions.
Every submitted ticket ends exactly once, in one decision record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from controller.continuing import Continuing
from controller.dispatcher import Dispatcher
from controller.endings import Endings
from controller.errors import ControlError, UnknownTicket
from controller.fleet import Fleet
from controller.intake import Intake
from controller.members import PoolState, WorkerState
from controller.protocols import MakesRoom, Stages, TierContext
from controller.records import RecordLog
from controller.retries import RetryBudget
from controller.running import Running
from controller.settings import ControlSettings
from controller.sharing import Sharing
from controller.signals import Signals
from controller.stranded import Stranded
from controller.tally import Tally
from controller.tickets import NO_SIGNALS, Stand, TicketState, pool_of, worker_of
from controller.tiering import Tiering
from controller.types import (
    Admitted,
    DecisionRecord,
    Dispatch,
    Move,
    PoolName,
    PoolSpec,
    Rejected,
    Requeued,
    Result,
    Scale,
    Scores,
    Tick,
    Ticket,
    TicketId,
    Usage,
    WorkerName,
    WorkerPhase,
    WorkerReport,
    WorkerSpec,
)
from controller.unseen import Unseen
from controller.view import FleetView, TicketView
from controller.waiting import WaitingRoom

LATE = "total_timeout"
"""Code of an answer that took longer than it may in all, which is nobody's fault."""
SILENT = frozenset({"first_byte_timeout", "idle_timeout"})
"""Codes of a worker that fell silent: it hangs, though its connections are up."""
BUSY = "busy"
"""Code of a worker that refused a request because it has too many; any other counts as a fault of the worker."""
_OPEN, _RUNNING = Stand.OPEN, Stand.RUNNING
_FRESH = frozenset({WorkerPhase.STARTING, WorkerPhase.SLEEPING})


class ControlPlane:
    """Decides for every ticket which pool answers, when, and on which worker; and how many replicas there should be.

    ``aliases`` maps model names to the pools they stand for; pools answer to their own and their models' names anyway.
    """

    def __init__(
        self,
        pools: Sequence[PoolSpec],
        stages: Stages,
        *,
        aliases: Mapping[str, Sequence[PoolName]] | None = None,
        settings: ControlSettings | None = None,
        seed: int = 0,
    ) -> None:
        self.stages = stages
        self.settings = settings or ControlSettings()
        own = self.settings
        self.records = RecordLog(own.recent_records, own.pending_records, own.record_share)
        self._fleet = Fleet(pools, self.settings)
        self._waiting = WaitingRoom(stages.order, stages.fairness, self.settings, stages.place)
        self._backlog, self._limited, self._stir = self._waiting.backlog, self._waiting.limits, self._fleet.stir
        self._held = self._waiting.held
        self._intake = Intake(
            self._fleet, self._waiting, stages.admit, stages.scale, aliases or {}, self.settings, self.records
        )
        self.limits = self._intake.limits
        self._tally = Tally()
        self._tiering = Tiering(stages.tier, self._tally, seed)
        self._signals = Signals(stages.tier, stages.order, self._tally, stages.place)
        self._asks = bool(stages.tier.needs)
        """Whether the tier stage has signals to wait for."""
        self._dispatcher = Dispatcher(self._fleet, self._waiting, stages, self._signals, seed, self.settings.kv)
        self._unseen = Unseen(self._fleet)
        self._running = Running(self._fleet, stages.fairness, self.settings, stages.place)
        self._continuing = Continuing(self._fleet, self._waiting, self.settings)
        self.retries = RetryBudget(self.settings.retry_share, self.settings.retry_free_per_s)
        self._tickets: dict[TicketId, TicketState] = {}
        self.sharing = Sharing(self._fleet, self._tickets, stages.fairness, self.limits, self.settings)
        self._endings = Endings(self._tickets, self._running, self.limits, self.records, stages)
        self._end, self._ended = self._endings.end, self._endings.ids
        self._stranded = Stranded(
            self._fleet, self._waiting, self._intake, self._tiering, self._endings, stages.fairness, self.settings
        )
        self._rehome = self._stranded.rehome
        self._next_scale = float("-inf")
        self._next_rebalance = float("-inf")

    # The fleet

    def add_worker(self, spec: WorkerSpec, now: float, phase: WorkerPhase = WorkerPhase.READY) -> None:
        """A worker joins; :class:`UnknownPool` or :class:`DuplicateWorker` if it cannot."""
        self._fleet.add(spec, phase, now)
        self.stages.place.forget(spec.name)
        self._rehome(now)

    def remove_worker(self, name: WorkerName, now: float) -> None:
        """A worker leaves and gets nothing new; what runs there may still finish or fail."""
        pool = self._fleet.worker(name).pool
        self._fleet.remove(name, now)
        if self._waiting.homing:
            self._waiting.homes(pool)  # what waits for it waits for any
        self.stages.place.forget(name)
        self._rehome(now)

    def set_phase(self, name: WorkerName, phase: WorkerPhase, now: float) -> None:
        """A worker is now ready, unhealthy, draining, …; becoming ready wipes out the errors counted before."""
        before = self._fleet.set_phase(name, phase, now)
        if before in _FRESH and phase is WorkerPhase.READY:
            self.stages.place.forget(name)
        self._rehome(now)

    def resize_worker(self, name: WorkerName, max_inflight: int, priority_scheduling: bool, now: float) -> None:
        """A worker may have another number of requests from now on, and schedules by priority or not."""
        self._fleet.resize(name, max_inflight, priority_scheduling, now)

    def reconfigure(self, settings: ControlSettings, aliases: Mapping[str, Sequence[PoolName]], now: float) -> None:
        """Go by these settings and aliases from now on. Tickets that wait or run keep the limits they came with.

        How many records are made and kept, and what pools are believed to be before they have shown it, stays. Raises
        :class:`UnknownPool`, with nothing changed, for an alias of no pool.
        """
        self._intake.reconfigure(settings, aliases, now)
        self.settings = self.sharing.settings = settings
        self._fleet.reconfigure(settings)
        self._waiting.reconfigure(settings)
        self._continuing.reconfigure(settings)
        self._stranded.reconfigure(settings)
        self._dispatcher.limit(settings.kv)
        self.retries.reconfigure(settings.retry_share, settings.retry_free_per_s)
        self.stages.fairness.reconfigure(settings)

    def on_worker_report(self, name: WorkerName, report: WorkerReport, now: float) -> None:
        """A worker's own metrics were read."""
        self._fleet.report(name, report)

    # A ticket's life

    def submit(self, ticket: Ticket, now: float) -> Admitted | Rejected:
        """A request came in. :class:`ControlError` if its id is in use or was a moment ago."""
        if ticket.id in self._tickets or ticket.id in self._ended:
            raise ControlError(f"ticket {ticket.id!r} was submitted before")
        self._fleet.arrived(now)
        state = self._intake.receive(ticket, now)
        if isinstance(state, Rejected):
            self._endings.refused(ticket, state.code, now)
            return state
        self._tickets[ticket.id] = state
        if not ticket.streams:
            self._unseen.add(state)
        self.retries.deposit(now)
        if self._awaits_scores(state):
            self._waiting.hold(state)
            state.wanted = self._signals.needs
        else:
            self._settle(state, now)
        return Admitted(ticket.id, bool(state.wanted))

    def on_scores(self, ticket: TicketId, scores: Scores | None, now: float, why: str = "no_scores") -> None:
        """The ticket's scores came, or will not come (``None``, and ``why``). Late ones only re-order the queue."""
        state = self._tickets.get(ticket) or self._find(ticket)
        if state is None or state.stand is _RUNNING:
            return
        self._signals.came(state, scores, why)
        if state.stand is _OPEN:
            self._waiting.enqueue(state, self._pool_for(state, why, now), now)
        elif scores is not None:
            self._waiting.rekey(state, now)

    def dispatch(self, now: float) -> tuple[Dispatch, ...]:
        """Requests to send now: as many as the workers' in-flight limits allow."""
        if self._fleet.blocked and self._fleet.unblock(now):
            self._rehome(now)
        if not self._backlog.count:
            return ()
        if self._limited.soonest <= now:
            self._stranded.expire(now)
        return self._dispatcher.send(now) if self._stir.any else ()

    def on_first_token(self, ticket: TicketId, now: float) -> None:
        """The worker began to answer."""
        state = self._served(ticket)
        if state is not None:
            self._running.first_token(state, now)

    def on_tokens(self, ticket: TicketId, total_output_tokens: int, now: float) -> None:
        """The answer has so many tokens by now, in all."""
        state = self._served(ticket)
        if state is not None:
            self._running.tokens(state, total_output_tokens, now)

    def on_remaining(self, ticket: TicketId, total_output_tokens: int, left: float, now: float) -> None:
        """Whoever reads the answer expected ``left`` more tokens when it had so many. Ignored where it has ended."""
        state = self._tickets.get(ticket)
        if state is not None and state.stand is _RUNNING:
            self._running.remains(state, total_output_tokens, left, now)

    def on_finish(self, ticket: TicketId, usage: Usage | None, now: float) -> None:
        """The answer is complete. ``usage`` is the worker's count, if it gave one."""
        state = self._served(ticket)
        if state is not None:
            self._unseen.learn(state, usage, now)
            self._running.finish(state, usage, now)
            self._end(state, Result.COMPLETED, None, usage, now)

    def on_abort(self, ticket: TicketId, now: float, code: str = "client_left") -> None:
        """The client left, or the driver gave the request up; ``code`` is for the record."""
        state = self._find(ticket)
        if state is None:
            return
        if state.stand is Stand.RUNNING:
            self._running.leave(state, now)
        else:
            self._waiting.discard(state, now)
        self._end(state, Result.ABORTED, code, None, now)

    def on_worker_error(
        self, ticket: TicketId, code: str, now: float, *, retryable: bool, continues: bool = False
    ) -> Requeued | Rejected | None:
        """The worker failed the request: try again elsewhere if nothing of the answer was seen, else give up.

        ``code`` :data:`BUSY` is a refusal, after which the worker is left alone for a moment; any other counts against
        it, but for :data:`LATE`. ``continues`` says that the driver can go on in the middle of the answer. ``None`` for
        a ticket that has ended already.
        """
        state = self._served(ticket)
        if state is None:
            return None
        worker, dispatched_at = worker_of(state), state.dispatched_at or now
        self._running.leave(state, now)
        if code != LATE:
            again = worker.name in state.avoid
            self._fleet.failed(worker, dispatched_at, now, busy=code == BUSY, again=again, silent=code in SILENT)
        if retryable and code != LATE and self._may_retry(state, now):
            requeued = self._requeue(state, worker, now)
            self._rehome(now)
            return requeued
        if continues and self._continuing.may(state, now):
            state.avoid |= {worker.name}
            requeued = self._continuing.requeue(state, now)
            self._rehome(now)
            return requeued
        self._rehome(now)
        return self._give_up(state, worker, code, now)

    def on_moved(self, move: Move, now: float) -> Requeued | None:
        """The driver has broken off a running request, as a :class:`Move` said: it goes on with the worker named there,
        or with another if that one has no room. ``None`` for a ticket that has ended already."""
        state = self._served(move.ticket)
        if state is None:
            return None
        self._running.leave(state, now)
        return self._continuing.requeue(state, now, move.worker)

    def tick(self, now: float) -> Tick:
        """What time alone brings about: time limits, workers that come back, replicas. Call it by ``next_at``."""
        self._fleet.forget_stale(now)
        if self._fleet.unblock(now):
            self._rehome(now)
        for state in self._waiting.overdue(now):
            self.on_scores(state.ticket.id, None, now, why="timeout")
        if self._limited.soonest <= now:
            self._stranded.expire(now)
        self._stranded.strand(now)
        self._unseen.count_down(now)
        rejected = self._stranded.tell() if self._stranded.given_up else ()
        return Tick(rejected, self._scale(now), self.rebalance(now), self._next_at())

    def rebalance(self, now: float) -> tuple[Move, ...]:
        """Running requests that should move to another worker, when it is time to plan; ``tick`` asks for them."""
        interval = self.stages.rebalance.interval_s
        if interval is None or now < self._next_rebalance:
            return ()
        self._next_rebalance = now + interval
        stage, view, running = self.stages.rebalance, self.view(now), self.running()
        moves = list(stage.plan(view, running, now))
        if self._backlog.count and isinstance(stage, MakesRoom):
            moves += stage.make_room(view, running, self._waiting.heads(), now)
        find, may = self._tickets.get, self._continuing.movable
        return tuple([move for move in moves if may(find(move.ticket), move.worker, now)])

    # What may be seen

    def view(self, now: float) -> FleetView:
        """The fleet at this moment."""
        return self._fleet.view(now, len(self._held))

    def models(self) -> Mapping[str, tuple[PoolName, ...]]:
        """Every model name that a client may ask for → the pools it stands for."""
        return self._intake.models()

    def queued(self) -> tuple[TicketView, ...]:
        """Tickets that wait, in order within each pool and tenant."""
        return tuple(state.view() for state in self._waiting)

    def running(self) -> tuple[TicketView, ...]:
        """Tickets that workers are serving."""
        return tuple(state.view() for state in self._tickets.values() if state.stand is Stand.RUNNING)

    def expectation(self, ticket: TicketId) -> tuple[float | None, int] | None:
        """Rank of the prompt by length, where it was scored, and the answer's tokens in all, as expected; ``None`` for
        a ticket that is not there."""
        state = self._tickets.get(ticket)
        if state is None:
            return None
        return None if state.scores is None else state.scores.length_rank, state.expected_output

    def tier_context(self, ticket: TicketId, scores: Scores | None, now: float) -> TierContext | None:
        """What the tier stage would be asked if these scores came now; ``None`` if the ticket's tier is not open."""
        state = self._find(ticket)
        if state is None or state.stand is not _OPEN or not state.is_open():
            return None
        return self._tiering.context(state, scores, None if scores else "no_scores", self.view(now), now)

    def counters(self) -> Mapping[tuple[str, str, str], int]:
        """(stage, implementation, ``scored`` | ``skipped`` | ``fallback``) → times. Predictors are stage ``score``."""
        return self._tally.outcomes()

    def fallbacks(self) -> Mapping[tuple[str, str, str], int]:
        """(stage, implementation, reason) → times it fell back."""
        return self._tally.reasons()

    def held_for_kv(self) -> int:
        """Times a request was kept waiting though a worker had a seat free, because its KV cache had no room."""
        return self._dispatcher.held_for_kv

    def drain_records(self) -> tuple[DecisionRecord, ...]:
        """The records of the tickets that ended since the last call."""
        return self.records.drain()

    # Deciding

    def _settle(self, state: TicketState, now: float) -> None:
        """Queue a ticket whose tier needs no scores; they are wanted only if they could change the order."""
        pool = self._pool_for(state, None, now)
        waits = pool.queued > 0 or not pool.has_room()
        self._waiting.enqueue(state, pool, now)
        self._signals.want(state, self._signals.waiting if waits and state.generates else NO_SIGNALS)

    def _awaits_scores(self, state: TicketState) -> bool:
        """Whether a ticket waits for its scores before it may be queued and sent."""
        if not state.generates:
            return False
        if self.settings.score_always:
            return bool(self._signals.needs)
        return self._asks and state.is_open()

    def _pool_for(self, state: TicketState, why: str | None, now: float) -> PoolState:
        if state.is_open():
            return self._tiering.choose(state, why, self.view(now), now)
        self._tiering.skip()
        return state.candidates[0]

    # Ending

    def _may_retry(self, state: TicketState, now: float) -> bool:
        seen = state.first_token_at is not None
        may = not seen and state.attempts < self.settings.max_attempts and now < state.expires_at
        return may and self.retries.take(now)

    def _requeue(self, state: TicketState, worker: WorkerState, now: float) -> Requeued:
        state.avoid |= {worker.name}
        state.worker = None
        self._waiting.enqueue(state, pool_of(state), now, keep_key=True)
        return Requeued(state.ticket.id, state.attempts + 1)

    def _give_up(self, state: TicketState, worker: WorkerState, code: str, now: float) -> Rejected:
        tried = f" after {state.attempts} attempts" if state.attempts > 1 else ""
        if code == BUSY:
            rejected = Rejected(state.ticket.id, 503, "worker_busy", f"every worker is busy{tried}", retry_after=1.0)
        elif code == LATE:
            rejected = Rejected(state.ticket.id, 504, LATE, f"the answer took longer than it may{tried}")
        else:
            message = f"worker {worker.name!r} failed{tried}: {code}"
            rejected = Rejected(state.ticket.id, 502, "worker_error", message)
        self._end(state, Result.FAILED, code, None, now)
        return rejected

    # Time

    def _scale(self, now: float) -> tuple[Scale, ...]:
        interval = self.stages.scale.interval_s
        if interval is None or now < self._next_scale:
            return ()
        self._next_scale = now + interval
        if not self.sharing.scales:
            return ()
        return tuple(self.stages.scale.plan(self.sharing.whole(self.view(now)), now))

    def _next_at(self) -> float | None:
        due: list[float] = []
        for at in (self._waiting.next_at(), self._fleet.next_unblock()):
            if at is not None:
                due.append(at)
        if (unseen := self._unseen.next_at()) < math.inf:
            due.append(unseen)
        if self.stages.scale.interval_s is not None:
            due.append(self._next_scale)
        if self.stages.rebalance.interval_s is not None:
            due.append(self._next_rebalance)
        for pool in self._fleet.pools.values():
            if pool.queued and pool.unavailable_since is not None and not self.stages.scale.starts(pool.name):
                due.append(pool.unavailable_since + self.settings.no_worker_s)
        return min(due) if due else None

    # Lookup

    def _find(self, ticket: TicketId) -> TicketState | None:
        state = self._tickets.get(ticket)
        if state is None and ticket not in self._ended:
            raise UnknownTicket(f"no ticket is called {ticket!r}")
        return state

    def _served(self, ticket: TicketId) -> TicketState | None:
        state = self._tickets.get(ticket)
        if state is None:
            state = self._find(ticket)
        elif state.stand is not _RUNNING:
            raise ControlError(f"ticket {ticket!r} is {state.stand}, not running")
        return state
