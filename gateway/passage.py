"""A stream on its way from a worker to the client: the sink that the worker's connection pours into.

It is called with each piece as it arrives, in the same turn of the event loop, and writes at once. Nothing is let out
before the first whole event, so that until then another worker may stand in.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.continuation import Continuation
from gateway.driver import Clock, Turn
from gateway.exchange import Exchange
from gateway.remaining import Listener
from gateway.stream import StreamMeter

__all__ = ["Passage", "WorkerFault"]

_TELL_EVERY = 16
"""Tokens between two reports of a stream's progress to the controller."""


class WorkerFault(Exception):
    """The worker answered, and what it said is a fault of its own. ``code`` is for records and metrics."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Passage:
    """One worker's stream. ``begin`` writes the head of the answer; raises WorkerFault for an error as first event.

    With a ``continuation``, also for an error, or an end without one, later on; what came before is written then.
    A ``listener`` hears of all events but the last.
    """

    __slots__ = (
        "_before",
        "_begin",
        "_continuation",
        "_exchange",
        "_heard_at",
        "_listener",
        "_meter",
        "_now",
        "_told",
        "_turn",
        "_waits",
        "longest_gap",
        "spent",
    )

    def __init__(
        self,
        exchange: Exchange,
        turn: Turn,
        meter: StreamMeter,
        begin: Callable[[], None],
        continuation: Continuation | None = None,
        now: Clock = time.monotonic,
        listener: Listener | None = None,
    ) -> None:
        self._listener = listener
        self._now = now
        self._heard_at = 0.0
        self.longest_gap = 0.0
        """Seconds between two pieces, from the first whole event on."""
        self.spent: float | None = None
        """Seconds from the first whole event's arrival until it was written."""
        self._exchange = exchange
        self._turn = turn
        self._meter = meter
        self._begin = begin
        self._continuation = continuation
        self._before = 0 if continuation is None else continuation.kept
        self._told = 0
        self._waits = True

    def __call__(self, chunk: bytes, last: bool) -> None:
        """A piece of the worker's stream."""
        heard_at = self._now()
        gap, self._heard_at = heard_at - self._heard_at, heard_at
        meter, continuation = self._meter, self._continuation
        events = meter.feed(chunk)
        broken = None if continuation is None else continuation.broken
        if not self._waits:
            if gap > self.longest_gap:
                self.longest_gap = gap
            if not last and broken is None:
                self._pass(events)
                return
        if last:
            events += meter.end()
            broken = None if continuation is None else continuation.broken
        self._begin_or_end(events, last, broken, heard_at)

    def _pass(self, events: bytes) -> None:
        """In the middle of a stream."""
        tokens = self._meter.tokens
        if tokens - self._told >= _TELL_EVERY:
            self._told = tokens
            self._turn.tokens(self._before + tokens)
        if self._listener is not None:
            self._listener.hear(events, self._before + tokens)
        if events:
            self._exchange.write(events)

    def _begin_or_end(self, events: bytes, last: bool, broken: str | None, heard_at: float) -> None:
        began = self._waits and bool(events or (last and broken is None))
        if began:
            self._waits = False
            if not self._exchange.started:
                self._check(events)
                self._turn.first_token()
                self._begin()
            else:
                self._turn.first_token()
        if broken is not None or (last and not self._whole()):
            if events:
                self._exchange.write(events)
            raise WorkerFault(broken or "incomplete")
        if last:
            self._exchange.end(events)
            self._finish()
        else:
            self._pass(events)
        if began:
            self.spent = self._now() - heard_at

    def _check(self, events: bytes) -> None:
        """Before the answer begins, what is none: another worker may stand in."""
        error = self._meter.error
        if error is not None and error >= 500:
            raise WorkerFault(f"status_{error}")
        if not events and self._meter.tokens == 0:
            raise WorkerFault("empty")

    def _whole(self) -> bool:
        return self._continuation is None or self._meter.error is not None or self._continuation.finished()

    def _finish(self) -> None:
        error = self._meter.error
        if error is None:
            self._turn.finish(self._meter.usage)
        elif error >= 500:
            self._turn.fail(f"status_{error}", retryable=False)
        else:
            self._turn.abort(f"status_{error}")
