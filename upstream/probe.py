"""One look at whether a server answers."""

from __future__ import annotations

from upstream.client import Client
from upstream.errors import UpstreamError
from upstream.types import Timeouts

__all__ = ["answers"]

_TIMEOUTS = Timeouts(connect=1.0, first_byte=2.0, idle=2.0, total=2.0)


async def answers(url: str) -> bool:
    """Whether a GET of this URL answers 200 within two seconds. Never raises for what the network does."""
    try:
        async with Client() as client, client.stream(b"GET", url, timeouts=_TIMEOUTS) as response:
            return response.status == 200
    except UpstreamError:
        return False
