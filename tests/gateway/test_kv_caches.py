from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from controller.prefix import block_hashes
from tests.gateway.harness import (
    CHAT,
    COMPLETIONS,
    HELLO,
    USAGE,
    Gateway,
    Worker,
    begin,
    configured,
    drive,
    pool,
    serving,
    until,
)
from tests.upstream.kv_publisher import Publisher, packed, removed, stored
from tests.upstream.servers import Exchange
from upstream import sse

BLOCK = 32
LONG = "".join(f"{number:5}" for number in range(200))
"""A thousand characters: three whole blocks of text."""


class Engine:
    """A server that publishes: it takes characters for tokens, and stores all of every prompt."""

    def __init__(self) -> None:
        self.publisher = Publisher()
        self.worker = Worker(self)

    @staticmethod
    def names(prompt: str) -> list[int]:
        return [hash(prompt[:end]) & (1 << 64) - 1 for end in range(BLOCK, len(prompt) + 1, BLOCK)]

    async def __call__(self, exchange: Exchange) -> None:
        asked = exchange.json
        prompt = asked["prompt"] if isinstance(asked.get("prompt"), str) else json.dumps(asked)
        await self.store(prompt, exchange.headers.get("x-session-id"))
        usage = {**USAGE, "prompt_tokens": len(prompt)}
        if not asked.get("stream"):
            await exchange.reply_json({"choices": [{"text": "abc"}], "usage": usage})
            return
        await begin(exchange)
        await exchange.chunk(b'data: {"choices": [{"index": 0, "text": "abc"}]}\n\n')
        await exchange.chunk(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        await exchange.chunk(b"data: " + sse.DONE + b"\n\n")
        await exchange.end()

    async def store(self, prompt: str, session: str | None = None) -> None:
        names = self.names(prompt)
        if not names:
            return
        tokens = [ord(letter) for letter in prompt[: BLOCK * len(names)]]
        await self.publisher.publish(packed(stored(names, None, tokens, session_id=session)))

    async def give_up(self, prompt: str) -> None:
        await self.publisher.publish(packed(removed(*self.names(prompt))))

    @property
    def sessions(self) -> list[str | None]:
        return [exchange.headers.get("x-session-id") for exchange in self.worker.asked_for]

    def listed(self, **more: Any) -> dict[str, Any]:
        kv_events = {"endpoint": self.publisher.events, "replay_endpoint": self.publisher.replay}
        return {"url": self.worker.url, "kv_events": kv_events, **more}


def fleet(*workers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**pool("p", **more), "workers": list(workers)}


def scenario(count: int, told: Callable[..., Awaitable[None]], **settings: Any) -> None:
    """A pool of so many engines that are listened to; ``told`` gets the gateway and the engines."""
    of_pool = {key: settings.pop(key) for key in ("modalities", "adapters", "tasks") if key in settings}

    async def run() -> None:
        async with AsyncExitStack() as stack:
            engines = [Engine() for _ in range(count)]
            for engine in engines:
                await stack.enter_async_context(engine.worker)
                stack.push_async_callback(engine.publisher.close)
            listed = fleet(*(engine.listed() for engine in engines), **of_pool)
            async with serving(configured(listed, **settings)) as gateway:
                await heard(gateway, count)
                await told(gateway, *engines)

    drive(run)


async def heard(gateway: Gateway, count: int) -> None:
    runtime = gateway.app.runtime
    await until(lambda: runtime.ready_workers() == {"p": count})
    cached = runtime.caches.of("p")
    assert cached is not None
    await until(lambda: all(cached.whole(f"p-{number}") for number in range(count)))


def blocks(gateway: Gateway, prompt: str, adapter: str | None = None) -> dict[str, int]:
    cached = gateway.app.runtime.caches.of("p")
    assert cached is not None
    return cached.matches_blocks(block_hashes(prompt), adapter=adapter)


def completion(prompt: Any = LONG, **more: Any) -> dict[str, Any]:
    return {"model": "p", "prompt": prompt, **more}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_tokens_behind_a_text_are_learned_from_the_request_that_was_sent(stream: bool) -> None:
    async def told(gateway: Gateway, engine: Engine) -> None:
        async with await gateway.post(completion(stream=stream), COMPLETIONS) as response:
            await response.body()
            ticket = (response.header(b"x-headway-ticket") or b"").decode()
            (named,) = engine.sessions
            assert named.endswith(f"-{ticket}")
            assert len(named) > len(ticket) + 16, "a client must not be able to guess another's"
        await until(lambda: blocks(gateway, LONG) == {"p-0": 3})
        assert blocks(gateway, LONG[:600] + "something else") == {"p-0": 2}
        await engine.give_up(LONG)
        await until(lambda: blocks(gateway, LONG) == {})

    scenario(1, told)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (completion(n=2), COMPLETIONS),
        (completion([LONG, LONG]), COMPLETIONS),
        (completion([1, 2, 3] * 300), COMPLETIONS),
        (completion("short"), COMPLETIONS),
        (completion(session_id="mine"), COMPLETIONS),
        (completion(vllm_xargs={"session_id": "mine"}), COMPLETIONS),
        ({**HELLO, "messages": [{"role": "user", "content": [{"type": "text", "text": LONG}, IMAGE]}]}, CHAT),
        ({"model": "p", "input": LONG}, "/v1/embeddings"),
    ],
    ids=["n", "prompts", "tokens", "short", "own session", "own session inside", "image", "embedding"],
)
def test_what_cannot_be_told_by_its_text_alone_is_not_asked_after(body: dict[str, Any], path: str) -> None:
    async def told(gateway: Gateway, engine: Engine) -> None:
        assert (await gateway.ask(body, path))[0] == 200
        assert engine.sessions == [None]

    scenario(1, told, modalities=["image"], tasks=["generate", "embed"])


