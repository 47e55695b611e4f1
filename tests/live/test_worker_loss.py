"""A server that dies under load takes nothing with it but the streams it had begun."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from envs.engines.vllm_process import VllmProcess
from tests.live.fleet import LIMIT, SEATS, Answer, Gateway, body, names, phases, ready_workers, stream, value, whole

STREAMS = 8
WHOLE = 4
TOKENS = 800
USAGE = {"stream_options": {"include_usage": True}}


async def load(client: httpx.AsyncClient, url: str, begun: asyncio.Event) -> tuple[list[Any], list[Any]]:
    """Streams and whole answers at once; ``begun`` is set when two servers' worth of streams have their first text."""
    first = 0

    def started() -> None:
        nonlocal first
        first += 1
        if first >= 2 * SEATS - 1:
            begun.set()

    streams = [stream(client, url, body(f"Tale {i}:", TOKENS, **USAGE), started=started) for i in range(STREAMS)]
    answers = [whole(client, url, body(f"Fact {i}:", TOKENS), "/v1/completions") for i in range(WHOLE)]
    results = await asyncio.gather(*streams, *answers, return_exceptions=True)
    return results[:STREAMS], results[STREAMS:]


async def until_ready(gateway: Gateway, count: int) -> None:
    async with asyncio.timeout(LIMIT):
        while ready_workers(gateway) != count:
            await asyncio.sleep(0.1)


def test_a_killed_worker_loses_no_other_request(gateway: Gateway, workers: list[VllmProcess]) -> None:
    async def main() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits) as client:
            begun = asyncio.Event()
            running = asyncio.create_task(load(client, gateway.url, begun))
            async with asyncio.timeout(LIMIT):
                await begun.wait()
            dead = workers[1]
            await asyncio.to_thread(dead.kill)
            streams, answers = await running
            judge(streams, answers)
            await until_ready(gateway, 1)
            assert phases(gateway)[dead.url] == "unhealthy"
            page = (await client.get(f"{gateway.url}/metrics")).text
            name = names(gateway)[dead.url]
            assert value(page, "headway_worker_phase", worker=name, phase="unhealthy") == 1
            assert value(page, "headway_worker_errors_total", worker=name) >= 1
            assert value(page, "headway_retries_total") >= 1
            after = await asyncio.gather(*(stream(client, gateway.url, body(f"After {i}:", 8)) for i in range(4)))
            assert all(answer.done and answer.error is None for answer in after)
            assert len({answer.worker for answer in after}) == 1

    asyncio.run(main())


def judge(streams: list[Any], answers: list[Any]) -> None:
    """Whole answers and streams that had not begun are complete; streams cut in the middle say so."""
    assert [type(answer) for answer in answers] == [dict] * WHOLE, answers
    assert {answer["usage"]["completion_tokens"] for answer in answers} == {TOKENS}
    assert [outcome(answer) for answer in streams] == [200] * STREAMS
    cut = [answer for answer in streams if answer.error is not None]
    rest = [answer for answer in streams if answer.error is None]
    assert len(cut) <= SEATS
    assert all(answer.first_at is not None for answer in cut)
    assert all(answer.done and answer.usage["completion_tokens"] == TOKENS for answer in rest)


def outcome(answer: Any) -> Any:
    """A stream's status, or what went wrong before there was a stream."""
    return answer.status if isinstance(answer, Answer) and answer.status == 200 else answer
