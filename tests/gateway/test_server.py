"""The gateway's own HTTP server, byte by byte on real sockets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from controller.store import ArtifactStore
from gateway.application import create_app
from gateway.server import Connection, Waits
from tests.gateway.harness import (
    CHAT,
    HELLO,
    STREAM,
    Gateway,
    Worker,
    chat,
    configured,
    drive,
    hold,
    hold_stream,
    pool,
    serving,
    until,
)
from tests.upstream.servers import TIMEOUT, Exchange
from upstream.client import Client

BODY = json.dumps(HELLO).encode()
STREAMING = json.dumps({**HELLO, "stream": True}).encode()
SHORT = Waits(head=0.1, body=0.1, idle=0.1, stall=0.1)


class Wire:
    """A client that sends what it is told to, and nothing else."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body of the next answer."""
        async with asyncio.timeout(TIMEOUT):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
            headers = dict(line.split(b": ", 1) for line in lines)
            if headers.get(b"transfer-encoding") == b"chunked":
                body = await self._chunks()
            elif b"content-length" in headers:
                body = await self.reader.readexactly(int(headers[b"content-length"]))
            else:
                body = await self.reader.read()
            return int(first.split()[1]), headers, body

    async def over(self) -> bool:
        """Whether the server ends the connection, without another word."""
        async with asyncio.timeout(TIMEOUT):
            return await self.reader.read() == b""

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"
        return body


@asynccontextmanager
async def wire(gateway: Gateway) -> AsyncIterator[Wire]:
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def post(body: bytes = BODY, *headers: str, version: str = "1.1", path: str = CHAT) -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def with_wire(
    scenario: Callable[[Gateway, Worker, Wire], Awaitable[None]],
    answer: Any = chat,
    waits: Waits | None = None,
    **more: Any,
) -> None:
    async def run() -> None:
        async with (
            Worker(answer) as worker,
            serving(configured(pool("p", worker), **more), waits=waits or Waits()) as gateway,
            wire(gateway) as one,
        ):
            await scenario(gateway, worker, one)

    drive(run)


def error_of(body: bytes) -> str:
    answer = json.loads(body)
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    return str(answer["error"]["code"])


# Framing.


def test_one_connection_serves_many_requests_streams_and_pages_in_turn() -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        for body in (BODY, STREAMING, BODY):
            one.send(post(body))
            status, headers, answer = await one.answer()
            assert (status, b"connection" in headers) == (200, False)
            assert body is not STREAMING or answer == STREAM
            one.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await one.answer())[0] == 200

    with_wire(scenario)


def test_a_request_in_single_bytes_is_the_same_request() -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        for byte in post():
            one.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await one.answer())[0] == 200
        assert json.loads((await worker.request()).body)["messages"] == HELLO["messages"]

    with_wire(scenario)


def test_pipelined_requests_are_answered_in_order() -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        get = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        one.send(
            post(BODY, "X-Request-Id: a"), get, post(STREAMING, "X-Request-Id: b"), get, post(BODY, "X-Request-Id: c")
        )
        answers = [await one.answer() for _ in range(5)]
        assert [status for status, _, _ in answers] == [200] * 5
        assert [answers[i][1][b"x-request-id"] for i in (0, 2, 4)] == [b"a", b"b", b"c"]
        assert answers[2][2] == STREAM

    with_wire(scenario)


@pytest.mark.parametrize("body", [BODY, STREAMING])
def test_http_1_0_gets_a_body_that_ends_with_the_connection(body: bytes) -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.send(post(body, version="1.0"))
        status, headers, answer = await one.answer()
        assert (status, headers[b"connection"]) == (200, b"close")
        assert b"transfer-encoding" not in headers
        assert body is not STREAMING or answer == STREAM
        assert await one.over()

    with_wire(scenario)


def test_a_client_that_wants_to_close_is_closed() -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.send(post(BODY, "Connection: close"))
        status, headers, _ = await one.answer()
        assert (status, headers[b"connection"]) == (200, b"close")
        assert await one.over()

    with_wire(scenario)


def test_100_continue_is_sent_where_the_body_is_wanted_and_not_where_it_is_too_large() -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        head, body = post(BODY, "Expect: 100-continue").split(b"\r\n\r\n", 1)
        one.send(head, b"\r\n\r\n")
        assert await one.reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        await one.reader.readline()
        one.send(body)
        assert (await one.answer())[0] == 200
        async with wire(gateway) as other:
            other.send(post(b"x" * 5000, "Expect: 100-continue").split(b"x" * 5000)[0])
            status, headers, answer = await other.answer()
            assert (status, error_of(answer), headers[b"connection"]) == (413, "request_too_large", b"close")

    with_wire(scenario, limits={"max_body_bytes": 4000})


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_other_methods_are_told_which_one_there_is(method: str) -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.send(f"{method} {CHAT} HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n\r\n".encode())
        head = await one.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
        assert b"\r\nallow: POST\r\n" in head
        assert b"\r\nx-request-id: mine\r\n" in head
        rest = await one.reader.read()
        assert rest == b"" if method == "HEAD" else error_of(rest) == "method_not_allowed"

    with_wire(scenario)


