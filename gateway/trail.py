"""What is noted of a request while it is served, for the access log and for traces; nothing is, where both are off.

    relay ── open → submitted → dispatched → failed … → close ──┐
    driver ── its record, a moment later ───────────────────────┴─▶ the sinks, once both are there

Sinks are called off the request's path, with the driver's batches of records. A request that was turned away before the
controller knew of it has no record. Times are seconds on the driver's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from controller.types import DecisionRecord, Dispatch
from gateway.driver import Turn
from gateway.endpoints import Endpoint
from gateway.exchange import Exchange
from gateway.trace_context import TraceParent, handed_on
from upstream.types import Header

__all__ = ["Attempt", "Brancher", "Sink", "Trail", "Trails"]

_MOST_WAITING = 65_536
"""Ended requests whose record has not come; one more, and the oldest is told without (its record was lost)."""


class Brancher(Protocol):
    """Gives requests and attempts their places in traces."""

    def begin(self, parent: TraceParent | None) -> TraceParent:
        """The span of a request."""

    def branch(self, of: TraceParent) -> TraceParent:
        """A span below that one."""


class Attempt:
    """One worker's turn."""

    __slots__ = ("at", "code", "dispatch", "ended_at", "queued_at", "span")

    def __init__(self, dispatch: Dispatch, queued_at: float, at: float, span: TraceParent | None) -> None:
        self.dispatch = dispatch
        self.queued_at = queued_at
        self.at = at
        self.span = span
        self.ended_at: float | None = None
        self.code: str | None = None


class Trail:
    """One request's."""

    __slots__ = (
        "_exchange",
        "_trails",
        "attempts",
        "began",
        "closed",
        "code",
        "ended",
        "endpoint",
        "parent",
        "received",
        "record",
        "request_id",
        "span",
        "tenant",
        "ticket",
        "turn",
    )

    def __init__(self, trails: Trails, exchange: Exchange, ticket: str, request_id: bytes, began: float) -> None:
        self._trails = trails
        self._exchange = exchange
        self.ticket = ticket
        self.request_id = request_id
        self.began = self.ended = began
        self.tenant: str | None = None
        self.endpoint: Endpoint | None = None
        self.turn: Turn | None = None
        self.code: str | None = None
        """Why it was turned away before it was submitted."""
        self.received = 0
        """Bytes of its body."""
        self.attempts: list[Attempt] = []
        self.record: DecisionRecord | None = None
        self.closed = False
        self.parent = TraceParent.parse(exchange.fields.get(b"traceparent"))
        """Where the client stands in a trace."""
        brancher = trails.brancher
        self.span = None if brancher is None else brancher.begin(self.parent)

    @property
    def method(self) -> str:
        """The request's."""
        return self._exchange.method

    @property
    def path(self) -> str:
        """Without the query."""
        return self._exchange.path

    @property
    def status(self) -> int | None:
        """Of the answer; ``None`` if the client left before there was one."""
        return self._exchange.status or None

    @property
    def sent(self) -> int:
        """Bytes of the answer's body."""
        return self._exchange.sent

    @property
    def trace_id(self) -> str | None:
        """Of the trace that it belongs to."""
        place = self.span or self.parent
        return None if place is None else f"{place.trace_id:032x}"

    @property
    def failure(self) -> str | None:
        """Why it was not served to its end."""
        return self.code if self.record is None else self.record.code

    # What the relay tells

    def submitted(self, endpoint: Endpoint, tenant: str, received: int) -> None:
        """The controller is told of it next, so there will be a record."""
        self.endpoint, self.tenant, self.received = endpoint, tenant, received
        self._trails.submitted(self)

    def dispatched(self, dispatch: Dispatch) -> None:
        """A worker was chosen."""
        trails, span = self._trails, self.span
        before = self.attempts[-1].ended_at if self.attempts else None
        own = None if span is None or trails.brancher is None else trails.brancher.branch(span)
        self.attempts.append(Attempt(dispatch, self.began if before is None else before, trails.now(), own))

    def failed(self, code: str) -> None:
        """That worker failed."""
        self.attempts[-1].code = code
        self.attempts[-1].ended_at = self._trails.now()

    def headers(self, headers: list[Header]) -> list[Header]:
        """What the present attempt's worker is sent."""
        span = self.attempts[-1].span
        return headers if span is None else handed_on(headers, span, keep_state=self.parent is not None)

    def close(self) -> None:
        """The answer has been given, or nobody waits for one."""
        self.ended = self._trails.now()
        self.closed = True
        self._trails.closed(self)


class Sink(Protocol):
    """Hears of requests that have ended."""

    def take(self, trail: Trail) -> None:
        """It must not wait."""


class Trails:
    """The trails of one gateway. ``brancher`` is there if traces are made."""

    def __init__(self, sinks: Sequence[Sink], now: Callable[[], float], brancher: Brancher | None = None) -> None:
        self._sinks = tuple(sinks)
        self._submitted: dict[str, Trail] = {}
        self._waiting: dict[str, Trail] = {}
        self.now = now
        self.brancher = brancher

    def open(self, exchange: Exchange, ticket: str, request_id: bytes) -> Trail:
        """A request has begun to arrive."""
        return Trail(self, exchange, ticket, request_id, self.now())

    def submitted(self, trail: Trail) -> None:
        """There will be a record of it."""
        self._submitted[trail.ticket] = trail

    def recorded(self, record: DecisionRecord) -> None:
        """The driver's record of a request."""
        trail = self._submitted.pop(record.ticket, None)
        if trail is not None:
            trail.record = record
            if self._waiting.pop(record.ticket, None) is not None:
                self._tell(trail)

    def closed(self, trail: Trail) -> None:
        """For the trail: it is complete but for the record."""
        if trail.ticket not in self._submitted:
            self._tell(trail)
            return
        self._waiting[trail.ticket] = trail
        if len(self._waiting) > _MOST_WAITING:
            self._give_up(next(iter(self._waiting)))

    def close(self) -> None:
        """Tell of those whose record will not come."""
        for ticket in tuple(self._waiting):
            self._give_up(ticket)

    def _give_up(self, ticket: str) -> None:
        self._submitted.pop(ticket, None)
        self._tell(self._waiting.pop(ticket))

    def _tell(self, trail: Trail) -> None:
        for sink in self._sinks:
            sink.take(trail)
