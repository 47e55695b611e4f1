from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tests.upstream.servers import Exchange, Server
from upstream.chat import Exchange as Asked
from upstream.chat import ask
from upstream.client import Client

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def _event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"model": "m-1", **fields}).encode() + b"\n\n"


def _delta(text: str, finish: str | None = None) -> Mapping[str, Any]:
    return {"index": 0, "delta": {"content": text}, "finish_reason": finish}


def _asked(handler: Callable[[Exchange], Awaitable[None]], path: str = "/v1/chat/completions") -> tuple[Asked, Any]:
    async def run() -> tuple[Asked, Any]:
        async with Server(handler) as server, Client() as client:
            asked = await ask(client, server.url + path, BODY, headers=[(b"x-one", b"1")])
            return asked, server.exchanges[0]

    return asyncio.run(run())


def test_a_stream_is_read_to_its_end_whatever_its_chunks() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.head(200, "x-request-id: r1")
        whole = (
            _event(choices=[_delta("")])
            + _event(choices=[_delta("Hel")])
            + b": keep-alive\n\n"
            + _event(choices=[_delta("lo", "stop")])
            + _event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
            + b"data: [DONE]\n\n"
        )
        for start in range(0, len(whole), 37):
            await exchange.chunk(whole[start : start + 37])
        await exchange.end()

    asked, seen = _asked(handler)
    assert (asked.status, asked.text, asked.finish_reason, asked.error) == (200, "Hello", "stop", None)
    assert (asked.prompt_tokens, asked.output_tokens, asked.model) == (3, 2, "m-1")
    assert asked.headers["x-request-id"] == "r1"
    assert asked.ttft is not None
    assert 0 <= asked.ttft <= asked.e2e
    assert seen.json == {**BODY, "stream": True, "stream_options": {"include_usage": True}}
    assert seen.headers["x-one"] == "1"


def test_completions_carry_text_instead_of_deltas() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(_event(choices=[{"index": 0, "text": "abc", "finish_reason": "length"}]))
        await exchange.chunk(b"data: [DONE]\n\n")
        await exchange.end()

    asked, _ = _asked(handler, "/v1/completions")
    assert (asked.text, asked.finish_reason, asked.error) == ("abc", "length", None)


def test_a_refusal_is_reported_with_the_servers_own_words() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.reply_json({"error": {"message": "too many"}}, 429)

    asked, _ = _asked(handler)
    assert (asked.status, asked.error, asked.text) == (429, "too many", "")


def test_an_error_event_ends_the_answer() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(_event(choices=[_delta("He")]) + b'data: {"error": {"message": "worker died"}}\n\n')
        await exchange.end()

    asked, _ = _asked(handler)
    assert (asked.status, asked.text, asked.error) == (200, "He", "worker died")


def test_an_answer_without_its_end_is_not_whole() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(_event(choices=[_delta("He")]))
        await exchange.end()

    asked, _ = _asked(handler)
    assert asked.error == "the stream ended without [DONE]"


def test_a_connection_that_breaks_is_data_not_an_exception() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(_event(choices=[_delta("He")]))
        exchange.kill()

    asked, _ = _asked(handler)
    assert asked.status == 200
    assert asked.error is not None
    assert asked.error.startswith("connection_lost")


def test_nobody_there_is_status_zero() -> None:
    async def run() -> Asked:
        async with Client() as client:
            return await ask(client, "http://127.0.0.1:9/v1/chat/completions", BODY)

    asked = asyncio.run(run())
    assert asked.status == 0
    assert asked.error is not None
    assert asked.error.startswith("connect_error")
