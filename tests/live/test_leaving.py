"""A client that leaves frees its seat on the server."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from envs.engines.vllm_process import VllmProcess
from tests.live.fleet import LIMIT, LONG, SEATS, Gateway, body, metrics, stream, until

TOKENS = LONG


async def leaves(narrow_gateway: Gateway, worker: str, requests: int) -> None:
    """Start long streams, leave them once the server's seats are taken, and see it free long before they could end."""
    async with httpx.AsyncClient() as client:
        before = await metrics(client, worker)
        begun = asyncio.Semaphore(0)
        asked = [body(f"Chapter {i}:", TOKENS) for i in range(requests)]
        tasks = [asyncio.create_task(stream(client, narrow_gateway.url, each, started=begun.release)) for each in asked]
        seated = min(requests, SEATS)
        for _ in range(seated):
            await asyncio.wait_for(begun.acquire(), LIMIT)
        await until(client, worker, lambda m: (m.running, m.waiting) == (seated, requests - seated), "taken")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        after = await until(client, worker, lambda m: m.running == m.waiting == 0, "free again")
        assert before.generation_tokens is not None
        assert after.generation_tokens is not None
        assert after.generation_tokens - before.generation_tokens < TOKENS
        fleet = (await client.get(f"{narrow_gateway.url}/admin/fleet")).json()
        assert [each["inflight"] for pool in fleet["pools"] for each in pool["workers"]] == [0]


@pytest.mark.parametrize("requests", [1, SEATS + 1], ids=["mid-stream", "running and queued"])
def test_a_client_that_leaves_frees_the_server(
    narrow_gateway: Gateway, workers: list[VllmProcess], requests: int
) -> None:
    asyncio.run(leaves(narrow_gateway, workers[0].url, requests))
