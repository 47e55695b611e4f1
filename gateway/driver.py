"""The control plane in real time: events in, decisions out to whoever waits for them.

Everything here runs in one event loop and decides nothing: it tells the :class:`~controller.pipeline.ControlPlane` what
happened and when, and hands its decisions to the requests, the reconciler and the record writer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from controller.pipeline import ControlPlane
from controller.types import (
    DecisionRecord,
    Dispatch,
    Move,
    Rejected,
    Requeued,
    Scale,
    Scores,
    Ticket,
    TicketId,
    Usage,
    WorkerName,
    WorkerPhase,
    WorkerReport,
    WorkerSpec,
)
from controller.view import FleetView
from gateway.errors import ApiError, from_rejected
from gateway.scoring import Budget, Scorer, ScoringDesk
from predictors.types import Prompt

__all__ = ["Clock", "Driver", "Observer", "Turn"]

Clock = Callable[[], float]
_TICK_S = 0.02
"""While somebody waits, time-driven work is done at least so often."""
_DRAIN_S = 0.1
"""Records of ended requests are collected so long before they are handed on."""
_AT_ONCE, _BETWEEN_S = 8, 0.001
"""So many at once, or that part of them, and so long between: what comes meanwhile does not wait for all."""


GONE = ApiError(503, "shutting_down", "the gateway is shutting down", retry_after=1.0)


class Observer(Protocol):
    """Hears what the driver does. All of it is called in the event loop, and must not wait."""

    def decided(self, step: str, seconds: float) -> None:
        """A call into the control plane (``submit``, ``dispatch``) or a batch of scores (``score``) took so long."""

    def recorded(self, record: DecisionRecord, prompt: Prompt | None) -> None:
        """A request ended. The prompt is there only if the driver was told to keep prompts."""

    def scale(self, decisions: Iterable[Scale]) -> None:
        """Pools should have so many replicas."""

    def suspect(self, worker: WorkerName, code: str) -> None:
        """A request failed there."""

    def joined(self, spec: WorkerSpec) -> None:
        """A worker has joined the fleet."""

    def left(self, worker: WorkerName) -> None:
        """A worker has left the fleet."""


class Turn:
    """One request in the controller's hands. Exactly one of ``finish``, ``abort`` and a final ``fail`` ends it."""

    __slots__ = ("_break_off", "_driver", "_future", "_refusal", "dispatch", "move", "over", "scored_at", "ticket")

    def __init__(self, driver: Driver, ticket: Ticket) -> None:
        self._driver = driver
        self.ticket = ticket
        self.dispatch: Dispatch | None = None
        self.over = False
        self.scored_at: float | None = None
        """When its scores came, or did not come."""
        self.move: Move | None = None
        """Where the request is to go on, while it is being broken off for that."""
        self._break_off: Callable[[], bool] | None = None
        self._refusal: ApiError | None = None
        self._future: asyncio.Future[Dispatch] | None = None
        """Only while somebody waits."""

    async def dispatched(self) -> Dispatch:
        """Wait for a worker. Raises ApiError if the controller gives the request up."""
        if self.dispatch is not None:
            return self.dispatch
        if self._refusal is not None:
            raise self._refusal
        self._future = asyncio.get_running_loop().create_future()
        try:
            return await self._future
        finally:
            self._future = None

    def first_token(self) -> None:
        """The worker has begun to answer; from now on the request stays where it is."""
        driver = self._driver
        driver.plane.on_first_token(self.ticket.id, driver.now())

    def tokens(self, total: int) -> None:
        """So many output tokens have come in all."""
        driver = self._driver
        driver.plane.on_tokens(self.ticket.id, total, driver.now())

    def expectation(self) -> tuple[float | None, int] | None:
        """Rank of its prompt by length, where it is known, and its answer's tokens, as expected."""
        return self._driver.plane.expectation(self.ticket.id)

    def finish(self, usage: Usage | None) -> None:
        """The worker's answer is complete."""
        driver = self._driver
        driver.plane.on_finish(self.ticket.id, usage, driver.now())
        driver.ended(self)

    def fail(self, code: str, *, retryable: bool, continues: bool = False) -> ApiError | None:
        """The worker failed. ``None``: wait for another one with :meth:`dispatched`; else this is what to answer.

        ``continues``: the rest of an answer that has begun could be had of another one."""
        return self._driver.failed(self, code, retryable, continues)

    def on_move(self, break_off: Callable[[], bool] | None) -> None:
        """From now on a move is asked for by this, which says whether the worker's answer was broken off for it."""
        self._break_off = break_off

    def ask_to_move(self, move: Move) -> None:
        """For the driver: the controller wants the request elsewhere."""
        if self._break_off is not None and self.move is None:
            self.move = move
            if not self._break_off():
                self.move = None

    def moved(self) -> ApiError | None:
        """The answer was broken off for a move: as :meth:`fail`, but nobody is at fault."""
        return self._driver.moved(self)

    def abort(self, code: str = "client_left") -> None:
        """Nobody waits any more, or nobody can be answered. Does nothing to a request that is over."""
        if not self.over:
            driver = self._driver
            driver.plane.on_abort(self.ticket.id, driver.now(), code)
            driver.ended(self)

    def resolve(self, dispatch: Dispatch) -> None:
        """For the driver: a worker was chosen."""
        self.dispatch = dispatch
        if self._future is not None and not self._future.done():
            self._future.set_result(dispatch)

    def refuse(self, error: ApiError) -> None:
        """For the driver: the controller gave the request up."""
        if self.dispatch is None:
            self._refusal = error
        if self._future is not None and not self._future.done():
            self._future.set_exception(error)

    def wait_again(self) -> None:
        """For the driver: the controller queued the request again."""
        self.dispatch = None


