"""A whole gateway on a real socket, before workers that answer as their test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from controller.configuration import Configuration, parse
from controller.store import ArtifactStore
from gateway.application import GatewayApp, create_app
from gateway.server import Waits, protocol
from tests.upstream.servers import TIMEOUT, Exchange, Handler, Server
from upstream import sse
from upstream.client import Client, Response

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
METRICS = "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\nvllm:kv_cache_usage_perc 0.5\n"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


class Worker(Server):
    """A vLLM server as far as the gateway looks at it; ``answer`` handles what it is asked to generate."""

    def __init__(self, answer: Handler) -> None:
        super().__init__(self._handle)
        self.answer = answer
        self.healthy = True

    @property
    def asked_for(self) -> list[Exchange]:
        """The requests to generate."""
        return [exchange for exchange in self.exchanges if exchange.method == "POST"]

    async def request(self, count: int = 1) -> Exchange:
        """The ``count``-th request to generate, waiting for it."""
        await until(lambda: len(self.asked_for) >= count)
        return self.asked_for[count - 1]

    async def _handle(self, exchange: Exchange) -> None:
        if exchange.path == "/health":
            await exchange.reply(b"", 200 if self.healthy else 503)
        elif exchange.path == "/metrics":
            await exchange.reply(METRICS.encode())
        else:
            await self.answer(exchange)


@dataclass
class Gateway:
    """A running gateway and a client for it."""

    app: GatewayApp
    url: str
    client: Client
    tasks: set[asyncio.Task[None]]
    """What the server waits for at its end."""

    async def post(
        self, body: bytes | dict[str, Any], path: str = CHAT, headers: dict[str, str] | None = None
    ) -> Response:
        """Send a request; the answer's head is there."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = [(b"content-type", b"application/json")]
        sent += [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        return await self.client.send(b"POST", self.url + path, headers=sent, body=raw)

    async def ask(
        self, body: bytes | dict[str, Any], path: str = CHAT, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of the whole answer."""
        async with await self.post(body, path, headers) as response:
            return response.status, await response.body()

    async def error(
        self, body: bytes | dict[str, Any], path: str = CHAT, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and error object, which must be of OpenAI's shape."""
        status, raw = await self.ask(body, path, headers)
        answer = json.loads(raw)
        assert set(answer) == {"error"}, answer
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert isinstance(answer["error"]["message"], str)
        return status, answer["error"]

    async def get(self, path: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> Any:
        """The JSON at this path."""
        async with self.client.stream(b"GET", self.url + path, headers=headers) as response:
            return json.loads(await response.body())

    async def page(self) -> str:
        """The metrics page, once every ended request is in it."""
        await asyncio.sleep(0.15)
        async with self.client.stream(b"GET", self.url + "/metrics") as response:
            return (await response.body()).decode()

    async def quiet(self) -> None:
        """Wait until no request is under way."""
        await until(lambda: self.app.runtime.driver.running == 0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.002)


def pool(name: str, *workers: Worker | str, **settings: Any) -> dict[str, Any]:
    """One entry of ``pools``; its workers are servers or URLs."""
    limits = {key: settings.pop(key) for key in ("max_inflight", "priority_scheduling") if key in settings}
    listed = [{"url": worker if isinstance(worker, str) else worker.url, **limits} for worker in workers]
    return {"name": name, "model": f"{name}-model", "tier": 0, "workers": listed, **settings}


def configured(*pools: dict[str, Any], **settings: Any) -> Configuration:
    """A configuration that looks at its workers often."""
    health = {"interval_s": 0.05, "report_interval_s": 0.05, "timeout_s": 0.5}
    return parse({"pools": list(pools), "health": health, **settings})


@asynccontextmanager
async def serving(configuration: Configuration, **options: Any) -> AsyncIterator[Gateway]:
    """The gateway, until the end of the block."""
    waits = options.pop("waits", Waits())
    app = create_app(configuration, **{"store": ArtifactStore(None, None), **options})
    http = protocol(app, waits, app.runtime.clients)
    config = uvicorn.Config(app, log_level="error", http=http, lifespan="on", access_log=False)
    config.load()
    lifespan = config.lifespan_class(config)
    await lifespan.startup()
    assert not lifespan.should_exit, "the gateway did not start"
    state = ServerState()
    connection = partial(http, config=config, server_state=state, app_state=lifespan.state)
    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    try:
        async with Client() as client:
            yield Gateway(app, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", client, state.tasks)
    finally:
        server.close()
        await lifespan.shutdown()
        await asyncio.gather(*state.tasks, return_exceptions=True)


def drive(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario; it ends, or the test fails."""

    async def main() -> None:
        async with asyncio.timeout(4 * TIMEOUT):
            await scenario()

    asyncio.run(main())


def with_gateway(answer: Handler, scenario: Callable[[Gateway, Worker], Awaitable[None]], **settings: Any) -> None:
    """One pool ``p`` with one worker, and a scenario."""
    of_pool = {
        key: settings.pop(key) for key in ("max_inflight", "priority_scheduling", "context_length") if key in settings
    }

    async def run() -> None:
        async with Worker(answer) as worker, serving(configured(pool("p", worker, **of_pool), **settings)) as gateway:
            await scenario(gateway, worker)

    drive(run)


# Answers.


def event(content: str, **more: Any) -> bytes:
    """A chunk of a chat stream, as vLLM writes it."""
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "p-model"}
    return (
        b"data: "
        + json.dumps({**chunk, "choices": [{"index": 0, "delta": {"content": content}}], **more}).encode()
        + b"\n\n"
    )


def usage_event() -> bytes:
    """The chunk that vLLM adds for ``include_usage``."""
    return b"data: " + json.dumps({"id": "chatcmpl-1", "choices": [], "usage": USAGE}).encode() + b"\n\n"


DONE = b"data: " + sse.DONE + b"\n\n"
FIRST = event("a")
STREAM = FIRST + event("b") + event('c "usage" \n\n "error"') + DONE


async def chat(exchange: Exchange) -> None:
    """Answers like vLLM: a stream of three tokens, with usage only if asked for; or the same at once."""
    asked = exchange.json
    if not asked.get("stream"):
        await exchange.reply_json({"id": "chatcmpl-1", "choices": [{"message": {"content": "abc"}}], "usage": USAGE})
        return
    await begin(exchange)
    await exchange.chunk(STREAM.removesuffix(DONE))
    if (asked.get("stream_options") or {}).get("include_usage"):
        await exchange.chunk(usage_event())
    await exchange.chunk(DONE)
    await exchange.end()


async def begin(exchange: Exchange) -> None:
    """The head of a stream."""
    await exchange.head(200, "content-type: text/event-stream; charset=utf-8")


async def hold(exchange: Exchange) -> None:
    """Take the request and never answer."""
    await exchange.client_left()


def held_until(go_on: asyncio.Event) -> Handler:
    """Answers at once, but of a stream sends :data:`FIRST` and waits for the rest."""

    async def answer(exchange: Exchange) -> None:
        if not exchange.json.get("stream"):
            return await chat(exchange)
        await begin(exchange)
        await exchange.chunk(FIRST)
        await go_on.wait()
        await exchange.chunk(STREAM.removeprefix(FIRST))
        await exchange.end()
        return None

    return answer


async def hold_stream(exchange: Exchange) -> None:
    """Begin a stream and never go on."""
    await begin(exchange)
    await exchange.chunk(event("a"))
    await exchange.client_left()
