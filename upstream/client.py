"""A streaming HTTP/1.1 client: pooled keep-alive connections on the raw protocol, nothing between socket and caller.

What it is for decides what it does: bodies are read as they arrive and coalesced, a slow reader stops the worker from
sending, and an exchange that is left before its end closes its socket at once, so that a worker sees at once that
nobody waits any more. No redirects, no cookies, no decompression, no proxies.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from urllib.parse import urlsplit

from upstream.connection import Connection, Sink
from upstream.errors import BodyTooLong, ConnectError, ConnectionLost, ConnectTimeout
from upstream.types import Header, Origin, Target, Timeouts

__all__ = ["Client", "Response"]

_JOIN_BELOW = 1 << 16
"""Bytes. A smaller body goes out in one write with its head."""
_TARGETS = 4096
"""How many split URLs a client remembers."""


class Response:
    """An answer whose head has arrived. Use as an async context manager, or call :meth:`close` yourself."""

    __slots__ = ("_client", "_connection", "headers", "status")

    def __init__(self, client: Client, connection: Connection) -> None:
        self._client = client
        self._connection: Connection | None = connection
        self.status = connection.status
        self.headers: list[Header] = connection.headers

    def header(self, name: bytes) -> bytes | None:
        """The first header of that (lower-case) name."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def complete(self) -> bool:
        """Whether everything has arrived and been read: the next :meth:`read` returns ``b""`` without waiting."""
        return self._connection is None or self._connection.drained

    async def read(self) -> bytes:
        """The bytes that have arrived, waiting for some if there are none; ``b""`` at the end of the body.

        Raises: ConnectionLost, ProtocolError, FirstByteTimeout (no body byte yet), IdleTimeout, TotalTimeout.
        """
        connection = self._connection
        if connection is None:
            return b""
        chunk = connection.take()
        while not chunk and not connection.complete:
            await connection.wait_for_body()
            chunk = connection.take()
        if connection.drained:
            self.close()
        return chunk

    async def pump(self, sink: Sink) -> None:
        """Have ``sink(data, last)`` called with each piece of the body as it arrives, without a turn of the event loop
        in between; ends after the last piece, which may be empty.

        Raises what :meth:`read` raises, and what ``sink`` raises; the caller closes the response.
        """
        connection = self._connection
        if connection is None:
            sink(b"", True)
            return
        await connection.pump(sink)
        self.close()

    def pause(self) -> None:
        """Make the worker wait until :meth:`resume`: whoever takes what is pumped does not keep up."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Let it go on."""
        if self._connection is not None:
            self._connection.resume()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives."""
        while chunk := await self.read():
            yield chunk

    async def body(self, limit: int | None = None) -> bytes:
        """The whole body. Raises BodyTooLong if it is longer than ``limit`` bytes."""
        parts: list[bytes] = []
        size = 0
        connection = self._connection
        while connection is not None:
            if not connection.complete:
                await connection.wait_for_body()
            chunk = connection.take()
            size += len(chunk)
            if limit is not None and size > limit:
                self.close()
                raise BodyTooLong(f"the body is longer than {limit} bytes")
            if connection.complete:
                self.close()
                connection = None
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Give the connection back if the exchange is over; otherwise close its socket now. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client.release(connection)

    async def __aenter__(self) -> Response:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """Connections to any number of origins. One per event loop; close it before the loop ends.

    ``keepalive`` is how long, in seconds, an idle connection is kept: a little less than uvicorn's own five, so that it
    is rarely the server that closes. ``idle_per_origin`` bounds how many are kept; how many are open at once is for the
    caller to bound (headway's control plane does, by ``max_inflight``). ``tls`` is for https origins, the system's
    authorities if not given; their certificates must be for ``server_name``, or else for the URL's host.
    """

    def __init__(
        self,
        *,
        keepalive: float = 4.5,
        idle_per_origin: int = 256,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        self._keepalive = keepalive
        self._idle_per_origin = idle_per_origin
        self._tls = tls
        self._server_name = server_name
        self._idle: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._targets: dict[str, Target] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def open_connections(self) -> int:
        """Sockets that are open, idle ones included."""
        return len(self._open)

    @property
    def idle_connections(self) -> int:
        """Sockets that wait for another request."""
        return sum(map(len, self._idle.values()))

    async def send(
        self,
        method: bytes,
        url: str,
        *,
        headers: Iterable[Header] = (),
        body: bytes = b"",
        timeouts: Timeouts | None = None,
    ) -> Response:
        """Send a request and wait for the head of its answer; the caller closes the response.

        ``Host`` and ``Content-Length`` are written here. A kept connection that the server closes before any byte of
        an answer is replaced by a new one, once. Cancelling closes the socket at once.

        Raises: ConnectError, ConnectTimeout, FirstByteTimeout, TotalTimeout, ConnectionLost, ProtocolError.
        """
        target = self._target(url)
        head = _head(method, target, headers, body)
        timeouts = timeouts or Timeouts()
        connection = self._reuse(target.origin)
        if connection is not None:
            try:
                return await self._exchange(connection, head, body, timeouts)
            except ConnectionLost:
                if connection.heard:
                    raise
        connection = await self._connect(target.origin, timeouts.connect)
        return await self._exchange(connection, head, body, timeouts)

    def stream(
        self,
        method: bytes,
        url: str,
        *,
        headers: Iterable[Header] = (),
        body: bytes = b"",
        timeouts: Timeouts | None = None,
    ) -> _Stream:
        """``async with client.stream(...) as response``: :meth:`send`, closed at the end of the block."""
        return _Stream(self, method, url, headers, body, timeouts)

    def release(self, connection: Connection) -> None:
        """Keep a connection whose exchange is over and which may be kept; abort any other."""
        idle = self._idle.setdefault(connection.origin, [])
        if not connection.reusable or len(idle) >= self._idle_per_origin:
            connection.abort()
            return
        connection.rest()
        idle.append(connection)
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(self._keepalive, self._sweep)

    def retire(self) -> None:
        """Keep no connection any more: idle ones are closed now, the others when their exchanges are over."""
        self._idle_per_origin = 0
        for connection in [c for idle in self._idle.values() for c in idle]:
            connection.abort()
        self._idle.clear()

    async def close(self) -> None:
        """Close every connection; exchanges still under way raise ConnectionLost."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in tuple(self._open):
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _exchange(self, connection: Connection, head: bytes, body: bytes, timeouts: Timeouts) -> Response:
        try:
            connection.start(timeouts)
            if len(body) < _JOIN_BELOW:
                connection.write(head + body)
            else:
                connection.write(head)
                connection.write(body)
            await connection.wait_for_head()
        except BaseException:
            connection.abort()
            raise
        return Response(self, connection)

    def _reuse(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin, timeout: float) -> Connection:
        loop = asyncio.get_running_loop()
        tls = self._context() if origin.tls else None
        name = self._server_name if origin.tls else None
        try:
            async with asyncio.timeout(timeout):
                _, connection = await loop.create_connection(
                    lambda: Connection(origin, loop, self._forget),
                    origin.host,
                    origin.port,
                    ssl=tls,
                    server_hostname=name,
                )
        except TimeoutError as error:
            raise ConnectTimeout(f"no connection to {origin} within {timeout:g} s") from error
        except OSError as error:
            raise ConnectError(f"cannot connect to {origin}: {error}") from error
        if connection.usable:
            self._open.add(connection)
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None and connection in idle:
            idle.remove(connection)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._keepalive
        for connection in [c for idle in self._idle.values() for c in idle if c.resting_since <= oldest]:
            connection.abort()
            self._forget(connection)
        waiting = [c.resting_since for idle in self._idle.values() for c in idle]
        at = min(waiting, default=None)
        self._sweeper = None if at is None else loop.call_at(at + self._keepalive, self._sweep)

    def _target(self, url: str) -> Target:
        target = self._targets.get(url)
        if target is None:
            target = _split(url)
            if len(self._targets) < _TARGETS:
                self._targets[url] = target
        return target


class _Stream:
    __slots__ = ("_arguments", "_client", "_response")

    def __init__(
        self,
        client: Client,
        method: bytes,
        url: str,
        headers: Iterable[Header],
        body: bytes,
        timeouts: Timeouts | None,
    ) -> None:
        self._client = client
        self._arguments = (method, url, headers, body, timeouts)
        self._response: Response | None = None

    async def __aenter__(self) -> Response:
        method, url, headers, body, timeouts = self._arguments
        self._response = await self._client.send(method, url, headers=headers, body=body, timeouts=timeouts)
        return self._response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._response is not None:
            self._response.close()


def _split(url: str) -> Target:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an http(s) URL: {url!r}")
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(Origin(parts.hostname, port, tls), path.encode("ascii"), parts.netloc.rpartition("@")[2].encode())


def _head(method: bytes, target: Target, headers: Iterable[Header], body: bytes) -> bytes:
    if method == b"HEAD":
        raise ValueError("HEAD is not supported: its answer has the framing of a body that never comes")
    lines = [b"%b %b HTTP/1.1" % (method, target.path), b"host: " + target.host]
    if body or method in (b"POST", b"PUT", b"PATCH"):
        lines.append(b"content-length: %d" % len(body))
    lines += [name + b": " + value for name, value in headers]
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
        raise ValueError("a header or the path holds a line break")
    return head + b"\r\n\r\n"
