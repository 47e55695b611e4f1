"""Requests of every kind through a whole gateway, to pools of several tasks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.endpoints import LISTED
from tests.gateway import shapes
from tests.gateway.harness import Gateway, Worker, configured, drive, pool, serving
from tests.gateway.test_endpoints import LEAST
from tests.upstream.servers import Exchange

Scenario = Callable[[Gateway, Worker, Worker], Awaitable[None]]


async def echo(exchange: Exchange) -> None:
    """Says what it was asked for, and by whom."""
    sent = exchange.json
    await exchange.reply_json(
        {"path": exchange.path, "body": sent, "priority": exchange.headers.get("x-vllm-priority")}
    )


def with_pools(scenario: Scenario, answer: Callable[[Exchange], Awaitable[None]] = echo, **settings: Any) -> None:
    """A pool that generates, and one that does everything else."""
    others = ["embed", "score", "rerank", "classify", "pool", "transcribe"]

    async def run() -> None:
        async with (
            Worker(answer) as writer,
            Worker(answer) as reader,
            serving(
                configured(
                    pool("writer", writer, **settings),
                    pool("reader", reader, tier=1, tasks=others, context_length=100, **settings),
                )
            ) as gateway,
        ):
            await scenario(gateway, writer, reader)

    drive(run)


def test_every_endpoint_reaches_a_pool_that_can_serve_it() -> None:
    async def scenario(gateway: Gateway, writer: Worker, reader: Worker) -> None:
        for endpoint in LISTED:
            status, raw = await gateway.ask({"model": "auto", **LEAST[endpoint.path]}, endpoint.path)
            assert status == 200, raw
            answered = json.loads(raw)
            able = "reader" if endpoint.task is not None and not endpoint.generates else "writer"
            assert (answered["path"], answered["body"]["model"]) == (endpoint.path, f"{able}-model")
        for path in ("/v1/systemone", "/v1/chat/completions/render"):
            status, raw = await gateway.ask({"model": "reader", "anything": [1.50]}, path)
            assert (status, json.loads(raw)["body"]) == (200, {"model": "reader-model", "anything": [1.5]})

    with_pools(scenario)


def test_the_query_passes_too() -> None:
    async def scenario(gateway: Gateway, writer: Worker, reader: Worker) -> None:
        for path in ("/v1/messages?beta=true", "/v1/systemone?a=%20b&c=[1]"):
            body = {"model": "writer", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
            assert json.loads((await gateway.ask(body, path))[1])["path"] == path

    with_pools(scenario)


def test_the_priority_is_in_the_body_only_where_the_endpoint_has_one() -> None:
    async def scenario(gateway: Gateway, writer: Worker, reader: Worker) -> None:
        for endpoint in LISTED:
            body = {"model": "auto", **LEAST[endpoint.path], "priority": 7}
            answered = json.loads((await gateway.ask(body, endpoint.path))[1])
            assert answered["priority"] is not None
            assert ("priority" in answered["body"]) is endpoint.takes_priority, endpoint.path

    with_pools(scenario, priority_scheduling=True)


def test_the_wrong_task_names_the_model_that_has_it() -> None:
    async def scenario(gateway: Gateway, writer: Worker, reader: Worker) -> None:
        status, error = await gateway.error({"model": "writer", "input": "a"}, "/v1/embeddings")
        assert (status, error["code"], error["param"]) == (404, "task_not_supported", "model")
        assert "reader-model" in error["message"]
        status, error = await gateway.error({"model": "reader", "messages": [{"role": "user", "content": "a"}]})
        assert (status, error["code"]) == (404, "task_not_supported")
        assert writer.asked_for == reader.asked_for == []

    with_pools(scenario)


def test_a_batch_is_too_long_only_if_one_of_its_inputs_is() -> None:
    async def scenario(gateway: Gateway, writer: Worker, reader: Worker) -> None:
        several = {"model": "auto", "input": ["word " * 20] * 50}
        assert (await gateway.ask(several, "/v1/embeddings"))[0] == 200
        one = {"model": "auto", "input": ["word " * 1000, "a"]}
        assert (await gateway.error(one, "/v1/embeddings"))[1]["code"] == "context_length_exceeded"
        assert (await gateway.ask({**one, "truncate_prompt_tokens": 100}, "/v1/embeddings"))[0] == 200

    with_pools(scenario)


def test_what_does_not_generate_waits_in_bounds_and_leaves_when_its_client_does() -> None:
    go = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await go.wait()
        await shapes.vllm(exchange)

    async def scenario(gateway: Gateway, writer: Worker, reader: Worker) -> None:
        ask = {"model": "auto", "input": "a"}
        running = asyncio.create_task(gateway.ask(ask, "/v1/embeddings"))
        await reader.request()
        waiting = asyncio.create_task(gateway.ask(ask, "/v1/embeddings"))
        other = asyncio.create_task(gateway.ask({"model": "auto", "prompt": "a"}, "/tokenize"))
        await writer.request()
        waiting.cancel()
        go.set()
        assert [status for status, _ in await asyncio.gather(running, other)] == [200, 200]
        await gateway.quiet()
        assert len(reader.asked_for) == 1

    with_pools(scenario, slow, max_inflight=1)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/messages", "/v1/responses", "/v1/completions"])
def test_what_an_answer_cost_reaches_the_metrics(path: str) -> None:
    async def scenario(gateway: Gateway, writer: Worker, reader: Worker) -> None:
        status, _ = await gateway.ask({"model": "auto", **LEAST[path]}, path)
        assert status == 200
        name = "reader" if path in ("/v1/embeddings", "/v1/rerank") else "writer"
        assert f'headway_tokens_total{{kind="prompt",pool="{name}"}} 7.0' in await gateway.page()

    with_pools(scenario, shapes.vllm)
