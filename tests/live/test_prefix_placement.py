"""Conversations land where their beginning is cached: real servers find more of it than they do by turns."""

from __future__ import annotations

import asyncio
import json
import os
import random
import string
from collections.abc import Iterator, Sequence

import httpx
import pytest

from envs.engines.vllm_process import VllmOptions, VllmProcess, free_port
from envs.ladder.shapes import CONTEXT, shipped
from tests.live.fleet import LIMIT, MODEL, QUICK, SEATS, Gateway, gateway_running, names, value
from upstream.kv_events_types import KvEndpoints

BLOCK = 32
"""Tokens to a block."""
SESSIONS, TURNS = 5, 4
"""An odd number of conversations, so that turns about would send each of them to both servers."""
OPENING, TURN = 300, 60
"""Characters that a conversation begins with, and that each turn adds."""
HITS = "vllm:prefix_cache_hits_total"


@pytest.fixture(scope="module")
def endpoints() -> list[KvEndpoints]:
    return [KvEndpoints(_free_endpoint(), _free_endpoint(), "kv") for _ in range(2)]


def _free_endpoint() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def servers(endpoints: Sequence[KvEndpoints], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[VllmProcess]]:
    """Two that publish what they cache, and can be told to forget it."""
    logs, started = tmp_path_factory.mktemp("vllm"), []
    for number, each in enumerate(endpoints):
        config = {"enable_kv_cache_events": True, "publisher": "zmq", "topic": each.topic}
        config |= {"endpoint": each.events.replace("127.0.0.1", "*"), "replay_endpoint": each.replay}
        extra = "--enable-prefix-caching", "--block-size", str(BLOCK), "--kv-events-config", json.dumps(config)
        options = VllmOptions(
            shipped(MODEL), MODEL, free_port(), max_num_seqs=SEATS, max_model_len=CONTEXT, threads=1, extra=extra
        )
        started.append(VllmProcess.start(options, logs / f"{number}.log", {**os.environ, "VLLM_SERVER_DEV_MODE": "1"}))
    try:
        yield [server.wait_ready(420) for server in started]
    finally:
        for server in started:
            server.stop()


def conversation(policy: str, session: int) -> list[str]:
    """The prompts of its turns, each with all that came before. Nothing is shared with another conversation."""
    chance = random.Random(f"{policy} {session}")
    words = "".join(chance.choices(string.ascii_lowercase + "     ", k=OPENING + TURN * TURNS))
    return [words[: OPENING + TURN * turn] for turn in range(1, TURNS + 1)]


async def talk(gateway: Gateway, servers: Sequence[VllmProcess], policy: str) -> tuple[float, list[set[str]]]:
    """All conversations, a turn of each at a time: tokens found cached, and where each conversation was served."""
    async with httpx.AsyncClient() as client:
        before = await hits(client, servers)
        texts = [conversation(policy, session) for session in range(SESSIONS)]
        where: list[set[str]] = [set() for _ in texts]
        for turn in range(TURNS):
            for session, prompts in enumerate(texts):
                where[session].add(await ask(client, gateway.url, prompts[turn]))
        return await hits(client, servers) - before, where


async def ask(client: httpx.AsyncClient, url: str, prompt: str) -> str:
    """The worker that answered, if it was the gateway that was asked."""
    payload = {"model": MODEL, "prompt": prompt, "max_tokens": 2, "temperature": 0}
    answer = await client.post(f"{url}/v1/completions", json=payload, timeout=LIMIT)
    assert answer.status_code == 200, answer.text
    return str(answer.headers.get("x-headway-worker", ""))


def listen(monkeypatch: pytest.MonkeyPatch, endpoints: Sequence[KvEndpoints]) -> None:
    """From now on gateways listen to both servers."""
    for number, each in enumerate(endpoints):
        key = f"HEADWAY_POOLS__0__WORKERS__{number}__KV_EVENTS"
        monkeypatch.setenv(f"{key}__ENDPOINT", each.events)
        monkeypatch.setenv(f"{key}__REPLAY_ENDPOINT", str(each.replay))
        monkeypatch.setenv(f"{key}__TOPIC", each.topic)


async def hits(client: httpx.AsyncClient, servers: Sequence[VllmProcess]) -> float:
    """Prompt tokens that the servers have found cached so far."""
    return sum([value((await client.get(f"{server.url}/metrics")).text, HITS) for server in servers])


def test_conversations_stay_where_they_are_cached(
    servers: list[VllmProcess],
    endpoints: list[KvEndpoints],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    urls = {QUICK: [server.url for server in servers]}

    def served(policy: str, place: str) -> tuple[float, list[set[str]], str]:
        monkeypatch.setenv("HEADWAY_STAGES__PLACE", place)
        with gateway_running(urls, tmp_path_factory.mktemp(policy)) as gateway:
            found, where = asyncio.run(talk(gateway, servers, policy))
            return found, where, httpx.get(f"{gateway.url}/metrics").text

    by_turns, spread, _ = served("by turns", "round_robin")
    guessed, stayed, page = served("guessed", "prefix")
    assert "headway_kv_" not in page
    listen(monkeypatch, endpoints)
    known, stayed_too, page = served("known", "prefix")
    assert all(len(workers) == 2 for workers in spread)
    assert all(len(workers) == 1 for workers in stayed + stayed_too), (stayed, stayed_too)
    assert len(set.union(*stayed)) == len(set.union(*stayed_too)) == 2, "both servers have conversations"
    assert min(guessed, known) > 1.3 * by_turns, f"tokens found cached: {by_turns}, {guessed} and {known}"
    assert value(page, "headway_kv_messages_total") > 0
    for lost in ("unknown", "malformed", "gaps", "resets", "failures"):
        assert value(page, f"headway_kv_{lost}_total") == 0, page


def test_a_conversation_goes_where_it_is_cached_now_and_not_where_it_was_sent(
    servers: list[VllmProcess],
    endpoints: list[KvEndpoints],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server that it was sent to forgets it, and the other one learns it from somebody else."""
    monkeypatch.setenv("HEADWAY_STAGES__PLACE", "prefix")
    listen(monkeypatch, endpoints)
    prompts = conversation("moved", 0)

    async def main(gateway: Gateway) -> None:
        async with httpx.AsyncClient() as client:
            urls = {name: url for url, name in names(gateway).items()}
            first = await ask(client, gateway.url, prompts[0])
            assert await ask(client, gateway.url, prompts[1]) == first
            (other,) = urls.keys() - {first}
            reset = await client.post(f"{urls[first]}/reset_prefix_cache")
            assert reset.status_code == 200, reset.text
            await ask(client, urls[first], conversation("something else", 0)[0])
            await ask(client, urls[other], prompts[1])
            await asyncio.sleep(1.0)  # events come at the end of a step
            assert await ask(client, gateway.url, prompts[2]) == other

    with gateway_running({QUICK: [server.url for server in servers]}, tmp_path_factory.mktemp("moved")) as gateway:
        asyncio.run(main(gateway))
