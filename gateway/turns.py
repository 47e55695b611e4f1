"""Sharing the event loop: of many requests that come at once a few are read, scored and queued in each of its turns.

In between it does whatever else there is to do, such as passing on the streams that run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

__all__ = ["Turns"]

_LIMIT_S: Final = 0.002
_MEMORY: Final = 0.9
"""Weight of what requests took before against the last one."""


class Turns:
    """Keeps account of the seconds that new requests take of each turn. Nothing waits while they come one by one."""

    __slots__ = ("_due", "_each", "_limit", "_spent", "_waiting")

    def __init__(self, limit_s: float = _LIMIT_S) -> None:
        self._limit = limit_s
        self._spent = 0.0
        self._each = 0.0
        """What a request takes."""
        self._due = False
        """The next turn has been asked for."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def over(self) -> bool:
        """Whether a request that comes now waits for :meth:`next`: this turn is used up, or others wait already."""
        return self._spent > self._limit or bool(self._waiting)

    async def next(self) -> None:
        """Wait for a turn that has time for this request, after those that came before it."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._ask()
        await turn

    def spend(self, seconds: float) -> None:
        """A request took so much of this turn."""
        self._spent += seconds
        self._each = _MEMORY * self._each + (1.0 - _MEMORY) * seconds if self._each else seconds
        self._ask()

    def _ask(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """A turn begins: as many go on as it should have time for."""
        self._due, self._spent = False, 0.0
        room = self._limit
        while self._waiting and room > 0.0:
            turn = self._waiting.popleft()
            if not turn.done():  # else whoever waited is gone
                turn.set_result(None)
                room -= max(self._each, self._limit / 64)
        if self._waiting:
            self._ask()