class Driver:
    """Owns a control plane. ``keep_prompts`` holds each prompt until its record is handed on."""

    def __init__(
        self,
        plane: ControlPlane,
        observer: Observer,
        *,
        clock: Clock,
        scorer: Scorer | None = None,
        budget: Budget | None = None,
        keep_prompts: bool = False,
    ) -> None:
        self.plane = plane
        self.now = clock
        self._observer = observer
        self._keep_prompts = keep_prompts
        self._turns: dict[TicketId, Turn] = {}
        self._waiting: set[TicketId] = set()
        self._prompts: dict[TicketId, Prompt] = {}
        self._desk = self._desk_for(scorer, budget or Budget())
        self._pumping = False
        self._tick_at = float("inf")
        self._ticker: asyncio.TimerHandle | None = None
        self._drainer: asyncio.TimerHandle | None = None
        self._handing: asyncio.TimerHandle | None = None
        self._ended: deque[DecisionRecord] = deque()
        """Records that are being handed on."""
        self._closed = False

    @property
    def running(self) -> int:
        """Requests in the controller's hands."""
        return len(self._turns)

    def start(self) -> None:
        """Begin to keep time; call it in the event loop."""
        self._tick()

    async def close(self) -> None:
        """Give up what is under way and hand on the last records."""
        self._closed = True
        for turn in tuple(self._turns.values()):
            turn.refuse(GONE)
            turn.abort("shutting_down")
        for timer in (self._ticker, self._drainer, self._handing):
            if timer is not None:
                timer.cancel()
        if self._desk is not None:
            self._desk.close()
        self._drain()

    def submit(self, ticket: Ticket, prompt: Prompt) -> Turn:
        """Hand a request to the controller. Raises ApiError if it does not take it."""
        self._pump_if_due()  # a seat that was just given up must not look like a full queue
        started = self.now()
        answer = self.plane.submit(ticket, started)
        self._observer.decided("submit", self.now() - started)
        if isinstance(answer, Rejected):
            self._drain_soon()
            raise from_rejected(answer)
        turn = self._turns[ticket.id] = Turn(self, ticket)
        self._waiting.add(ticket.id)
        if self._keep_prompts:
            self._prompts[ticket.id] = prompt
        if answer.wants_scores:
            self._pumping = True  # scores that come at once need no pump of their own
            self._score(ticket.id, prompt)
        self._pump()
        return turn

    def add_worker(self, spec: WorkerSpec, now: float, phase: WorkerPhase = WorkerPhase.READY) -> None:
        """A worker joins; this and the next five as the control plane's methods of those names."""
        self.plane.add_worker(spec, now, phase)
        self._observer.joined(spec)
        self.pump_soon()

    def remove_worker(self, name: WorkerName, now: float) -> None:
        """A worker leaves."""
        self.plane.remove_worker(name, now)
        self._observer.left(name)
        self.pump_soon()

    def set_phase(self, name: WorkerName, phase: WorkerPhase, now: float) -> None:
        """A worker stands elsewhere in its life."""
        self.plane.set_phase(name, phase, now)
        self.pump_soon()

    def resize_worker(self, name: WorkerName, max_inflight: int, priority_scheduling: bool, now: float) -> None:
        """A worker may have another number of requests."""
        self.plane.resize_worker(name, max_inflight, priority_scheduling, now)
        self.pump_soon()

    def on_worker_report(self, name: WorkerName, report: WorkerReport, now: float) -> None:
        """A worker's own reading."""
        self.plane.on_worker_report(name, report, now)

    def view(self, now: float) -> FleetView:
        """The fleet as it stands."""
        return self.plane.view(now)

    def failed(self, turn: Turn, code: str, retryable: bool, continues: bool = False) -> ApiError | None:
        """See :meth:`Turn.fail`."""
        if turn.dispatch is not None:
            self._observer.suspect(turn.dispatch.worker, code)
        ticket, now = turn.ticket.id, self.now()
        return self._judged(
            turn, self.plane.on_worker_error(ticket, code, now, retryable=retryable, continues=continues)
        )

    def moved(self, turn: Turn) -> ApiError | None:
        """See :meth:`Turn.moved`."""
        move, turn.move = turn.move, None
        return self._judged(turn, None if move is None else self.plane.on_moved(move, self.now()))

    def _judged(self, turn: Turn, verdict: Requeued | Rejected | None) -> ApiError | None:
        if isinstance(verdict, Requeued):
            turn.wait_again()
            self._waiting.add(turn.ticket.id)
            self.pump_soon()
            return None
        self.ended(turn)
        return GONE if verdict is None else from_rejected(verdict)

    def ended(self, turn: Turn) -> None:
        """The request has left the control plane."""
        turn.over = True
        self._turns.pop(turn.ticket.id, None)
        self._waiting.discard(turn.ticket.id)
        self._drain_soon()
        if self._waiting:
            self.pump_soon()

    def pump_soon(self) -> None:
        """Something has changed: let the controller dispatch, once for all that happens in this turn of the loop."""
        if not self._pumping and not self._closed:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump_if_due)

    def _pump_if_due(self) -> None:
        if self._pumping:
            self._pump()

    def _pump(self) -> None:
        self._pumping = False
        started = self.now()
        for dispatch in self.plane.dispatch(started):
            turn = self._turns.get(dispatch.ticket)
            if turn is not None:
                self._waiting.discard(dispatch.ticket)
                turn.resolve(dispatch)
        self._observer.decided("dispatch", self.now() - started)
        if self._waiting:
            self._tick_by(started + _TICK_S)

    def _tick(self) -> None:
        self._tick_at, self._ticker = float("inf"), None
        if self._closed:
            return
        tick = self.plane.tick(self.now())
        for rejected in tick.rejected:
            turn = self._turns.get(rejected.ticket)
            if turn is not None:
                turn.refuse(from_rejected(rejected))
                self.ended(turn)
        for move in tick.moves:
            turn = self._turns.get(move.ticket)
            if turn is not None:
                turn.ask_to_move(move)
        if tick.scale:
            self._observer.scale(tick.scale)
        if tick.next_at is not None:
            self._tick_by(tick.next_at)
        self.pump_soon()

    def _tick_by(self, at: float) -> None:
        if at >= self._tick_at or self._closed:
            return
        if self._ticker is not None:
            self._ticker.cancel()
        self._tick_at = at
        wait = max(at - self.now(), 0.001)
        self._ticker = asyncio.get_running_loop().call_later(wait, self._tick)

    def _score(self, ticket: TicketId, prompt: Prompt) -> None:
        if self._desk is None:
            self.plane.on_scores(ticket, None, self.now(), why="no_artifact")
        else:
            self._desk.take(ticket, prompt)

    def _scored(self, ticket: TicketId, scores: Scores | None, why: str) -> None:
        turn = self._turns.get(ticket)
        if turn is not None:
            now = turn.scored_at = self.now()
            self.plane.on_scores(ticket, scores, now, why)
            self.pump_soon()

    def _desk_for(self, scorer: Scorer | None, budget: Budget) -> ScoringDesk | None:
        if scorer is None:
            return None
        return ScoringDesk(
            scorer,
            budget,
            clock=self.now,
            on_scores=self._scored,
            on_batch=lambda prompts, seconds: self._observer.decided("score", seconds),
            wanted=self._waiting.__contains__,
        )

    def _drain_soon(self) -> None:
        if self._drainer is None and not self._closed:
            self._drainer = asyncio.get_running_loop().call_later(_DRAIN_S, self._drain)

    def _drain(self) -> None:
        self._drainer = None
        self._ended.extend(self.plane.drain_records())
        if self._closed:
            self._hand_on(len(self._ended))
        elif self._handing is None:
            self._hand_some_on()

    def _hand_some_on(self) -> None:
        ended = len(self._ended)
        self._hand_on(min(ended, max(_AT_ONCE, ended // _AT_ONCE)))
        loop = asyncio.get_running_loop()
        self._handing = loop.call_later(_BETWEEN_S, self._hand_some_on) if self._ended else None

    def _hand_on(self, count: int) -> None:
        for _ in range(count):
            record = self._ended.popleft()
            self._observer.recorded(record, self._prompts.pop(record.ticket, None))
