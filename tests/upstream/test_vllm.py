from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from tests.upstream.servers import Exchange, Server
from tests.upstream.test_metrics import PAGE
from upstream.client import Client
from upstream.errors import ConnectError, ProtocolError, UnexpectedStatus
from upstream.vllm import ModelCard, Tokenized, VllmClient

T = TypeVar("T")


async def worker(exchange: Exchange) -> None:
    answers: dict[str, object] = {
        "/version": {"version": "0.32.0"},
        "/v1/models": {"object": "list", "data": [{"id": "m8b", "max_model_len": 4096}, {"id": "lora"}]},
        "/tokenize": {"count": 2, "max_model_len": 4096, "tokens": [5, 6]},
    }
    if exchange.path == "/metrics":
        await exchange.reply(PAGE.encode())
    elif exchange.path == "/health":
        await exchange.reply(b"")
    else:
        await exchange.reply_json(answers[exchange.path])


def ask(handler: Callable[[Exchange], Awaitable[None]], question: Callable[[VllmClient], Awaitable[T]]) -> T:
    async def main() -> T:
        async with Server(handler) as server, Client() as client:
            return await question(VllmClient(client, server.url + "/"))

    return asyncio.run(main())


def test_every_endpoint_is_read() -> None:
    async def everything(vllm: VllmClient) -> tuple[object, ...]:
        return (
            await vllm.health(),
            (await vllm.metrics()).running,
            await vllm.models(),
            await vllm.version(),
            await vllm.tokenize("m8b", prompt="a b"),
        )

    assert ask(worker, everything) == (
        True,
        5,
        (ModelCard("m8b", 4096), ModelCard("lora", None)),
        "0.32.0",
        Tokenized(2, 4096, (5, 6)),
    )


def test_a_dead_engine_is_unhealthy_and_no_error() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.reply(b"", 503)

    assert ask(handler, VllmClient.health) is False


def test_a_server_that_has_no_such_endpoint() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.reply_json({"detail": "Not Found"}, 404)

    with pytest.raises(UnexpectedStatus, match="answered 404"):
        ask(handler, VllmClient.version)
    with pytest.raises(UnexpectedStatus):
        ask(handler, VllmClient.health)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": 1, "version": 2}', b'{"data": [{}]}'])
def test_an_answer_of_another_form(body: bytes) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.reply(body)

    for question in (VllmClient.models, VllmClient.version, lambda v: v.tokenize("m", prompt="x")):
        with pytest.raises(ProtocolError):
            ask(handler, question)


def test_an_unreachable_server_is_an_error_not_an_answer() -> None:
    async def main() -> None:
        async with Server(worker) as server, Client() as client:
            await server.stop()
            with pytest.raises(ConnectError):
                await VllmClient(client, server.url).health()

    asyncio.run(main())


def test_tokenize_wants_exactly_one_kind_of_prompt() -> None:
    with pytest.raises(ValueError, match="either"):
        ask(worker, lambda v: v.tokenize("m"))


def test_sleep_and_wake_are_asked_as_vllm_has_them() -> None:
    asked: list[tuple[str, str]] = []

    async def handler(exchange: Exchange) -> None:
        asked.append((exchange.method, exchange.path))
        await exchange.reply_json({"is_sleeping": len(asked) == 2})

    async def night(vllm: VllmClient) -> tuple[bool, bool]:
        await vllm.sleep(2)
        before = await vllm.asleep()
        await vllm.wake()
        return before, await vllm.asleep()

    assert ask(handler, night) == (True, False)
    assert asked == [
        ("POST", "/sleep?level=2&mode=abort"),
        ("GET", "/is_sleeping"),
        ("POST", "/wake_up"),
        ("GET", "/is_sleeping"),
    ]
