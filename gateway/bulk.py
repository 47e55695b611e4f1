"""An answer that is no stream of events, on its way from a worker: vectors, hidden states, scores by the thousand.

A short one is held until it is whole, so that another worker may stand in for one that dies; a long one flows on as it
arrives, so that it takes no more memory than a stream does, and ends with the connection where it cannot end well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from controller.types import Usage
from gateway.driver import GONE, Turn
from gateway.exchange import Exchange
from gateway.usage import TAIL, usage_at_end
from upstream.client import Response
from upstream.errors import UpstreamError

__all__ = ["HELD", "Bulk", "CutShort", "pass_on"]

HELD = 1 << 20
"""Bytes up to which an answer is held."""


class CutShort(Exception):
    """A long answer broke off; the client can only be told by the end of its connection."""


class Bulk:
    """One answer; a sink for :meth:`upstream.client.Response.pump`. ``begin`` writes its head.

    It is called with the length of a whole answer, with ``None`` for one that flows.
    """

    __slots__ = ("_begin", "_exchange", "_held", "_parts", "_size", "_tail")

    def __init__(self, exchange: Exchange, begin: Callable[[int | None], None], held: int = HELD) -> None:
        self._exchange = exchange
        self._begin = begin
        self._held = held
        self._parts: list[bytes] = []
        self._size = 0
        self._tail = b""

    @property
    def usage(self) -> Usage | None:
        """What it cost, once it is complete."""
        return usage_at_end(self._tail)

    def __call__(self, chunk: bytes, last: bool) -> None:
        """A piece of the worker's answer."""
        self._size += len(chunk)
        self._tail = chunk[-TAIL:] if len(chunk) >= TAIL else (self._tail + chunk)[-TAIL:]
        if not self._exchange.started:
            self._parts.append(chunk)
            if not last and self._size <= self._held:
                return
            chunk, self._parts = b"".join(self._parts), []
            self._begin(self._size if last else None)
        if last:
            self._exchange.end(chunk)
        elif chunk:
            self._exchange.write(chunk)


async def pass_on(exchange: Exchange, turn: Turn, response: Response, begin: Callable[[int | None], None]) -> None:
    """Let the answer through and end the turn with it.

    Raises: UpstreamError while nothing of it was sent; CutShort later.
    """

    def begun(length: int | None) -> None:
        turn.first_token()
        begin(length)

    bulk = Bulk(exchange, begun)
    exchange.feed(response)
    try:
        await response.pump(bulk)
    except UpstreamError as error:
        if not exchange.started:
            raise
        turn.fail(error.code, retryable=False)
        raise CutShort(str(error)) from error
    except asyncio.CancelledError:
        if not exchange.started or exchange.left or exchange.ended:
            raise
        turn.abort(GONE.code)
        raise CutShort(GONE.message) from None
    finally:
        exchange.feed(None)
    if response.status < 400:
        turn.finish(bulk.usage)
    else:
        turn.abort(f"status_{response.status}")  # the request's fault, not the worker's
