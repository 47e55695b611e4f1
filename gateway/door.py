"""What the connections of one server share: the application, how long clients are waited for, and the clock for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from gateway.direct import head_lines
from gateway.exchange import Handler
from gateway.instruments import Level

__all__ = ["Direct", "Door", "Guest", "Waits"]


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds that a client is waited for."""

    head: float = 10.0
    """For the whole head of a request, and for the first byte on a new connection."""
    body: float = 30.0
    """For its body, and a second more for each 16 KiB that have arrived."""
    idle: float = 5.0
    """Between an answer and the next request."""
    stall: float = 300.0
    """While it takes nothing of what is sent."""


class Direct(Protocol):
    """An ASGI application that answers some requests itself, without ASGI."""

    def relays(self, method: str, path: str) -> bool:
        """Whether this request is one of those."""

    @property
    def handler(self) -> Handler:
        """Answers them."""


class Guest(Protocol):
    """A client's connection."""

    loop: asyncio.AbstractEventLoop

    def look(self, now: float) -> None:
        """Time has passed; is this client still worth waiting for?"""


class Door:
    """What the connections of one server share."""

    def __init__(self, app: Direct, waits: Waits, clients: Level | None = None) -> None:
        self.app = app
        self.clients = clients or Level()
        self.waits = waits
        self._every = min(1.0, min(waits.head, waits.body, waits.idle, waits.stall) / 4)
        self._open: set[Guest] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._common: tuple[object, bytes] = (None, b"")

    def enter(self, connection: Guest) -> None:
        """A connection was made."""
        self._open.add(connection)
        self.clients.enter()
        if self._timer is None:
            self._timer = connection.loop.call_later(self._every, self._look, connection.loop)

    def leave(self, connection: Guest) -> None:
        """It is gone."""
        self._open.discard(connection)
        self.clients.leave()

    def common_head(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """uvicorn's default headers as lines; its server makes a new list every second."""
        if self._common[0] is not headers:
            self._common = (headers, head_lines(headers))
        return self._common[1]

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in tuple(self._open):
            connection.look(now)
        self._timer = loop.call_later(self._every, self._look, loop) if self._open else None