def test_an_offer_to_change_the_protocol_is_passed_over() -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.send(post(BODY, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ"))
        assert (await one.answer())[0] == 200
        assert json.loads((await worker.request()).body)["messages"] == HELLO["messages"]

    with_wire(scenario)


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/v1/models/none", "/metrics"])
def test_every_answer_has_the_requests_id(path: str) -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n\r\n".encode())
        assert (await one.answer())[1][b"x-request-id"] == b"mine"
        one.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert re.fullmatch(rb"[0-9a-f]{16}", (await one.answer())[1][b"x-request-id"])

    with_wire(scenario)


# Clients that do harm.


@pytest.mark.parametrize("sent", [b"\x00\x01\x02\r\n\r\n", b"POST\r\n\r\n", post(BODY, "Content-Length: 3")])
def test_what_is_no_http_is_told_so(sent: bytes) -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.send(sent)
        status, headers, body = await one.answer()
        assert (status, headers[b"connection"], error_of(body)) == (400, b"close", "invalid_http")
        assert await one.over()
        assert worker.asked_for == []

    with_wire(scenario)


def test_a_body_that_stops_being_http_is_told_so_and_never_sent_on() -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.send(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        await asyncio.sleep(0.01)
        one.send(b"zz\r\n")
        status, _, body = await one.answer()
        assert (status, error_of(body)) == (400, "invalid_http")
        assert worker.asked_for == []

    with_wire(scenario)


@pytest.mark.parametrize("ended", [False, True])
def test_a_head_without_end_is_cut(ended: bool) -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.send(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n".encode(), b"X-Pad: " + b"y" * 70_000)
        if ended:
            one.send(b"\r\n\r\n")
        status, _, body = await one.answer()
        assert (status, error_of(body)) == (431, "headers_too_large")

    with_wire(scenario)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/comp"])
def test_a_head_that_does_not_come_is_not_waited_for(sent: bytes) -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.send(sent)
        if sent:
            status, _, body = await one.answer()
            assert (status, error_of(body)) == (408, "request_timeout")
        assert await one.over()

    with_wire(scenario, waits=SHORT)


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.send(post()[:-5])
        status, headers, body = await one.answer()
        assert (status, headers[b"connection"], error_of(body)) == (408, b"close", "request_timeout")
        assert gateway.app.runtime.driver.running == 0

    with_wire(scenario, waits=SHORT)


def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.3)
        await chat(exchange)

    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.send(post())
        assert (await one.answer())[0] == 200
        assert await one.over()

    with_wire(scenario, slow, waits=SHORT)


def test_a_client_that_takes_nothing_is_given_up_and_the_worker_freed() -> None:
    async def flood(exchange: Exchange) -> None:
        await exchange.head(200, "content-type: text/event-stream")
        while not exchange.gone.is_set():
            await exchange.chunk(b"data: " + b"x" * 65536 + b"\n\n")

    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.writer.transport.pause_reading()
        one.send(post(STREAMING))
        await (await worker.request()).client_left()
        await gateway.quiet()

    with_wire(scenario, flood, waits=SHORT)


# Clients that leave.


@pytest.mark.parametrize("answer, body", [(hold, BODY), (hold, STREAMING), (hold_stream, STREAMING)])
@pytest.mark.parametrize("how", ["half", "reset"])
def test_the_end_of_a_clients_stream_is_its_leaving(answer: Any, body: bytes, how: str) -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.send(post(body))
        exchange = await worker.request()
        await asyncio.sleep(0.01)
        if how == "half":
            one.writer.write_eof()
        else:
            one.writer.transport.abort()
        await exchange.client_left()
        await gateway.quiet()
        assert gateway.app.runtime.plane.records.recent(1)[0].code == "client_left"

    with_wire(scenario, answer)


def test_the_worker_is_let_go_in_the_turn_of_the_loop_after_the_clients_leaving() -> None:
    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        one.send(post())
        await worker.request()
        await until(lambda: gateway.app.runtime.driver.running == 1)
        upstream = gateway.app.runtime.upstreams.plain
        before = upstream.open_connections
        (task,) = gateway.tasks
        connection = next(c for c in _connections() if c._serving is not None)
        connection.connection_lost(None)
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns <= 2
        await asyncio.sleep(0)
        assert upstream.open_connections < before

    with_wire(scenario, hold)


def _connections() -> list[Connection]:
    import gc

    return [thing for thing in gc.get_objects() if isinstance(thing, Connection) and thing.transport is not None]


# The end.


def test_at_the_end_what_runs_is_finished_and_what_idles_is_closed() -> None:
    release = asyncio.Event()

    async def late(exchange: Exchange) -> None:
        await release.wait()
        await chat(exchange)

    async def scenario(gateway: Gateway, worker: Worker, one: Wire) -> None:
        async with wire(gateway) as idle:
            idle.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            await idle.answer()
            one.send(post())
            await worker.request()
            for connection in _connections():  # as uvicorn's server does when it is told to end
                connection.shutdown()
            assert await idle.over()
            release.set()
            status, headers, _ = await one.answer()
            assert (status, headers[b"connection"]) == (200, b"close")
            assert await one.over()

    with_wire(scenario, late)


# Under another server.


def test_mounted_under_plain_asgi_it_relays_just_the_same() -> None:
    async def run() -> None:
        async with Worker(chat) as worker:
            app = create_app(configured(pool("p", worker)), store=ArtifactStore(None, None))
            config = uvicorn.Config(app, port=0, log_level="error", http="httptools", lifespan="on", access_log=False)
            server = uvicorn.Server(config)
            serve = asyncio.ensure_future(server.serve())
            await until(lambda: server.started)
            url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}{CHAT}"
            async with Client() as client:
                async with client.stream(b"POST", url, body=STREAMING) as response:
                    assert (response.status, await response.body()) == (200, STREAM)
                async with client.stream(b"POST", url, body=BODY) as response:
                    assert response.status == 200
                async with client.stream(b"GET", url) as response:
                    assert (response.status, response.header(b"allow")) == (405, b"POST")
                worker.answer = hold_stream
                response = await client.send(b"POST", url, body=STREAMING)
                exchange = await worker.request(3)
                response.close()
                await exchange.client_left()
                await until(lambda: app.runtime.driver.running == 0)
            server.should_exit = True
            await serve

    drive(run)
