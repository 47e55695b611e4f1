"""Open-loop replay of a workload against an OpenAI-compatible endpoint, in real time.

Requests leave at their own times whatever became of those before them, so that an overloaded server cannot slow its own
load down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from upstream.chat import Exchange, ask
from upstream.client import Client
from upstream.types import Header, Timeouts

__all__ = ["ReplayRequest", "Replayed", "replay"]


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """One request to send ``at`` seconds after the start."""

    at: float
    body: Mapping[str, Any]
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a request. ``late_by`` is how many seconds after its time it really left this machine."""

    request: ReplayRequest
    exchange: Exchange
    late_by: float


async def replay(
    client: Client,
    url: str,
    requests: Iterable[ReplayRequest],
    *,
    timeouts: Timeouts | None = None,
    on_end: Callable[[Replayed], None] | None = None,
) -> list[Replayed]:
    """Send every request at its time and wait for all of them; in the order of ``requests``.

    ``on_end`` is called as each one ends. Cancelling this cancels all that are under way.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def one(request: ReplayRequest) -> Replayed:
        await asyncio.sleep(start + request.at - loop.time())
        late_by = loop.time() - start - request.at
        exchange = await ask(client, url, request.body, headers=request.headers, timeouts=timeouts)
        replayed = Replayed(request, exchange, late_by)
        if on_end is not None:
            on_end(replayed)
        return replayed

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(request)) for request in requests]
    return [task.result() for task in tasks]
