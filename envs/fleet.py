"""A fleet of engines under the control plane, in simulated time.

The loop plays the gateway's part: it hands the control plane the same calls in the same order that real traffic would
bring, and takes its decisions to the engines. Nothing here chooses anything. Everything happens in order of time:
arrivals when the caller brings them, engine events, the control plane's own ticks, and the workers' reports, which are
read every ``report_interval`` and arrive ``report_delay`` later, as stale as a gateway would see them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from controller.pipeline import ControlPlane
from controller.protocols import TierContext
from controller.types import (
    Dispatch,
    PoolName,
    Rejected,
    Result,
    Scores,
    Ticket,
    TicketId,
    Usage,
    WorkerName,
    WorkerReport,
    WorkerSpec,
)
from controller.values import swift
from envs.engines.bank import EngineBank
from envs.engines.base import Engine, EngineEvent, EngineRequest, EventKind
from envs.engines.sim import SimEngine

__all__ = ["Ended", "Fleet", "FleetClock", "FleetRequest", "SimFleet"]

_FIRST_TOKEN, _TOKENS, _FINISHED, _COMPLETED = (
    EventKind.FIRST_TOKEN,
    EventKind.TOKENS,
    EventKind.FINISHED,
    Result.COMPLETED,
)
"""Bound once: a look at an enum class takes long."""


@swift
@dataclass(frozen=True, slots=True)
class FleetRequest:
    """One request and what only the world knows of it.

    ``output_tokens`` maps a pool to the true length of that pool's answer; it reaches engines and nothing else.
    ``scores`` is what the predictors say, computed beforehand in batch; ``None`` stands for a scorer that is absent.
    """

    at: float
    ticket: Ticket
    prompt_tokens: int
    output_tokens: Mapping[PoolName, int]
    scores: Scores | None = None
    index: int = 0
    """The request's place in its workload."""
    prompt: str | None = None
    """What is really asked, where live servers answer it."""
    prefix: tuple[int, ...] | None = None
    """Hashes of the prompt's blocks as the engine's cache knows them, and on into the answer where that is known; the
    ticket's where ``None``."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended. Times are absolute; ``pool`` and ``worker`` are those of the last attempt, if any."""

    request: FleetRequest
    at: float
    result: Result
    pool: PoolName | None = None
    worker: WorkerName | None = None
    first_token_at: float | None = None
    output_tokens: int = 0
    code: str | None = None
    text: str | None = None
    """The answer, where there is one to read."""

    @property
    def latency(self) -> float | None:
        """Seconds from arrival to the last token; ``None`` if there was no complete answer."""
        return self.at - self.request.at if self.result is _COMPLETED else None

    @property
    def in_time(self) -> bool:
        """A complete answer by the ticket's deadline (any complete answer, where it has none)."""
        deadline = self.request.ticket.deadline
        return self.result is _COMPLETED and (deadline is None or self.at <= deadline)


@dataclass(frozen=True, slots=True)
class FleetClock:
    """How often the fleet's driver looks at things, in seconds."""

    report_interval: float = 0.5
    report_delay: float = 0.05
    tick_interval: float = 0.25
    """The longest time between two ticks while requests are open."""


class Fleet(Protocol):
    """Engines under one control plane, simulated or live: what an environment drives.

    Times are seconds on the fleet's own clock, which starts at 0 unless told otherwise and is real time for a live one.
    """

    @property
    def now(self) -> float:
        """Where the clock stands."""
        ...

    @property
    def open(self) -> int:
        """Requests that have not ended."""
        ...

    def submit(self, request: FleetRequest) -> bool:
        """A request arrives now; true if it waits for its scores. One that is turned away has ended with that."""
        ...

    def tier_context(self, ticket: TicketId) -> TierContext | None:
        """What the tier stage would be asked of a request that waits for its scores; ``None`` if its tier is given."""
        ...

    def score(self, ticket: TicketId) -> None:
        """The request's scores are there: its tier is chosen, and what may start starts."""
        ...

    def abort(self, ticket: TicketId) -> None:
        """The client leaves now."""
        ...

    def advance(self, until: float) -> None:
        """Let everything happen that is due up to and including ``until``; a live fleet waits for that moment."""
        ...

    def drain(self, limit: float = math.inf) -> None:
        """Go on until nothing is open or the clock shows ``limit``."""
        ...

    def take_ended(self) -> list[Ended]:
        """What ended since the last call, in order of time."""
        ...

    def close(self) -> None:
        """Abort what is open and let go of engines; nothing may be called afterwards."""
        ...


@runtime_checkable
class Streams(Protocol):
    """An engine that reports its running requests' progress only while it is asked to.

    A client that streams hears of every token. Here it hears at each reading of the gauges, which costs a fraction of
    it and is as fresh as everything else that the control plane knows.
    """

    stream: bool


