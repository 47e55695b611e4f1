"""A server on a real socket that answers byte for byte as its test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

TIMEOUT = 5.0
"""Seconds a test waits for something that should happen at once."""


class Exchange:
    """One request as the server saw it, and the wire to answer on."""

    def __init__(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        line, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = line.split(" ", 2)
        self.headers = {n.lower(): v.strip() for n, _, v in (text.partition(":") for text in lines if text)}
        self.body = body
        self.gone = asyncio.Event()
        """Set when the client closed or reset the connection."""
        self._writer = writer

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int = 200, *headers: str, chunked: bool = True) -> None:
        framing = ["transfer-encoding: chunked"] if chunked else []
        await self.raw("\r\n".join([f"HTTP/1.1 {status} Any", *headers, *framing, "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        if data:
            await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def reply(self, body: bytes, status: int = 200, *headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Any", f"content-length: {len(body)}", *headers, "", ""]
        await self.raw("\r\n".join(lines).encode() + body)

    async def reply_json(self, value: object, status: int = 200) -> None:
        await self.reply(json.dumps(value).encode(), status, "content-type: application/json")

    def kill(self) -> None:
        """Close the connection without another word."""
        self._writer.transport.abort()

    async def client_left(self) -> None:
        await asyncio.wait_for(self.gone.wait(), TIMEOUT)


Handler = Callable[[Exchange], Awaitable[None]]


class Server:
    """``async with Server(handler) as server``: answers on ``server.url``; ``exchanges`` is what it was asked."""

    def __init__(self, handler: Handler, port: int = 0) -> None:
        self.handler = handler
        self.exchanges: list[Exchange] = []
        self.connections = 0
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and break every connection, as a killed process would."""
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0.01)

    async def asked(self, count: int) -> Exchange:
        """The ``count``-th exchange, waiting for it."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.exchanges) < count:
                await asyncio.sleep(0.001)
        return self.exchanges[count - 1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        exchange = Exchange(head.removesuffix(b"\r\n\r\n"), b"", writer)
        exchange.body = await reader.readexactly(int(exchange.headers.get("content-length", "0")))
        self.exchanges.append(exchange)
        answer = asyncio.ensure_future(self.handler(exchange))
        watch = asyncio.ensure_future(_watch(reader, exchange.gone))
        try:
            await answer
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        return not writer.is_closing() and not exchange.gone.is_set()


async def _watch(reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
    try:
        while not reader.at_eof():
            await asyncio.sleep(0.001)
            if reader.exception() is not None:
                break
    finally:
        if reader.at_eof() or reader.exception() is not None:
            gone.set()
