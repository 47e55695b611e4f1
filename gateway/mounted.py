"""An exchange in ASGI's messages: for tests, and for mounting the gateway under a server that is not its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from gateway.errors import ClientLeft
from gateway.exchange import Exchange, Handler, Source, body_too_large
from upstream.types import Header

__all__ = ["MountedExchange", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_HIGH_WATER = 1 << 16
"""Bytes that may wait for the server before the source of the answer is paused."""


class MountedExchange(Exchange):
    """Writes are kept until the server takes them; :meth:`run` is the application's whole call."""

    __slots__ = ("_buffered", "_ended", "_out", "_receive", "_send", "_something", "_source", "_task", "_watcher")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        super().__init__(scope["method"], scope["path"], scope.get("query_string", b""), headers)
        self._receive = receive
        self._send = send
        self._out: list[MutableMapping[str, Any]] = []
        self._buffered = 0
        self._something = asyncio.Event()
        self._ended = False
        self._source: Source | None = None
        self._task: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def run(self, handler: Handler) -> None:
        """Have the request answered, and see it out. Cancelling it cancels the handler, which may still answer."""
        loop = asyncio.get_running_loop()
        self._task = task = loop.create_task(self._handled(handler))
        sender = loop.create_task(self._sending())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if not self._ended and not self.left:
                raise
        finally:
            if self._watcher is not None:
                self._watcher.cancel()
            self._something.set()
            await asyncio.gather(sender, return_exceptions=True)

    @property
    def ended(self) -> bool:
        return self._ended

    async def body(self, limit: int) -> bytes:
        announced = self.fields.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            raise body_too_large(limit)
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.left = True
                raise ClientLeft
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise body_too_large(limit)
            more = message.get("more_body", False)
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def start(self, status: int, headers: Iterable[Header], length: int | None = None) -> None:
        self.started, self.status = True, status
        sent = list(headers)
        if length is not None:
            sent.append((b"content-length", b"%d" % length))
        self._put({"type": "http.response.start", "status": status, "headers": sent}, 0)

    def write(self, data: bytes) -> None:
        if data:
            self._put({"type": "http.response.body", "body": data, "more_body": True}, len(data))

    def end(self, data: bytes = b"") -> None:
        self._ended = True
        self._source = None
        self._put({"type": "http.response.body", "body": data, "more_body": False}, len(data))

    def feed(self, source: Source | None) -> None:
        self._source = source
        if source is not None and self._buffered > _HIGH_WATER:
            source.pause()

    async def drain(self) -> None:
        while self._buffered > _HIGH_WATER and not self.left:
            await asyncio.sleep(0.001)

    async def _watch(self) -> None:
        """Cancel the handler when the client leaves."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._ended and self._task is not None:
            self.left = True
            self._task.cancel()

    async def _handled(self, handler: Handler) -> None:
        await handler(self)

    def _put(self, message: MutableMapping[str, Any], size: int) -> None:
        if self.left:
            return
        self._out.append(message)
        self._buffered += size
        self.sent += size
        self._something.set()
        if self._buffered > _HIGH_WATER and self._source is not None:
            self._source.pause()

    async def _sending(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            out, self._out = self._out, []
            for message in out:
                await self._send(message)
            self._buffered = 0
            if self._source is not None:
                self._source.resume()
            if not self._out and (self._ended or self._task is None or self._task.done()):
                return
