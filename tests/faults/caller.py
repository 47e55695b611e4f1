"""Clients of the gateway: ordinary ones that say what they saw, and raw sockets that misbehave."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from tests.faults.fleet import CHAT, LIMIT, Books, chat
from upstream import sse
from upstream.client import Client
from upstream.errors import UpstreamError

DONE = b"data: [DONE]"


@dataclass
class Seen:
    """What a client saw. ``status`` 0: the connection ended without an answer's head; ``whole``: nothing is missing."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    broken: bool = False
    """The connection ended in the middle of the answer."""

    @property
    def events(self) -> list[bytes]:
        return [event.strip() for event in sse.split(self.body)]

    @property
    def done(self) -> bool:
        return self.status == 200 and not self.broken and DONE in self.events

    @property
    def error(self) -> dict[str, Any]:
        """The error object of an answer that is no stream."""
        answer = json.loads(self.body)
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        error: dict[str, Any] = answer["error"]
        return error


async def ask(client: Client, books: Books, **fields: Any) -> Seen:
    """Send a chat request and see it to its end; it is entered in the books."""
    books.sent += 1
    seen = Seen()
    sent = [(b"content-type", b"application/json")]
    try:
        body = chat(books.model, **fields)
        async with await client.send(b"POST", books.gateway.url + CHAT, headers=sent, body=body) as response:
            seen.status, seen.headers = response.status, dict(response.headers)
            while chunk := await asyncio.wait_for(response.read(), LIMIT):
                seen.body += chunk
    except UpstreamError:
        seen.broken = True
    return seen


class Raw:
    """A bare connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, books: Books, *, limit: int = 1 << 16) -> Raw:
        return cls(*await asyncio.open_connection("127.0.0.1", books.gateway.port, limit=limit))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def request(self, body: bytes) -> None:
        await self.send(head(len(body)) + body)

    async def head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), LIMIT)

    async def ended(self) -> bool:
        """Whether the gateway closes the connection, without another word."""
        try:
            return await asyncio.wait_for(self.reader.read(1), LIMIT) == b""
        except (ConnectionError, TimeoutError):
            return True

    def leave(self) -> None:
        """Reset the connection: a client that is killed."""
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close it properly."""
        self.writer.close()


def head(length: int) -> bytes:
    lines = [f"POST {CHAT} HTTP/1.1", "host: gateway", "content-type: application/json", f"content-length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()
