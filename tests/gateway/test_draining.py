from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

from controller.store import ArtifactStore
from gateway.application import GatewayApp, create_app
from gateway.draining import GatewayServer, bind
from gateway.server import protocol
from tests.gateway.harness import CHAT, FIRST, HELLO, STREAM, Worker, begin, chat, configured, drive, pool, until
from tests.upstream.servers import Exchange
from upstream.client import Client, Response
from upstream.errors import UpstreamError


@dataclass
class Running:
    """A gateway as ``headway serve`` runs it, in this very loop; ``end`` is what a SIGTERM does."""

    app: GatewayApp
    server: GatewayServer
    url: str
    task: asyncio.Task[None]
    client: Client = field(default_factory=Client)

    def end(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    async def post(self, **more: Any) -> Response:
        body = json.dumps({**HELLO, **more}).encode()
        headers = [(b"content-type", b"application/json")]
        return await self.client.send(b"POST", self.url + CHAT, headers=headers, body=body)

    async def status(self, path: str, client: Client | None = None) -> int:
        async with (client or self.client).stream(b"GET", self.url + path) as response:
            await response.body()
            return response.status

    async def refuses(self) -> None:
        """Wait until it listens no more."""
        async with asyncio.timeout(5):
            while True:
                try:
                    async with Client() as client:
                        await self.status("/health", client)
                except UpstreamError:
                    return
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running(
    *workers: Worker,
    grace_s: float = 30.0,
    drain_delay_s: float = 0.0,
    port: int = 0,
    shared: bool = False,
    **more: Any,
) -> AsyncIterator[Running]:
    app = create_app(configured(pool("p", *workers, **more)), store=ArtifactStore(None, None))
    config = uvicorn.Config(app, http=protocol(app), lifespan="on", log_config=None, access_log=False)
    config.load()
    sockets = bind("127.0.0.1", port, reuse_port=shared)
    server = GatewayServer(config, app.runtime, grace_s=grace_s, drain_delay_s=drain_delay_s)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets)

    async def live() -> None:
        await server.main_loop()
        await server.shutdown(sockets)

    task = asyncio.get_running_loop().create_task(live())
    here = Running(app, server, f"http://127.0.0.1:{sockets[0].getsockname()[1]}", task)
    try:
        yield here
    finally:
        if not server.should_exit:
            here.end()
        server.force_exit = True
        await task
        await here.client.close()


