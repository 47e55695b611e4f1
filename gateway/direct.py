"""An exchange straight on its connection: no messages, no queue, and one task, which the relay runs in.

The head of an answer goes out together with the first piece of its body, and the last piece together with what ends
it, so that a short answer is one write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from gateway.errors import ApiError, ClientLeft
from gateway.exchange import Exchange, Handler, Source, body_too_large, status_line
from upstream.types import Header

__all__ = ["Carrier", "DirectExchange", "head_lines"]

_CLOSE = (b"connection", b"close")
_BODILESS = (204, 304)
_log = logging.getLogger("headway.gateway")


class Carrier(Protocol):
    """The connection, as far as an exchange needs it."""

    transport: asyncio.Transport

    def common_head(self) -> bytes:
        """Lines that every answer's head has, each with its line break."""

    def finished(self, exchange: DirectExchange, *, keep: bool) -> None:
        """The answer is on its way; ``keep`` the connection for another request, or end it."""

    def writable(self) -> bool:
        """Whether the client keeps up with what is sent."""

    async def drained(self) -> None:
        """Wait until it does."""


class DirectExchange(Exchange):
    """One request on a connection. ``chunks`` says whether the client knows chunked bodies (HTTP/1.1 does)."""

    __slots__ = (
        "_carrier",
        "_chunked",
        "_ended",
        "_error",
        "_expects",
        "_head",
        "_knows_chunks",
        "_limit",
        "_parts",
        "_silent",
        "_source",
        "_waiter",
        "complete",
        "keep_alive",
        "size",
        "task",
    )

    def __init__(
        self,
        carrier: Carrier,
        method: str,
        path: str,
        query: bytes,
        headers: Sequence[Header],
        *,
        keep_alive: bool,
        chunks: bool,
        expects: bool,
    ) -> None:
        Exchange.__init__(self, method, path, query, headers)
        self._carrier = carrier
        self.keep_alive = keep_alive
        self._knows_chunks = chunks
        self._expects = expects
        self._parts: list[bytes] = []
        self.size = 0
        """Bytes of body that have arrived."""
        self.complete = False
        """The whole request has arrived."""
        self._limit: int | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: ApiError | None = None
        self._head = b""
        self._chunked = False
        self._silent = False
        self._ended = False
        self._source: Source | None = None
        self.task: asyncio.Task[None] | None = None

    # For the relay

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def response_complete(self) -> bool:
        """uvicorn's word for :attr:`ended`; its protocol asks this before it begins the next request."""
        return self._ended

    async def body(self, limit: int) -> bytes:
        if not self.complete:
            await self._arrival(limit)
        if self.size > limit:
            raise body_too_large(limit)
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def start(self, status: int, headers: Iterable[Header], length: int | None = None) -> None:
        self.started, self.status = True, status
        headers = list(headers)
        if _CLOSE in headers:
            headers.remove(_CLOSE)
            self.keep_alive = False
        if not self.complete:
            self.keep_alive = False  # what is left of the request would be taken for the next one
        self._silent = self.method == "HEAD" or status in _BODILESS
        if status in _BODILESS:
            framing = b""
        elif length is not None:
            framing = b"content-length: %d\r\n" % length
        elif self._knows_chunks:
            self._chunked = not self._silent
            framing = b"transfer-encoding: chunked\r\n"
        else:
            self.keep_alive = False  # the body ends where the connection ends
            framing = b""
        lines = (status_line(status), self._carrier.common_head(), head_lines(headers), framing)
        self._head = b"".join(lines) + (b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")

    def write(self, data: bytes) -> None:
        if self.left or not data:
            return
        self.sent += len(data)
        head = self._head
        if not head and self._chunked:  # the middle of a stream
            self._carrier.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            return
        self._head = b""
        if self._silent:
            data = head
        elif self._chunked:
            data = b"%b%x\r\n%b\r\n" % (head, len(data), data)
        elif head:
            data = head + data
        if data:
            self._carrier.transport.write(data)

    def end(self, data: bytes = b"") -> None:
        self._ended = True
        self._source = None
        if self.left:
            return
        self.sent += len(data)
        head, self._head = self._head, b""
        if self._silent:
            data = head
        elif not self._chunked:
            data = head + data if head else data
        elif data:
            data = b"%b%x\r\n%b\r\n0\r\n\r\n" % (head, len(data), data)
        else:
            data = head + b"0\r\n\r\n"
        if data:
            self._carrier.transport.write(data)
        self._carrier.finished(self, keep=self.keep_alive)

    def feed(self, source: Source | None) -> None:
        self._source = source
        if source is not None and not self._carrier.writable():
            source.pause()

    async def drain(self) -> None:
        if not self.left and not self._carrier.writable():
            await self._carrier.drained()

    # For the connection

    async def run(self, handler: Handler) -> None:
        """Have the request answered; what fails beyond the handler's own care ends the connection."""
        try:
            await handler(self)
        except Exception:
            _log.exception("%s %s: the answer could not be given", self.method, self.path)
        finally:
            if not self._ended and not self.left:
                self._carrier.finished(self, keep=False)

    def arrived(self, data: bytes) -> None:
        """A piece of the request's body."""
        self._parts.append(data)
        self.size += len(data)
        if self._limit is not None and self.size > self._limit:
            self._wake()

    def whole(self) -> None:
        """The request's end."""
        self.complete = True
        self._wake()

    def late(self) -> None:
        """The body does not arrive in time."""
        self._error = ApiError(408, "request_timeout", "the request's body did not arrive in time", close=True)
        self._wake()

    def lost(self) -> None:
        """The client has gone: cancel what is done for it."""
        self.left = True
        self._parts.clear()
        if self.task is not None and not self._ended:
            self.task.cancel()

    def slow(self, paused: bool) -> None:
        """The client stopped to keep up with what is sent, or has caught up again."""
        if self._source is not None:
            if paused:
                self._source.pause()
            else:
                self._source.resume()

    async def _arrival(self, limit: int) -> None:
        announced = self.fields.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            raise body_too_large(limit)
        if self._expects and not self.size:
            self._carrier.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._limit = limit
        while not self.complete and self.size <= limit:
            if self.left:
                raise ClientLeft
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def head_lines(headers: Sequence[Header]) -> bytes:
    """Headers as lines, each with its line break. Raises ValueError if one of them would be two."""
    block = b"\r\n".join([*map(b": ".join, headers), b""])
    if block.count(b"\n") != len(headers) or block.count(b"\r") != len(headers) or b"\0" in block:
        raise ValueError("a header of the answer holds a line break or a NUL")
    return block
