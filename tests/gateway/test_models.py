from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from controller.types import PoolSpec, Task
from gateway.models import cards
from gateway.worker_cards import WorkerCards
from tests.gateway.harness import Gateway, Worker, chat, configured, drive, pool, serving
from tests.upstream.servers import Exchange, Server
from upstream.client import Client
from upstream.types import Timeouts
from upstream.vllm import VllmClient

SMALL = PoolSpec("small", "org/s", 0, context_length=1000, adapters=frozenset({"bot"}))
LARGE = PoolSpec("large", "org/l", 1, context_length=4000, tasks=frozenset({Task.GENERATE, Task.EMBED}))
POOLS = {"small": SMALL, "large": LARGE}
NAMES = {
    "small": ("small",),
    "org/s": ("small",),
    "org/l": ("large",),
    "bot": ("small",),
    "auto": ("small", "large"),
}


def by_name(told: Mapping[str, Mapping[str, int]] | None = None) -> dict[str, dict[str, Any]]:
    return {card["id"]: card for card in cards(NAMES, POOLS, 7, told)}


def test_a_card_says_what_a_name_stands_for() -> None:
    found = by_name()
    assert found["auto"] == {
        "id": "auto",
        "object": "model",
        "created": 7,
        "owned_by": "headway",
        "root": None,
        "parent": None,
        "max_model_len": 4000,
        "tasks": ["embed", "generate"],
        "pools": ["small", "large"],
    }
    assert (found["small"]["root"], found["small"]["parent"]) == ("org/s", None)
    assert (found["bot"]["root"], found["bot"]["parent"]) == ("bot", "org/s")


def test_a_card_promises_no_more_than_configuration_and_worker_both_hold() -> None:
    told = {"large": {"org/l": 2000, "other": 5}, "small": {"org/s": 9999}}
    found = by_name(told)
    assert [found[name]["max_model_len"] for name in ("org/l", "org/s", "auto", "bot")] == [2000, 1000, 2000, 1000]


def test_workers_are_asked_now_and_then_and_a_silent_one_is_left_out() -> None:
    now = [0.0]

    async def answer(exchange: Exchange) -> None:
        card = {"id": "m", "object": "model", "max_model_len": len(exchanges) + 1}
        exchanges.append(exchange)
        await exchange.reply_json({"object": "list", "data": [card, {"id": "lora", "parent": "m"}]})

    async def hang(exchange: Exchange) -> None:
        await exchange.client_left()

    async def fail(exchange: Exchange) -> None:
        await exchange.reply_json({"data": [{}]})

    exchanges: list[Exchange] = []

    async def scenario() -> None:
        limits = Timeouts(connect=0.5, first_byte=0.1, idle=0.1, total=0.1)
        async with Server(answer) as good, Server(hang) as silent, Server(fail) as odd, Client() as client:
            servers = {"good": good, "silent": silent, "odd": odd}
            askers = {name: VllmClient(client, server.url, timeouts=limits) for name, server in servers.items()}
            told = WorkerCards(lambda: askers, lambda: now[0])
            assert dict(await told.contexts()) == {"good": {"m": 1}}
            await asyncio.gather(*(told.contexts() for _ in range(9)))
            assert len(exchanges) == 1
            now[0] = 31.0
            assert (await told.contexts())["good"] == {"m": 2}
            del askers["good"]
            now[0] = 62.0
            assert (await told.contexts())["good"] == {"m": 2}, "what was known stays"

    drive(scenario)


def test_the_listing_goes_by_what_the_workers_say() -> None:
    async def answer(exchange: Exchange) -> None:
        if exchange.path == "/v1/models":
            await exchange.reply_json({"object": "list", "data": [{"id": "p-model", "max_model_len": 512}]})
        else:
            await chat(exchange)

    async def scenario(gateway: Gateway) -> None:
        assert (await gateway.get("/v1/models/auto"))["max_model_len"] == 512

    async def run() -> None:
        async with Worker(answer) as worker, serving(configured(pool("p", worker))) as gateway:
            await scenario(gateway)

    drive(run)
