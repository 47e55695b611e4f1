"""The servers themselves: what headway relies on is so in the vLLM that is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx

from envs.engines.vllm_process import VllmProcess
from envs.ladder.shapes import CONTEXT
from tests.live.fleet import LONG, MODEL, SEATS, UPPER, Answer, body, stream, until
from upstream.client import Client
from upstream.vllm import VllmClient


def test_the_server_says_what_it_is_and_serves(servers: list[VllmProcess]) -> None:
    async def main() -> None:
        async with Client() as client:
            for worker, name in zip(servers, (MODEL, MODEL, UPPER), strict=True):
                server = VllmClient(client, worker.url)
                assert await server.health()
                (card,) = await server.models()
                assert (card.id, card.context_length) == (name, CONTEXT)
                assert (await server.version()).startswith("0.")
                tokens = await server.tokenize(name, messages=[{"role": "user", "content": "What is 12 + 30?"}])
                assert tokens.count == len(tokens.tokens) > 5
                load = await server.metrics()
                assert (load.running, load.waiting, load.kv_usage) == (0, 0, 0.0)

    asyncio.run(main())


async def overtaking(
    client: httpx.AsyncClient, worker: str, url: str, late: Mapping[str, object], **headers: str
) -> None:
    """Fill a worker's seats, queue ordinary requests at ``url``, then those of ``late``; the late ones start first."""
    seated = [asyncio.create_task(stream(client, worker, body(f"Story {i}:", LONG))) for i in range(SEATS)]
    await until(client, worker, lambda m: m.running == SEATS, "full")
    early = [asyncio.create_task(stream(client, url, body(f"Poem {i}:", 24))) for i in range(SEATS)]
    await until(client, worker, lambda m: m.waiting == SEATS, "queueing the early ones")
    urgent = [
        asyncio.create_task(stream(client, url, body(f"News {i}:", 24, **late), headers=headers)) for i in range(SEATS)
    ]
    await until(client, worker, lambda m: m.waiting == 2 * SEATS, "queueing the late ones")
    first, second = await asyncio.gather(*early), await asyncio.gather(*urgent)
    for answer in [*first, *second, *await asyncio.gather(*seated)]:
        assert answer.done, answer
    assert max(started(answer) for answer in second) < min(started(answer) for answer in first)


def started(answer: Answer) -> float:
    assert answer.first_at is not None
    return answer.first_at


def test_the_priority_field_changes_the_order_of_service(workers: list[VllmProcess]) -> None:
    async def main() -> None:
        async with httpx.AsyncClient() as client:
            worker = workers[0].url
            await overtaking(client, worker, worker, {"priority": -5})

    asyncio.run(main())
