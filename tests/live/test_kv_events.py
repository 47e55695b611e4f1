"""What the gateway believes of a real server's prefix cache is what the server finds there."""

from __future__ import annotations

import asyncio
import json
import os
import random
import string
from collections.abc import Callable, Iterator

import httpx
import pytest

from controller.caches.map import CacheMap
from controller.prefix import BLOCK_CHARS, block_hashes
from envs.engines.vllm_process import VllmOptions, VllmProcess, free_port
from envs.ladder.shapes import CONTEXT, shipped
from gateway.kv_watch import CacheFeed, KvWatch
from tests.live.fleet import LIMIT, MODEL, SEATS, whole
from upstream.client import Client
from upstream.kv_events_types import KvEndpoints
from upstream.vllm import VllmClient

BLOCK, BLOCKS = 32, 80
"""Tokens to a block, and blocks: hardly more than one context, so that the server has to evict."""
WORKER = "w"


@pytest.fixture(scope="module")
def endpoints() -> KvEndpoints:
    return KvEndpoints(f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}", "kv")


@pytest.fixture(scope="module")
def server(endpoints: KvEndpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmProcess]:
    """One that publishes, says in its answers how much it found cached, and can be told to forget it."""
    config = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": endpoints.events.replace("127.0.0.1", "*"),
        "replay_endpoint": endpoints.replay,
        "topic": endpoints.topic,
    }
    extra = (
        *("--kv-events-config", json.dumps(config), "--enable-prefix-caching", "--enable-prompt-tokens-details"),
        *("--block-size", str(BLOCK), "--num-gpu-blocks-override", str(BLOCKS)),
    )
    options = VllmOptions(
        shipped(MODEL), MODEL, free_port(), max_num_seqs=SEATS, max_model_len=CONTEXT, threads=1, extra=extra
    )
    log = tmp_path_factory.mktemp("vllm") / "events.log"
    started = VllmProcess.start(options, log, {**os.environ, "VLLM_SERVER_DEV_MODE": "1"})
    try:
        yield started.wait_ready(420)
    finally:
        started.stop()


class Gateway:
    """As much of a gateway as feeds the map: it sends prompts, and listens."""

    def __init__(self, server: VllmProcess, http: httpx.AsyncClient, tokenizer: VllmClient) -> None:
        self.cached, self.watch = CacheMap(), KvWatch()
        self._server, self._http, self._tokenizer = server, http, tokenizer
        self._requests = 0

    async def listen(self, endpoints: KvEndpoints) -> None:
        self.watch.add(WORKER, endpoints, CacheFeed(self.cached, WORKER))
        await until(lambda: self.watch.stats()[WORKER].connections == 1 and self.cached.whole(WORKER))

    async def send(self, prompt: str) -> tuple[int, int]:
        """Tokens that the map says are cached, and those that the server says it found."""
        self._requests += 1
        session = f"request-{self._requests}"
        tokens = (await self._tokenizer.tokenize(MODEL, prompt)).tokens
        await self.settled()
        believed = self.cached.matches(tokens).get(WORKER, 0)
        self.cached.sent(WORKER, block_hashes(prompt), len(prompt), session=session)
        fields = {"model": MODEL, "prompt": prompt, "max_tokens": 4, "temperature": 0, "session_id": session}
        usage = (await whole(self._http, self._server.url, fields, "/v1/completions"))["usage"]
        self.cached.counted(session, usage["prompt_tokens"])
        return believed, (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0

    async def settled(self) -> None:
        """Wait until the server has published what it did; it takes no longer than a step."""
        before = -1
        while before != (now := self.watch.stats()[WORKER].messages):
            before = now
            await asyncio.sleep(0.2)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not holds():
            await asyncio.sleep(0.02)


def text(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choices(string.ascii_lowercase + "     ", k=length))


def test_the_map_tells_what_a_real_server_has_cached(server: VllmProcess, endpoints: KvEndpoints) -> None:
    async def main() -> None:
        async with httpx.AsyncClient() as http, Client() as client:
            gateway = Gateway(server, http, VllmClient(client, server.url))
            await gateway.listen(endpoints)
            await the_prefix_is_found(gateway)
            await evictions_are_followed(gateway)
            await who_comes_late_is_told(gateway, endpoints)
            await a_reset_is_heard(gateway, http, server)
            stats = gateway.watch.stats()[WORKER]
            assert (stats.unknown, stats.malformed, stats.resets, stats.failures) == (0, 0, 0, 0), stats
            await gateway.watch.close()

    asyncio.run(main())


async def the_prefix_is_found(gateway: Gateway) -> None:
    """Of a second prompt, what it shares with the first: by its tokens exactly, by its text up to a block."""
    shared = text(1, 2 * BLOCK_CHARS)
    assert await gateway.send(shared + text(2, 200)) == (0, 0)
    await gateway.settled()
    second = shared + text(3, 200)
    by_text = gateway.cached.matches_text(block_hashes(second))[WORKER]
    believed, found = await gateway.send(second)
    assert believed == found > 0
    assert abs(by_text - found) <= BLOCK


async def evictions_are_followed(gateway: Gateway) -> None:
    """Prompts that share beginnings, more than fit, some of them the same and some a whole number of blocks long."""
    chance = random.Random(5)
    seen = []
    for _ in range(40):
        length = chance.choice([100, 8 * BLOCK, 300, 12 * BLOCK, 500])
        prompt = text(10 + chance.randrange(3), 3 * BLOCK) + text(20 + chance.randrange(4), length)
        seen.append(await gateway.send(prompt))
    assert all(believed == found for believed, found in seen), seen
    assert len({found for _, found in seen}) > 3, "prompts were found in part, in whole and not at all"
    assert 0 < gateway.cached.blocks(WORKER) <= BLOCKS


async def who_comes_late_is_told(gateway: Gateway, endpoints: KvEndpoints) -> None:
    """A second listener hears all from the replay, and knows the same."""
    await gateway.settled()
    late = CacheMap()
    watch = KvWatch()
    watch.add(WORKER, endpoints, CacheFeed(late, WORKER))
    await until(lambda: watch.stats()[WORKER].messages == gateway.watch.stats()[WORKER].messages)
    assert late.whole(WORKER)
    assert late.blocks(WORKER) == gateway.cached.blocks(WORKER)
    await watch.close()


async def a_reset_is_heard(gateway: Gateway, http: httpx.AsyncClient, server: VllmProcess) -> None:
    """With the engine's next step: an idle one publishes nothing."""
    kept, other = text(1, 600), text(2, 300)
    await gateway.send(kept)
    believed, found = await gateway.send(kept)
    assert believed == found > 0
    response = await http.post(f"{server.url}/reset_prefix_cache")
    assert response.status_code == 200, response.text
    await gateway.send(other)
    await gateway.settled()
    assert gateway.cached.matches_text(block_hashes(kept)) == {}
    assert gateway.cached.blocks(WORKER) <= 300 // BLOCK + 1, "only the last prompt's"
    assert await gateway.send(kept) == (0, 0)
