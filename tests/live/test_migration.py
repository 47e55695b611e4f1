"""A stream whose worker is drained moves to the other one in the middle, and its client cannot tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest

from envs.engines.vllm_process import VllmProcess
from tests.live.fleet import LIMIT, LONG, QUICK, Answer, Gateway, body, gateway_running, ready_workers, stream

USAGE = {"stream_options": {"include_usage": True}}
PROMPTS = [f"Story {number}: 17 + {number} =" for number in range(3)]
"""The first is asked alone, the others at once."""


@pytest.fixture
def moving(
    workers: list[VllmProcess], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Gateway]:
    """A gateway before both servers that moves running requests."""
    monkeypatch.setenv("HEADWAY_STAGES__REBALANCE__NAME", "migrate")
    monkeypatch.setenv("HEADWAY_STAGES__REBALANCE__INTERVAL_S", "0.2")
    urls = [worker.url for worker in workers]
    with gateway_running({QUICK: urls}, tmp_path_factory.mktemp("moving")) as running:
        yield running


def test_a_migrated_greedy_stream_is_identical(moving: Gateway) -> None:
    async def main() -> None:
        async with httpx.AsyncClient() as client:
            plain = [await ask(client, moving, prompt) for prompt in PROMPTS]
            moved, expected = [], 0
            for prompts in (PROMPTS[:1], PROMPTS[1:]):
                answers, drained = await drained_under(client, moving, prompts)
                leaving = sum(answer.worker == drained for answer in answers)
                assert leaving >= 1
                moved, expected = moved + answers, expected + leaving
            for one, other in zip(plain, moved, strict=True):
                assert (one.done, one.error, one.usage["completion_tokens"]) == (True, None, LONG)
                assert (other.done, other.error) == (True, None)
                assert other.text == one.text, "the answer went on otherwise"
                assert other.usage == one.usage
                assert len({event["id"] for event in other.events}) == 1, "the client sees one answer"
            records = (await client.get(f"{moving.url}/admin/decisions", params={"limit": 6})).json()
            moves = [record["continued"] for record in records]
            assert sum(count >= 1 for count in moves) >= expected, "every stream of a drained worker moved"
            assert moves[-len(plain) :] == [0] * len(plain), "nothing else had a reason to"

    asyncio.run(main())


async def ask(client: httpx.AsyncClient, gateway: Gateway, prompt: str) -> Answer:
    """The answer where nothing happens."""
    return await stream(client, gateway.url, body(prompt, LONG, **USAGE))


async def drained_under(client: httpx.AsyncClient, gateway: Gateway, prompts: list[str]) -> tuple[list[Answer], str]:
    """The answers of streams that run at once while one of their workers is drained, and that worker's name."""
    begun = asyncio.Semaphore(0)
    payloads = [body(prompt, LONG, **USAGE) for prompt in prompts]
    tasks = [asyncio.create_task(stream(client, gateway.url, each, started=begun.release)) for each in payloads]
    async with asyncio.timeout(LIMIT):
        for _ in tasks:
            await begun.acquire()
    await asyncio.sleep(0.2)
    name = min(await busy(client, gateway))
    await drain(client, gateway, name)
    return list(await asyncio.gather(*tasks)), name


async def drain(client: httpx.AsyncClient, gateway: Gateway, name: str) -> None:
    """Drain a worker until it is empty; then have it back."""
    began = time.monotonic()
    answer = await client.post(f"{gateway.url}/admin/workers/{name}/drain")
    assert answer.status_code == 202, answer.text
    async with asyncio.timeout(LIMIT):
        while name in await busy(client, gateway):
            await asyncio.sleep(0.05)
    assert time.monotonic() - began < 5.0, "a drain takes seconds"
    assert (await client.post(f"{gateway.url}/admin/workers/{name}/undrain")).status_code == 202
    async with asyncio.timeout(LIMIT):
        while ready_workers(gateway) < 2:
            await asyncio.sleep(0.05)


async def busy(client: httpx.AsyncClient, gateway: Gateway) -> set[str]:
    """Names of the workers that have requests."""
    fleet = (await client.get(f"{gateway.url}/admin/fleet")).json()
    return {each["name"] for pool in fleet["pools"] for each in pool["workers"] if each["inflight"]}