def test_a_session_that_a_client_names_is_its_own() -> None:
    async def told(gateway: Gateway, engine: Engine) -> None:
        assert (await gateway.ask(completion(), COMPLETIONS, {"X-Session-ID": "mine"}))[0] == 200
        assert engine.sessions == ["mine"]
        assert blocks(gateway, LONG) == {}

    scenario(1, told)


def test_an_adapters_blocks_are_not_its_models() -> None:
    async def told(gateway: Gateway, engine: Engine) -> None:
        assert (await gateway.ask({**completion(), "model": "lora"}, COMPLETIONS))[0] == 200
        await until(lambda: blocks(gateway, LONG, "lora") == {"p-0": 3})
        assert blocks(gateway, LONG) == {}

    scenario(1, told, adapters=["lora"])


@pytest.mark.parametrize("place", ["prefix", "d2lpm"])
def test_requests_go_where_their_prompt_is_not_where_it_was(place: str) -> None:
    async def told(gateway: Gateway, one: Engine, two: Engine) -> None:
        async with await gateway.post(completion(), COMPLETIONS) as response:
            await response.body()
            first = (response.header(b"x-headway-worker") or b"").decode()
        there, elsewhere = (one, two) if first == "p-0" else (two, one)
        await until(lambda: blocks(gateway, LONG) == {first: 3})
        await there.give_up(LONG)
        await elsewhere.store(LONG)
        await until(lambda: first not in blocks(gateway, LONG) and len(blocks(gateway, LONG)) == 1)
        for _ in range(3):
            assert (await gateway.ask(completion(), COMPLETIONS))[0] == 200
        assert (len(there.sessions), len(elsewhere.sessions)) == (1, 3)

    scenario(2, told, stages={"place": place})


def test_workers_are_listened_to_as_the_configuration_says_when_it_is_read_again() -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            engine = Engine()
            stack.push_async_callback(engine.publisher.close)
            await stack.enter_async_context(engine.worker)
            silent, heard_of = configured(fleet({"url": engine.worker.url})), configured(fleet(engine.listed()))
            now = [silent]
            async with serving(silent, load=lambda: now[0]) as gateway:
                runtime = gateway.app.runtime
                await until(lambda: runtime.ready_workers() == {"p": 1})
                assert runtime.relay.caches is None
                assert (await gateway.ask(completion(), COMPLETIONS))[0] == 200
                assert "headway_kv" not in await gateway.page()
                now[0] = heard_of
                assert await runtime.reload() == ("pools",)
                await heard(gateway, 1)
                assert (await gateway.ask(completion(), COMPLETIONS))[0] == 200
                await until(lambda: blocks(gateway, LONG) == {"p-0": 3})
                page = await gateway.page()
                assert 'headway_kv_messages_total{worker="p-0"} 2.0' in page
                assert 'headway_kv_gaps_total{worker="p-0"} 0.0' in page
                assert await runtime.reload() == ()
                assert blocks(gateway, LONG) == {"p-0": 3}, "it goes on as it was"
                now[0] = silent
                await runtime.reload()
                assert runtime.relay.caches is None
                assert blocks(gateway, LONG) == {}
                assert (await gateway.ask(completion(), COMPLETIONS))[0] == 200
            assert [session is None for session in engine.sessions] == [True, False, True]

    drive(run)


def test_a_worker_that_leaves_is_forgotten() -> None:
    async def told(gateway: Gateway, one: Engine, two: Engine) -> None:
        await one.store(LONG)
        runtime, cached = gateway.app.runtime, gateway.app.runtime.caches.of("p")
        assert cached is not None
        tokens = [ord(letter) for letter in LONG]
        await until(lambda: "p-0" in cached.matches(tokens))
        runtime.roster.remove("p-0")
        assert cached.matches(tokens) == {}
        assert set(runtime.caches.stats()) == {"p-1"}
        runtime.roster.remove("p-1")
        assert runtime.relay.caches is None

    scenario(2, told)


def test_the_operator_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zmq.asyncio", None)

    async def run() -> None:
        engine = Engine()
        async with engine.worker, serving(configured(fleet(engine.listed()))) as gateway:
            await until(lambda: bool(gateway.app.runtime.caches.errors()))
            ((worker,),) = [pool["workers"] for pool in (await gateway.get("/admin/fleet"))["pools"]]
            assert "install headway[kv-events]" in worker["kv_events_error"]
            assert (await gateway.ask(completion(), COMPLETIONS))[0] == 200
            assert 'headway_kv_failures_total{worker="p-0"} 1.0' in await gateway.page()
        await engine.publisher.close()

    drive(run)


def test_a_gateway_without_such_workers_needs_none_of_it() -> None:
    code = "import sys, gateway.application; sys.exit(bool({'zmq', 'msgspec'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
