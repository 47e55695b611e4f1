from __future__ import annotations

import asyncio
import json
from typing import Any

from controller.types import Usage
from gateway.bulk import HELD
from tests.gateway.harness import Gateway, Worker, configured, drive, pool, serving, until
from tests.upstream.servers import Exchange
from upstream.errors import UpstreamError

ASK = {"model": "auto", "input": ["a"] * 99}
USAGE = {"prompt_tokens": 7, "total_tokens": 7}


def vectors(size: int) -> bytes:
    """An answer of embeddings of about so many bytes."""
    vector = [0.12345678] * (size // 12)
    return json.dumps({"data": [{"embedding": vector}], "model": "p-model", "usage": USAGE}).encode()


SHORT, LONG = vectors(HELD // 4), vectors(3 * HELD)


def with_embedder(answer: Any, scenario: Any, workers: int = 1) -> None:
    async def run() -> None:
        async with Worker(answer) as one, Worker(answer) as two:
            able = (one, two)[:workers]
            async with serving(configured(pool("p", *able, tasks=["embed"]))) as gateway:
                await scenario(gateway, able)

    drive(run)


async def usage_of_last(gateway: Gateway) -> Usage | None:
    await gateway.quiet()
    return gateway.app.runtime.plane.records.recent(1)[0].usage


def test_short_and_long_answers_arrive_as_they_were_sent_and_are_counted() -> None:
    async def answer(exchange: Exchange) -> None:
        body = LONG if len(exchange.json["input"]) > 1 else SHORT
        await exchange.head(200, "content-type: application/json")
        for start in range(0, len(body), 300_000):
            await exchange.chunk(body[start : start + 300_000])
        await exchange.end()

    async def scenario(gateway: Gateway, workers: tuple[Worker, ...]) -> None:
        for given, body in ((["a"], SHORT), (["a", "b"], LONG)):
            async with await gateway.post({"model": "auto", "input": given}, "/v1/embeddings") as response:
                framed = response.header(b"content-length")
                assert await response.body() == body
            assert framed == (str(len(body)).encode() if body is SHORT else None)
            assert await usage_of_last(gateway) == Usage(7, 0)

    with_embedder(answer, scenario)


def test_a_worker_that_dies_in_a_short_answer_is_replaced_unseen() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.head(200, "content-type: application/json")
        await exchange.chunk(SHORT[:1000])
        if not served:
            served.append(exchange)
            exchange.kill()
            return
        await exchange.chunk(SHORT[1000:])
        await exchange.end()

    served: list[Exchange] = []

    async def scenario(gateway: Gateway, workers: tuple[Worker, ...]) -> None:
        assert await gateway.ask(ASK, "/v1/embeddings") == (200, SHORT)
        assert sum(len(worker.asked_for) for worker in workers) == 2

    with_embedder(answer, scenario, workers=2)


def test_a_worker_that_dies_in_a_long_answer_ends_the_clients_connection() -> None:
    go = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.head(200, "content-type: application/json")
        await exchange.chunk(LONG[: 2 * HELD])
        await go.wait()
        exchange.kill()

    async def scenario(gateway: Gateway, workers: tuple[Worker, ...]) -> None:
        async with await gateway.post(ASK, "/v1/embeddings") as response:
            go.set()
            try:
                body = await response.body()
            except UpstreamError:
                body = b""
            assert body == b"", "an answer that broke off must not look whole"
        await gateway.quiet()
        assert gateway.app.runtime.plane.records.recent(1)[0].result == "failed"
        assert len(workers[0].asked_for) == 1

    with_embedder(answer, scenario)


def test_a_client_that_leaves_a_long_answer_closes_the_workers_connection() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.head(200, "content-type: application/json")
        await exchange.chunk(LONG[: 2 * HELD])
        await exchange.client_left()

    async def scenario(gateway: Gateway, workers: tuple[Worker, ...]) -> None:
        async with await gateway.post(ASK, "/v1/embeddings") as response:
            assert await response.read()
        exchange = await workers[0].request()
        await until(exchange.gone.is_set)
        await gateway.quiet()

    with_embedder(answer, scenario)


def test_the_workers_own_refusal_passes() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply_json({"error": {"message": "too long", "code": 400}}, 400)

    async def scenario(gateway: Gateway, workers: tuple[Worker, ...]) -> None:
        status, raw = await gateway.ask(ASK, "/v1/embeddings")
        assert (status, json.loads(raw)["error"]["message"]) == (400, "too long")
        await gateway.quiet()
        assert gateway.app.runtime.plane.records.recent(1)[0].code == "status_400"

    with_embedder(answer, scenario)
