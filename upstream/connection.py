"""One keep-alive HTTP/1.1 connection: the raw protocol under :mod:`upstream.client`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from upstream.errors import ConnectionLost, FirstByteTimeout, IdleTimeout, ProtocolError, TotalTimeout, UpstreamError
from upstream.types import Header, Origin, Timeouts

__all__ = ["Connection", "Sink"]

Sink = Callable[[bytes, bool], None]
"""Takes a piece of a body, and whether it is the last; the last may be empty."""

_HIGH_WATER = 1 << 18
"""Bytes of body that may wait for a slow reader before the worker is made to wait."""
_HEAD_LIMIT = 1 << 18
"""Bytes a response's head may have."""
_NEVER = float("inf")


class Connection(asyncio.Protocol):
    """One exchange at a time: :meth:`start`, :meth:`write`, :meth:`wait_for_head`, then :meth:`take` and
    :meth:`wait_for_body` until :attr:`drained`. ``on_close`` hears once that the socket is gone.

    Timeouts cost nothing per piece of body: one timer is kept, and it looks at the deadline only when it fires.
    """

    def __init__(self, origin: Origin, loop: asyncio.AbstractEventLoop, on_close: Callable[[Connection], None]) -> None:
        self.origin = origin
        self.status = 0
        self.headers: list[Header] = []
        self.complete = False
        self.heard = False
        """Whether any byte of the present exchange's answer has arrived."""
        self.resting_since = _NEVER
        self._loop = loop
        self._on_close = on_close
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._active = False
        self._head_done = False
        self._head_size = 0
        self._framed = False
        self._keep_alive = False
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._body_begun = False
        self._paused = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._broken: Exception | None = None
        self._held = False
        self._timeouts = Timeouts()
        self._idle = self._timeouts.idle
        self._ends_at = _NEVER
        self._deadline = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = _NEVER
        """When the timer does."""

    # What the client calls.

    @property
    def usable(self) -> bool:
        """Whether a new exchange may start on it."""
        return self._transport is not None and not self._transport.is_closing() and self._error is None

    @property
    def reusable(self) -> bool:
        """Whether the exchange is over and the connection may be kept."""
        return self.complete and self.usable and not self._chunks and self._keep_alive

    @property
    def drained(self) -> bool:
        """Whether the whole body has arrived and been taken."""
        return self.complete and not self._chunks

    def start(self, timeouts: Timeouts) -> None:
        """Begin an exchange."""
        self.status = 0
        self.headers = []
        self.complete = self.heard = self._head_done = self._framed = self._keep_alive = self._body_begun = False
        self._head_size = 0
        self._active = True
        self._timeouts = timeouts
        self._idle = timeouts.idle
        self._ends_at = _NEVER if timeouts.total == _NEVER else self._loop.time() + timeouts.total

    def write(self, data: bytes) -> None:
        """Send; what the socket does not take at once is buffered. Raises ConnectionLost if it is closed."""
        if self._transport is None or self._error is not None:
            raise self._error or ConnectionLost(f"{self.origin} closed the connection")
        self._transport.write(data)

    async def wait_for_head(self) -> None:
        """Until status and headers are there."""
        while not self._head_done:
            await self._wait(self._timeouts.first_byte)

    async def wait_for_body(self) -> None:
        """Until there is something to take, or the body is complete."""
        if not self._chunks and not self.complete:
            await self._wait(self._timeouts.idle if self._body_begun else self._timeouts.first_byte)

    def take(self) -> bytes:
        """The bytes of body that wait, at once."""
        if not self._chunks:
            return b""
        chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._paused:
            self._paused = False
            if self.usable and not self._held:
                cast("asyncio.Transport", self._transport).resume_reading()
        return chunk

    async def pump(self, sink: Sink) -> None:
        """Hand the body to ``sink(data, last)``: what waits at once, the rest as it arrives; ends after the last piece.

        What the sink raises breaks the exchange off and is raised here.
        """
        self._sink = sink
        try:
            self._hand_on()
            while self._broken is None and not self.complete:
                patience = self._timeouts.idle if self._body_begun else self._timeouts.first_byte
                await self._wait(_NEVER if self._held else patience)
            if self._broken is not None:
                raise self._broken
        finally:
            self._sink = self._broken = None

    def pause(self) -> None:
        """Make the worker wait: the reader of its answer does not keep up. Its silence is not its own until then."""
        if not self._held and not self.complete and self.usable:
            self._held = True
            self._deadline = self._ends_at
            if not self._paused:
                cast("asyncio.Transport", self._transport).pause_reading()

    def resume(self) -> None:
        """Let it go on."""
        if self._held:
            self._held = False
            self._set_deadline(min(self._loop.time() + self._timeouts.idle, self._ends_at))
            if not self._paused and self.usable:
                cast("asyncio.Transport", self._transport).resume_reading()

    def rest(self) -> None:
        """The exchange is over; wait for the next one."""
        self.resume()
        self._active = False
        self._deadline = _NEVER
        self.resting_since = self._loop.time()

    def abort(self) -> None:
        """Close the socket now, whatever is under way; who still waits gets ConnectionLost."""
        self._stop_timer()
        if self._active and not self.complete:
            self._fail(ConnectionLost(f"the exchange with {self.origin} was broken off"))
        self._active = False
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._active or self.complete:
            self._fail(ProtocolError(f"{self.origin} sent {len(data)} bytes that nobody asked for"))
            return
        self.heard = True
        if not self._head_done:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(ProtocolError(f"{self.origin} wants to change the protocol"))
        except httptools.HttpParserError as error:
            self._fail(ProtocolError(f"{self.origin} does not speak HTTP/1.1: {error}"))
        if not self._head_done and self._head_size > _HEAD_LIMIT:
            self._fail(ProtocolError(f"{self.origin} sent more than {_HEAD_LIMIT} bytes of headers"))
        if self._sink is not None:
            self._hand_on()
            return
        if self._buffered > _HIGH_WATER and not self._paused and self.usable:
            self._paused = True
            cast("asyncio.Transport", self._transport).pause_reading()
        if self._head_done or self.complete:
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        if self._active and not self.complete:
            if self._head_done and not self._framed and error is None:
                self.complete = True  # a body without a length ends where the connection ends
                if self._sink is not None:
                    self._hand_on()
                self._wake()
            else:
                self._fail(ConnectionLost(f"{self.origin} {_how(error)} before its answer was complete"))
        self._transport = None
        self._stop_timer()
        self._on_close(self)

    # httptools' callbacks.

    def on_message_begin(self) -> None:
        if self.complete:
            self._fail(ProtocolError(f"{self.origin} sent a second answer to one request"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.complete:
            return
        name = name.lower()
        self.headers.append((name, value))
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self.headers = []
            self._framed = False
            return
        self.status = status
        self._head_done = True
        if status in (204, 304):
            self._framed = True

    def on_body(self, body: bytes) -> None:
        if self.complete:
            return
        self._chunks.append(body)
        self._buffered += len(body)
        self._body_begun = True

    def on_message_complete(self) -> None:
        if self._head_done and not self.complete:
            self.complete = True
            self._keep_alive = self._parser.should_keep_alive()

    # Waiting.

    def _hand_on(self) -> None:
        """Give the sink what has arrived."""
        sink, complete, chunks = self._sink, self.complete, self._chunks
        if sink is None or not (chunks or complete) or self._broken is not None:
            return
        if len(chunks) == 1 and not self._paused:  # :meth:`take`, for the common case
            data = chunks.pop()
            self._buffered = 0
        else:
            data = self.take()
        try:
            sink(data, complete)
        except Exception as error:
            self._broken = error
        if complete or self._broken is not None:
            self._wake()
        elif not self._held:
            at = self._loop.time() + self._idle
            if at > self._ends_at:
                at = self._ends_at
            if self._fires_at <= at:
                self._deadline = at  # the timer looks again when it fires: nothing to do for each piece
            else:
                self._set_deadline(at)

    async def _wait(self, timeout: float) -> None:
        if self._error is not None:
            raise self._error
        self._set_deadline(min(self._loop.time() + timeout, self._ends_at))
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._deadline = _NEVER
        if self._error is not None and not self._chunks:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: UpstreamError) -> None:
        if self._error is None:
            self._error = error
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _set_deadline(self, at: float) -> None:
        self._deadline = at
        if at == _NEVER or self._fires_at <= at:
            return
        self._stop_timer()
        self._timer = self._loop.call_at(at, self._on_timer)
        self._fires_at = at

    def _on_timer(self) -> None:
        self._timer, self._fires_at = None, _NEVER
        if self._deadline == _NEVER:
            return
        if self._loop.time() < self._deadline:
            self._set_deadline(self._deadline)
            return
        self._fail(self._late())

    def _late(self) -> UpstreamError:
        if self._deadline >= self._ends_at:
            return TotalTimeout(f"{self.origin} took longer than {self._timeouts.total:g} s in all")
        if self._body_begun:
            return IdleTimeout(f"{self.origin} sent nothing for {self._timeouts.idle:g} s in the middle of its answer")
        return FirstByteTimeout(f"{self.origin} did not begin to answer within {self._timeouts.first_byte:g} s")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._fires_at = None, _NEVER


def _how(error: Exception | None) -> str:
    return "closed the connection" if error is None else f"broke the connection ({error})"
