"""Chat and completions through the gateway are what the servers themselves would have said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from envs.engines.vllm_process import VllmProcess
from tests.live.fleet import MODEL, POOL, Answer, Gateway, body, stream, visible_tokens, whole

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is 12 + 30? Give only the answer."}],
        "max_tokens": 24,
        "temperature": 0,
        "allowed_token_ids": visible_tokens(),
    },
    COMPLETIONS: body("The capital of France is", 24),
}
LAST = {"system_fingerprint"}
"""vLLM writes it into the last event, which is the one with the usage where the gateway has asked for that."""
paths = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])


def with_client(main: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with httpx.AsyncClient() as client:
            await main(client)

    asyncio.run(run())


def text_of(answer: dict[str, Any]) -> str:
    choice = answer["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def shapes(answer: Answer) -> set[frozenset[str]]:
    """The kinds of events by their keys. (Their number varies: vLLM sends two tokens as one event when it is busy.)"""
    choices = {frozenset(choice) for event in answer.events for choice in event["choices"]}
    return choices | {frozenset(event) - LAST for event in answer.events}


def opening(answer: Answer) -> list[dict[str, Any]]:
    """The first event's choices but for their text, which may be of two tokens."""
    return [{key: value for key, value in choice.items() if key != "text"} for choice in answer.events[0]["choices"]]


@paths
def test_a_whole_answer_is_the_servers_own(gateway: Gateway, workers: list[VllmProcess], path: str) -> None:
    async def main(client: httpx.AsyncClient) -> None:
        direct = await whole(client, workers[0].url, ASKED[path], path)
        relayed = await whole(client, gateway.url, ASKED[path], path)
        assert text_of(relayed) == text_of(direct) != ""
        assert relayed.keys() == direct.keys()
        assert (relayed["model"], relayed["usage"]) == (MODEL, direct["usage"])

    with_client(main)


@paths
def test_a_stream_has_the_servers_own_events(gateway: Gateway, workers: list[VllmProcess], path: str) -> None:
    async def main(client: httpx.AsyncClient) -> None:
        direct = await stream(client, workers[0].url, ASKED[path], path=path)
        relayed = await stream(client, gateway.url, ASKED[path], path=path)
        assert relayed.done
        assert relayed.text == direct.text == text_of(await whole(client, gateway.url, ASKED[path], path))
        assert shapes(relayed) == shapes(direct)
        assert not any(event.get("usage") for event in relayed.events), "usage nobody asked for"
        assert opening(relayed) == opening(direct)
        assert relayed.events[-1]["choices"][0]["finish_reason"] == direct.events[-1]["choices"][0]["finish_reason"]

    with_client(main)


@paths
def test_usage_is_streamed_to_who_asks_for_it(gateway: Gateway, path: str) -> None:
    async def main(client: httpx.AsyncClient) -> None:
        asked = {**ASKED[path], "stream_options": {"include_usage": True}}
        relayed = await stream(client, gateway.url, asked, path=path)
        answer = await whole(client, gateway.url, ASKED[path], path)
        for count in ("prompt_tokens", "completion_tokens"):
            assert relayed.usage[count] == answer["usage"][count] > 0

    with_client(main)


def test_unknown_fields_pass_through(gateway: Gateway) -> None:
    async def main(client: httpx.AsyncClient) -> None:
        asked = body("One, two,", 4, return_token_ids=True)
        choice = (await whole(client, gateway.url, asked, COMPLETIONS))["choices"][0]
        assert len(choice["token_ids"]) == 4

    with_client(main)


@pytest.mark.parametrize("name", ["auto", POOL])
def test_an_alias_and_a_pool_name_reach_the_model(gateway: Gateway, name: str) -> None:
    async def main(client: httpx.AsyncClient) -> None:
        asked = {**ASKED[COMPLETIONS], "model": name}
        assert (await whole(client, gateway.url, asked, COMPLETIONS))["model"] == MODEL
        assert {e["model"] for e in (await stream(client, gateway.url, asked)).events} == {MODEL}

    with_client(main)


def test_both_servers_are_used(gateway: Gateway) -> None:
    async def main(client: httpx.AsyncClient) -> None:
        asked = [stream(client, gateway.url, body(f"Count to {i}:", 16)) for i in range(6)]
        answers = await asyncio.gather(*asked)
        assert all(answer.done for answer in answers)
        assert len({answer.worker for answer in answers}) == 2

    with_client(main)


def test_what_a_server_refuses_is_passed_on(gateway: Gateway) -> None:
    async def main(client: httpx.AsyncClient) -> None:
        for asked, status in (
            ({**ASKED[CHAT], "temperature": -3}, 400),
            ({**ASKED[CHAT], "model": "gpt-17"}, 404),
            ({**ASKED[CHAT], "messages": [{"role": "user", "content": "word " * 9000}]}, 400),
        ):
            answer = await client.post(gateway.url + CHAT, json=asked, timeout=60)
            assert answer.status_code == status, answer.text
            assert answer.json()["error"]["message"]
        bad = await client.post(gateway.url + CHAT, content=b'{"model": ', timeout=60)
        assert bad.status_code == 400
        assert bad.json()["error"]["type"] == "invalid_request_error"

    with_client(main)
