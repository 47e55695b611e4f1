from __future__ import annotations

import asyncio

from envs.replay import Replayed, ReplayRequest, replay
from tests.upstream.servers import Exchange, Server
from upstream.client import Client


def test_requests_leave_at_their_own_times_whatever_becomes_of_the_others() -> None:
    """The first two are answered only once all three have come: nothing waits for an answer before it is sent."""
    together = 3
    arrived: list[str] = []
    all_here = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        arrived.append(exchange.json["model"])
        if len(arrived) == together:
            all_here.set()
        await all_here.wait()
        await exchange.head()
        await exchange.chunk(b"data: [DONE]\n\n")
        await exchange.end()

    ended: list[Replayed] = []

    async def run() -> list[Replayed]:
        requests = [ReplayRequest(at, {"model": name}) for at, name in ((0.04, "c"), (0.0, "a"), (0.02, "b"))]
        async with Server(handler) as server, Client() as client:
            url = f"{server.url}/v1/chat/completions"
            return await asyncio.wait_for(replay(client, url, requests, on_end=ended.append), 10)

    replayed = asyncio.run(run())
    assert arrived == ["a", "b", "c"]
    assert [r.request.body["model"] for r in replayed] == ["c", "a", "b"], "in the order they were given"
    assert all(r.exchange.error is None and r.late_by >= 0 for r in replayed)
    assert len(ended) == together