@dataclass(slots=True)
class _Open:
    request: FleetRequest
    pool: PoolName | None = None
    worker: WorkerName | None = None
    first_token_at: float | None = None


@dataclass(slots=True)
class _Worker:
    spec: WorkerSpec
    engine: Engine
    streams: Streams | None
    place: int | None = None
    """In the bank, if it is a simulated one."""
    next_at: float = math.inf
    """For others: when something may happen next."""

    def look(self) -> None:
        due = self.engine.next_event_at()
        self.next_at = math.inf if due is None else due


class SimFleet:
    """Drives ``control`` and engines from one event to the next; ``now`` is where it stands, in seconds."""

    def __init__(self, control: ControlPlane, clock: FleetClock | None = None, start: float = 0.0) -> None:
        self.control = control
        self.now = start
        self._clock = clock or FleetClock()
        self._workers: dict[WorkerName, _Worker] = {}
        self._arrange()
        self._open: dict[TicketId, _Open] = {}
        self._ended: list[Ended] = []
        self._tick_at = math.inf
        self._read_at = start
        self._reports: deque[tuple[float, WorkerName, WorkerReport]] = deque()
        """On their way, in the order in which they were read and will arrive."""

    @property
    def open(self) -> int:
        """Requests that have not ended."""
        return len(self._open)

    def add_worker(self, spec: WorkerSpec, engine: Engine) -> None:
        """Let a ready engine join under its specification."""
        streams = engine if isinstance(engine, Streams) else None
        self._workers[spec.name] = _Worker(spec, engine, streams)
        self._arrange()
        self.control.add_worker(spec, self.now)

    def _arrange(self) -> None:
        """Put the simulated engines side by side."""
        banked = [worker for worker in self._workers.values() if isinstance(worker.engine, SimEngine)]
        self._banked = banked
        self._bank = EngineBank([worker.engine for worker in banked if isinstance(worker.engine, SimEngine)])
        for place, worker in enumerate(banked):
            worker.place = place
        self._others = [worker for worker in self._workers.values() if not isinstance(worker.engine, SimEngine)]

    def submit(self, request: FleetRequest) -> bool:
        """A request arrives now; true if it waits for its scores. One that is turned away has ended with that.

        Raises:
            ValueError: it does not arrive now, or its id is still open.
        """
        if request.at != self.now:
            raise ValueError(f"request {request.ticket.id!r} arrives at {request.at}, but the clock shows {self.now}")
        if request.ticket.id in self._open:
            raise ValueError(f"request {request.ticket.id!r} is still open")
        self._open[request.ticket.id] = _Open(request)
        answer = self.control.submit(request.ticket, self.now)
        if isinstance(answer, Rejected):
            self._reject(answer)
            return False
        tick_at = self.now + self._clock.tick_interval
        if tick_at < self._tick_at:
            self._tick_at = tick_at
        if not answer.wants_scores:
            self._dispatch()
        return answer.wants_scores

    def score(self, ticket: TicketId) -> None:
        """The request's scores are there: its tier is chosen, and what may start starts."""
        state = self._open.get(ticket)
        if state is not None:
            self.control.on_scores(ticket, state.request.scores, self.now)
            self._dispatch()

    def tier_context(self, ticket: TicketId) -> TierContext | None:
        """See :meth:`Fleet.tier_context`."""
        state = self._open.get(ticket)
        return None if state is None else self.control.tier_context(ticket, state.request.scores, self.now)

    def close(self) -> None:
        """Abort what is open."""
        for ticket in list(self._open):
            self.abort(ticket)

    def abort(self, ticket: TicketId) -> None:
        """The client leaves now."""
        state = self._open.get(ticket)
        worker = None if state is None or state.worker is None else self._workers[state.worker]
        if worker is not None:
            self._run(worker)  # which may bring the end
        if ticket not in self._open:
            return
        self.control.on_abort(ticket, self.now)
        if worker is not None:
            worker.engine.cancel(ticket)
            self._touch(worker)
        self._end(ticket, self.now, Result.ABORTED)
        self._dispatch()

    def advance(self, until: float) -> None:
        """Let everything happen that is due up to and including ``until``."""
        while self._go_on(until):
            pass
        if until > self.now:
            self.now = until

    def drain(self, limit: float = math.inf) -> None:
        """Go on until nothing is open or the clock shows ``limit``."""
        while self._open and self._go_on(limit):
            pass

    def replay(self, requests: Sequence[FleetRequest]) -> list[Ended]:
        """Run requests, in order of arrival, to their ends; each is scored as it arrives."""
        for request in requests:
            self.advance(request.at)
            if self.submit(request):
                self.score(request.ticket.id)
        self.drain()
        return self.take_ended()

    def take_ended(self) -> list[Ended]:
        """What ended since the last call, in order of time."""
        ended, self._ended = self._ended, []
        return ended

    def _go_on(self, limit: float) -> bool:
        """What happens next, if it does by ``limit``."""
        due = self._due_at()
        found = self._bank.advance(due if due < limit else limit)
        if found is None:
            if due > limit:
                return False
            self._step(due, ())
            return True
        at, events = found
        if at < self.now:
            at = self.now
        if at < due:
            self.now = at
            self._tell(events)
            for dispatch in self.control.dispatch(at):
                self._start(dispatch)
        else:
            self._step(at, events)
        return True

    def _due_at(self) -> float:
        """When something is due that is not a simulated engine's."""
        due = self._tick_at
        if self._read_at < due and self._open:
            due = self._read_at
        if self._reports and self._reports[0][0] < due:
            due = self._reports[0][0]
        for worker in self._others:
            if worker.next_at < due:
                due = worker.next_at
        return due if due > self.now else self.now

    def _step(self, at: float, events: Iterable[EngineEvent]) -> None:
        """Everything that is due at ``at``: reports first, then engines in order of joining, then time itself."""
        self.now = at
        while self._reports and self._reports[0][0] <= at:
            _, name, report = self._reports.popleft()
            self.control.on_worker_report(name, report, at)
        self._tell(events)
        for worker in self._others:
            if worker.next_at <= at:
                self._run(worker)
        if self._open and self._read_at <= at:
            self._read()
        if self._tick_at <= at:
            self._tick()
        self._dispatch()

    def _run(self, worker: _Worker) -> None:
        self._tell(worker.engine.advance(self.now))
        self._touch(worker)

    def _touch(self, worker: _Worker) -> None:
        """Something was done to a worker's engine."""
        if worker.place is None:
            worker.look()
        else:
            self._bank.touch(worker.place)

    def _tell(self, events: Iterable[EngineEvent]) -> None:
        for event in events:
            ticket, kind = event.id, event.kind
            state = self._open.get(ticket)
            if state is None:
                continue
            if kind is _FIRST_TOKEN:
                state.first_token_at = event.at
                self.control.on_first_token(ticket, self.now)
            elif kind is _TOKENS:
                self.control.on_tokens(ticket, event.output_tokens, self.now)
            elif kind is _FINISHED:
                self.control.on_finish(
                    ticket, Usage(state.request.prompt_tokens, event.output_tokens, event.cached_tokens), self.now
                )
                self._end(ticket, event.at, _COMPLETED, event.output_tokens)
            else:
                self._on_failure(event, retryable=kind is EventKind.ABORTED)

    def _on_failure(self, event: EngineEvent, *, retryable: bool) -> None:
        answer = self.control.on_worker_error(event.id, event.kind.value, self.now, retryable=retryable)
        if isinstance(answer, Rejected):
            self._end(event.id, event.at, Result.FAILED, event.output_tokens, answer.code)
        else:
            state = self._open[event.id]
            state.worker, state.first_token_at = None, None

    def _read(self) -> None:
        """Read every worker's gauges, and set them on their way; hear how far the answers have come meanwhile."""
        for name, worker in self._workers.items():
            if worker.streams is not None:
                worker.streams.stream = True
            self._run(worker)
            if worker.streams is not None:
                worker.streams.stream = False
            state = worker.engine.state()
            report = WorkerReport(self.now, state.running, state.waiting, state.kv_usage)
            self._reports.append((self.now + self._clock.report_delay, name, report))
        self._read_at = self.now + self._clock.report_interval

    def _tick(self) -> None:
        tick = self.control.tick(self.now)
        for rejected in tick.rejected:
            self._reject(rejected)
        due = self.now + self._clock.tick_interval if self._open else math.inf
        soonest = math.nextafter(self.now, math.inf)
        self._tick_at = due if tick.next_at is None else max(soonest, min(due, tick.next_at))

    def _dispatch(self) -> None:
        for dispatch in self.control.dispatch(self.now):
            self._start(dispatch)

    def _start(self, dispatch: Dispatch) -> None:
        state = self._open[dispatch.ticket]
        state.pool, state.worker = dispatch.pool, dispatch.worker
        request, worker = state.request, self._workers[dispatch.worker]
        worker.engine.submit(
            EngineRequest(
                dispatch.ticket,
                request.prompt_tokens,
                request.output_tokens[dispatch.pool],
                dispatch.priority or 0,
                self.now,
                request.ticket.prefix if request.prefix is None else request.prefix,
            )
        )
        self._touch(worker)

    def _reject(self, rejected: Rejected) -> None:
        self._end(rejected.ticket, self.now, Result.REJECTED, code=rejected.code)

    def _end(
        self, ticket: TicketId, at: float, result: Result, output_tokens: int = 0, code: str | None = None
    ) -> None:
        state = self._open.pop(ticket)
        self._ended.append(
            Ended(state.request, at, result, state.pool, state.worker, state.first_token_at, output_tokens, code)
        )