class Held:
    """Streams that go on when the test says so."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        if not exchange.json.get("stream"):
            return await chat(exchange)
        await begin(exchange)
        await exchange.chunk(FIRST)
        await self.go_on.wait()
        await exchange.chunk(STREAM.removeprefix(FIRST))
        await exchange.end()
        return None


def test_what_runs_and_what_waits_comes_to_its_end_and_nothing_new_is_taken() -> None:
    async def scenario() -> None:
        held = Held()
        async with Worker(held) as worker, running(worker, max_inflight=1) as gateway:
            stream = await gateway.post(stream=True)
            queued = asyncio.ensure_future(gateway.post())
            await until(lambda: gateway.app.runtime.driver.running == 2)
            gateway.end()
            await gateway.refuses()
            assert not gateway.task.done()
            held.go_on.set()
            assert await stream.body() == STREAM
            async with await queued as answer:
                assert answer.status == 200
                assert json.loads(await answer.body())["choices"]
            await gateway.task
            assert gateway.app.runtime.operator.outcomes["completed"] == 2

    drive(scenario)


def test_while_the_drain_delay_lasts_it_answers_but_is_not_ready() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker, running(worker, drain_delay_s=0.5) as gateway:
            assert await gateway.status("/ready") == 200
            gateway.end()
            assert await gateway.status("/ready") == 503
            async with gateway.client.stream(b"GET", gateway.url + "/health") as response:
                assert json.loads(await response.body())["status"] == "draining"
            async with Client() as newcomer:
                assert await gateway.status("/health", newcomer) == 200
            async with await gateway.post() as response:
                assert response.status == 200
                assert response.header(b"connection") == b"close"
            async with asyncio.timeout(5):
                await gateway.task

    drive(scenario)


def test_when_the_grace_is_over_streams_end_with_a_clear_event() -> None:
    async def scenario() -> None:
        async with Worker(Held()) as worker, running(worker, grace_s=0.2) as gateway:
            stream = await gateway.post(stream=True)
            gateway.end()
            body = await stream.body()
            assert body.startswith(FIRST)
            last = json.loads(body.removeprefix(FIRST).removeprefix(b"data: ").partition(b"\n")[0])
            assert last["error"]["code"] == "shutting_down"
            await gateway.task

    drive(scenario)


def test_a_request_that_still_waits_then_is_answered_with_503() -> None:
    async def scenario() -> None:
        async with Worker(Held()) as worker, running(worker, grace_s=0.2, max_inflight=1) as gateway:
            stream = await gateway.post(stream=True)
            queued = asyncio.ensure_future(gateway.post())
            await until(lambda: gateway.app.runtime.driver.running == 2)
            gateway.end()
            async with await queued as answer:
                assert answer.status == 503
                assert json.loads(await answer.body())["error"]["code"] == "shutting_down"
            await stream.body()
            await gateway.task

    drive(scenario)


def test_a_second_signal_ends_it_at_once() -> None:
    async def scenario() -> None:
        async with Worker(Held()) as worker, running(worker, grace_s=600, drain_delay_s=600) as gateway:
            stream = await gateway.post(stream=True)
            gateway.end()
            await asyncio.sleep(0.2)
            assert not gateway.task.done()
            gateway.end()
            assert b"shutting_down" in await stream.body()
            async with asyncio.timeout(5):
                await gateway.task

    drive(scenario)


def test_a_connection_that_is_kept_may_send_one_more_request() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker, running(worker) as gateway:
            async with await gateway.post() as response:
                await response.body()
            assert gateway.client.idle_connections == 1
            gateway.end()
            await gateway.refuses()
            async with await gateway.post() as response:  # on the connection from before
                assert response.status == 200
                assert response.header(b"connection") == b"close"
                await response.body()
            await gateway.task

    drive(scenario)


def test_a_connection_without_a_request_does_not_hold_the_end_up() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker, running(worker, grace_s=600) as gateway:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
            await until(lambda: bool(gateway.server.server_state.connections))
            gateway.end()
            assert await reader.read() == b""
            writer.close()
            async with asyncio.timeout(5):
                await gateway.task

    drive(scenario)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
def test_one_gateway_takes_over_from_another_under_load_without_a_failure() -> None:
    async def scenario() -> None:
        failures: list[str] = []
        answered = 0
        over = asyncio.Event()

        async def ask(url: str, *, keep: bool) -> None:
            """One user; every request on a connection of its own, or as many on one as the gateway likes."""
            nonlocal answered
            kept = Client()
            while not over.is_set():
                client = kept if keep else Client()
                headers = [(b"content-type", b"application/json")]
                body = json.dumps(HELLO).encode()
                try:
                    async with client.stream(b"POST", url + CHAT, headers=headers, body=body) as response:
                        await response.body()
                        answered += response.status == 200
                        failures.extend([] if response.status == 200 else [f"status {response.status}"])
                except UpstreamError as error:
                    failures.append(repr(error))
                if not keep:
                    await client.close()
            await kept.close()

        async with Worker(chat) as worker, running(worker, shared=True) as old:
            port = int(old.url.rpartition(":")[2])
            users = [asyncio.ensure_future(ask(old.url, keep=i % 2 == 0)) for i in range(8)]
            await until(lambda: answered > 50)
            async with running(worker, shared=True, port=port) as new:
                old.end()
                await old.task
                by_then = answered
                await until(lambda: answered > by_then + 50)
                over.set()
                await asyncio.gather(*users)
                assert new.app.runtime.operator.outcomes["completed"] >= 50
        assert failures == []

    drive(scenario)


def test_a_port_that_is_taken_is_an_error_and_sharing_needs_both() -> None:
    (first,) = bind("127.0.0.1", 0, reuse_port=False)
    try:
        first.listen()
        for shared in (False, True):
            with pytest.raises(OSError, match="in use"):
                bind("127.0.0.1", first.getsockname()[1], reuse_port=shared)
    finally:
        first.close()
