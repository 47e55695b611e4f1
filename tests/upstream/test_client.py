from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.upstream.servers import TIMEOUT, Exchange, Handler, Server
from upstream.client import Client
from upstream.errors import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    ProtocolError,
    TotalTimeout,
)
from upstream.types import Timeouts

Scenario = Callable[[Client, Server], Awaitable[None]]


def drive(handler: Handler, scenario: Scenario) -> None:
    async def main() -> None:
        async with asyncio.timeout(3 * TIMEOUT), Server(handler) as server, Client() as client:
            await scenario(client, server)

    asyncio.run(main())


async def echo(exchange: Exchange) -> None:
    await exchange.reply(exchange.body, 200, "X-Path: " + exchange.path, "X-Seen: " + exchange.headers.get("x-a", ""))


async def hold(exchange: Exchange) -> None:
    await exchange.client_left()


async def hold_body(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.chunk(b"first")
    await exchange.client_left()


def test_a_request_arrives_as_sent_and_its_answer_as_answered() -> None:
    async def scenario(client: Client, server: Server) -> None:
        response = await client.send(
            b"POST", server.url + "/v1/x?y=1", headers=[(b"x-a", b"b")], body=b"\x00" * 200_000
        )
        assert (response.status, response.header(b"x-path"), response.header(b"x-seen")) == (200, b"/v1/x?y=1", b"b")
        assert await response.body() == b"\x00" * 200_000
        assert server.exchanges[0].headers["host"] == f"127.0.0.1:{server.port}"

    drive(echo, scenario)


def test_connections_are_kept_and_reused() -> None:
    async def scenario(client: Client, server: Server) -> None:
        for _ in range(5):
            async with client.stream(b"GET", server.url + "/") as response:
                await response.body()
        assert (server.connections, client.open_connections, client.idle_connections) == (1, 1, 1)

    drive(echo, scenario)


def test_parallel_requests_have_connections_of_their_own() -> None:
    async def scenario(client: Client, server: Server) -> None:
        async def one(i: int) -> bytes:
            async with client.stream(b"POST", server.url + "/", body=b"%d" % i) as response:
                return await response.body()

        assert await asyncio.gather(*map(one, range(20))) == [b"%d" % i for i in range(20)]
        assert client.idle_connections == client.open_connections == server.connections

    drive(echo, scenario)


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_a_body_survives_any_chunking_and_any_packets(chunks: list[bytes], steps: list[int]) -> None:
    wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    wire += b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"

    async def handler(exchange: Exchange) -> None:
        at = 0
        for i in range(len(wire)):
            step = steps[i % len(steps)]
            if at < len(wire):
                await exchange.raw(wire[at : at + step])
                await asyncio.sleep(0)
            at += step

    async def scenario(client: Client, server: Server) -> None:
        for _ in range(2):
            response = await client.send(b"GET", server.url + "/")
            assert b"".join([c async for c in response.chunks()]) == b"".join(chunks)
            assert response.complete
        assert server.connections == 1

    drive(handler, scenario)


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.head(200, "connection: close", chunked=False)
        await exchange.raw(b"all of it")
        exchange._writer.close()

    async def scenario(client: Client, server: Server) -> None:
        response = await client.send(b"GET", server.url + "/")
        assert await response.body() == b"all of it"
        await asyncio.sleep(0.01)
        assert client.open_connections == 0

    drive(handler, scenario)


def test_interim_answers_are_skipped() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 100 Continue\r\nx-interim: 1\r\n\r\n")
        await exchange.reply(b"ok", 201, "x-final: 1")

    async def scenario(client: Client, server: Server) -> None:
        response = await client.send(b"POST", server.url + "/", body=b"x")
        assert (response.status, response.header(b"x-interim"), response.header(b"x-final")) == (201, None, b"1")
        assert await response.body() == b"ok"

    drive(handler, scenario)


def test_an_answer_without_a_body_leaves_the_connection_usable() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.head(204, chunked=False)

    async def scenario(client: Client, server: Server) -> None:
        for _ in range(2):
            assert await (await client.send(b"GET", server.url + "/")).body() == b""
        assert server.connections == 1

    drive(handler, scenario)


def test_a_slow_reader_stops_the_server_from_sending() -> None:
    sent = 0

    async def handler(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.head()
        for _ in range(640):
            await exchange.chunk(b"x" * 65536)
            sent += 65536
        await exchange.end()

    async def scenario(client: Client, server: Server) -> None:
        response = await client.send(b"GET", server.url + "/")
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 640 * 65536
        assert len(await response.body()) == 640 * 65536

    drive(handler, scenario)


# Leaving early.


def test_leaving_a_body_closes_the_socket() -> None:
    async def scenario(client: Client, server: Server) -> None:
        async with client.stream(b"GET", server.url + "/") as response:
            assert await response.read() == b"first"
        await server.exchanges[0].client_left()
        assert client.open_connections == 0

    drive(hold_body, scenario)


def test_cancelling_a_wait_for_the_head_closes_the_socket() -> None:
    async def scenario(client: Client, server: Server) -> None:
        task = asyncio.ensure_future(client.send(b"POST", server.url + "/", body=b"x"))
        exchange = await server.asked(1)
        task.cancel()
        await exchange.client_left()
        assert client.open_connections == 0

    drive(hold, scenario)


def test_cancelling_a_wait_for_the_body_closes_the_socket() -> None:
    async def scenario(client: Client, server: Server) -> None:
        async def read() -> None:
            async with client.stream(b"GET", server.url + "/") as response:
                await response.body()

        task = asyncio.ensure_future(read())
        exchange = await server.asked(1)
        await asyncio.sleep(0.01)
        task.cancel()
        await exchange.client_left()

    drive(hold_body, scenario)


def test_closing_the_client_breaks_what_is_under_way() -> None:
    async def scenario(client: Client, server: Server) -> None:
        response = await client.send(b"GET", server.url + "/")
        assert await response.read() == b"first"
        task = asyncio.ensure_future(response.read())
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(task, TIMEOUT)

    drive(hold_body, scenario)


# What goes wrong.


def test_nobody_listens() -> None:
    async def main() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        async with Client() as client:
            with pytest.raises(ConnectError, match="cannot connect to http"):
                await client.send(b"GET", url)

    asyncio.run(main())


def test_nobody_accepts() -> None:
    async def main() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            async with Client() as client:
                with pytest.raises(ConnectTimeout):
                    await client.send(b"GET", f"http://127.0.0.1:{port}/", timeouts=Timeouts(connect=0.05))
            for filler in fillers:
                filler.close()

    asyncio.run(main())


def test_a_worker_that_never_begins() -> None:
    async def scenario(client: Client, server: Server) -> None:
        with pytest.raises(FirstByteTimeout):
            await client.send(b"GET", server.url + "/", timeouts=Timeouts(first_byte=0.05))
        await server.exchanges[0].client_left()

    drive(hold, scenario)


def test_a_worker_that_sends_its_head_and_then_nothing() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.client_left()

    async def scenario(client: Client, server: Server) -> None:
        response = await client.send(b"GET", server.url + "/", timeouts=Timeouts(first_byte=0.05))
        with pytest.raises(FirstByteTimeout):
            await response.read()

    drive(handler, scenario)


def test_a_worker_that_falls_silent() -> None:
    async def scenario(client: Client, server: Server) -> None:
        response = await client.send(b"GET", server.url + "/", timeouts=Timeouts(idle=0.05))
        assert await response.read() == b"first"
        with pytest.raises(IdleTimeout):
            await response.read()
        await server.exchanges[0].client_left()

    drive(hold_body, scenario)


def test_a_pump_sees_silence_though_it_may_wait_long_for_the_first_piece() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.head()
        await asyncio.sleep(0.02)  # the client waits for the body by then
        await exchange.chunk(b"first")
        await exchange.gone.wait()

    async def scenario(client: Client, server: Server) -> None:
        response = await client.send(b"GET", server.url + "/", timeouts=Timeouts(first_byte=60, idle=0.05))
        pieces: list[bytes] = []
        with pytest.raises(IdleTimeout):
            await asyncio.wait_for(response.pump(lambda data, last: pieces.append(data)), 10)
        assert pieces == [b"first"]
        response.close()

    drive(handler, scenario)


def test_a_worker_that_dribbles_on_is_ended_by_the_total() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.head()
        while not exchange.gone.is_set():
            await exchange.chunk(b"x")
            await asyncio.sleep(0.005)

    async def scenario(client: Client, server: Server) -> None:
        response = await client.send(b"GET", server.url + "/", timeouts=Timeouts(idle=1, total=0.1))
        with pytest.raises(TotalTimeout):
            await response.body()

    drive(handler, scenario)


def test_a_slow_reader_is_no_idle_worker() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(b"first")
        await exchange.chunk(b"second")
        await exchange.end()

    async def scenario(client: Client, server: Server) -> None:
        response = await client.send(b"GET", server.url + "/", timeouts=Timeouts(idle=0.05))
        await asyncio.sleep(0.15)
        assert await response.body() == b"firstsecond"

    drive(handler, scenario)


@pytest.mark.parametrize("framing", ["transfer-encoding: chunked", "content-length: 100"])
def test_a_worker_that_dies_in_the_middle(framing: str) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.head(200, framing, chunked=False)
        await exchange.raw(b"5\r\nfirst\r\n")
        await asyncio.sleep(0.01)
        exchange.kill()

    async def scenario(client: Client, server: Server) -> None:
        response = await client.send(b"GET", server.url + "/")
        assert b"first" in await response.read()
        with pytest.raises(ConnectionLost, match="before its answer was complete"):
            await response.body()

    drive(handler, scenario)


def test_a_worker_that_dies_before_its_head() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.kill()

    async def scenario(client: Client, server: Server) -> None:
        with pytest.raises(ConnectionLost):
            await client.send(b"POST", server.url + "/", body=b"x")

    drive(handler, scenario)


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 999999 ?\r\n\r\n", b"\x16\x03\x01\x00\xff"])
def test_a_worker_that_speaks_something_else(garbage: bytes) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.raw(garbage)
        await exchange.client_left()

    async def scenario(client: Client, server: Server) -> None:
        with pytest.raises(ProtocolError):
            await client.send(b"GET", server.url + "/", timeouts=Timeouts(first_byte=1))

    drive(handler, scenario)


def test_endless_headers_are_cut_off() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\n")
        while not exchange.gone.is_set():
            await exchange.raw(b"x-more: " + b"y" * 8000 + b"\r\n")

    async def scenario(client: Client, server: Server) -> None:
        with pytest.raises(ProtocolError, match="bytes of headers"):
            await client.send(b"GET", server.url + "/")

    drive(handler, scenario)


def test_a_body_over_the_callers_limit_is_refused() -> None:
    async def scenario(client: Client, server: Server) -> None:
        response = await client.send(b"POST", server.url + "/", body=b"x" * 1000)
        with pytest.raises(ProtocolError, match="longer than 10 bytes"):
            await response.body(10)

    drive(echo, scenario)


def test_bytes_after_the_answer_do_not_leak_into_the_next_one() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.reply(b"mine")
        await exchange.reply(b"somebody else's")

    async def scenario(client: Client, server: Server) -> None:
        for _ in range(3):
            assert await (await client.send(b"GET", server.url + "/")).body() == b"mine"
            await asyncio.sleep(0.01)

    drive(handler, scenario)


# Kept connections.


def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    async def handler(exchange: Exchange) -> None:
        if len(exchange.body) == 1:
            await exchange.reply(b"ok")
        else:
            exchange.kill()

    async def scenario(client: Client, server: Server) -> None:
        await (await client.send(b"POST", server.url + "/", body=b"1")).body()
        with pytest.raises(ConnectionLost):
            await client.send(b"POST", server.url + "/", body=b"22")
        assert [len(e.body) for e in server.exchanges] == [1, 2, 2]

    drive(handler, scenario)


def test_a_restarted_server_is_found_again_without_an_error() -> None:
    async def scenario(client: Client, server: Server) -> None:
        await (await client.send(b"POST", server.url + "/", body=b"1")).body()
        await server.stop()
        await server.start()
        assert await (await client.send(b"POST", server.url + "/", body=b"2")).body() == b"2"

    drive(echo, scenario)


def test_a_server_that_wants_to_close_is_not_reused() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.reply(b"ok", 200, "connection: close")

    async def scenario(client: Client, server: Server) -> None:
        for _ in range(2):
            await (await client.send(b"GET", server.url + "/")).body()
        assert (server.connections, client.idle_connections) == (2, 0)

    drive(handler, scenario)


def test_idle_connections_are_let_go() -> None:
    async def main() -> None:
        async with Server(echo) as server, Client(keepalive=0.05) as client:
            await (await client.send(b"GET", server.url + "/")).body()
            assert client.idle_connections == 1
            async with asyncio.timeout(TIMEOUT):
                while client.open_connections:
                    await asyncio.sleep(0.01)
            assert client.idle_connections == 0

    asyncio.run(main())


# What the caller does wrong.


@pytest.mark.parametrize("url", ["ftp://x/", "127.0.0.1:80", "http://"])
def test_a_url_that_is_none(url: str) -> None:
    async def main() -> None:
        async with Client() as client:
            with pytest.raises(ValueError, match="not an http"):
                await client.send(b"GET", url)

    asyncio.run(main())


def test_a_header_cannot_smuggle_another_one() -> None:
    async def scenario(client: Client, server: Server) -> None:
        with pytest.raises(ValueError, match="line break"):
            await client.send(b"GET", server.url + "/", headers=[(b"x-a", b"b\r\nx-evil: 1")])
        assert server.exchanges == []

    drive(echo, scenario)


# Pumping.


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.booleans())
def test_what_is_pumped_is_the_body_and_the_last_piece_says_so(chunks: list[bytes], reused: bool) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        for chunk in chunks:
            await exchange.chunk(chunk)
        await exchange.end()

    async def scenario(client: Client, server: Server) -> None:
        for _ in range(1 + reused):
            pieces: list[tuple[bytes, bool]] = []
            async with client.stream(b"GET", server.url) as response:
                await response.pump(lambda data, last, into=pieces: into.append((data, last)))  # type: ignore[misc]
            assert b"".join(data for data, _ in pieces) == b"".join(chunks)
            assert [last for _, last in pieces] == [False] * (len(pieces) - 1) + [True]
        assert server.connections == 1

    drive(answer, scenario)


def test_what_the_sink_raises_is_raised_and_closes_the_socket() -> None:
    async def scenario(client: Client, server: Server) -> None:
        def sink(data: bytes, last: bool) -> None:
            raise ValueError(data)

        with pytest.raises(ValueError, match="first"):
            async with client.stream(b"GET", server.url) as response:
                await response.pump(sink)
        await server.exchanges[0].client_left()
        assert client.open_connections == 0

    drive(hold_body, scenario)


def test_a_pump_hands_on_what_came_before_the_worker_died() -> None:
    async def dies(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(b"first")
        await asyncio.sleep(0.02)
        exchange.kill()

    async def scenario(client: Client, server: Server) -> None:
        pieces: list[bytes] = []
        async with client.stream(b"GET", server.url) as response:
            with pytest.raises(ConnectionLost):
                await response.pump(lambda data, last: pieces.append(data))
        assert pieces == [b"first"]

    drive(dies, scenario)


def test_a_pump_that_is_paused_holds_the_worker_back_and_is_not_idle() -> None:
    sent = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.head()
        for _ in range(300):
            await exchange.chunk(b"x" * 65536)
            sent += 65536
        await exchange.end()

    async def scenario(client: Client, server: Server) -> None:
        got = 0

        def sink(data: bytes, last: bool) -> None:
            nonlocal got
            got += len(data)

        async with client.stream(b"GET", server.url, timeouts=Timeouts(idle=0.2)) as response:
            response.pause()
            pumping = asyncio.ensure_future(response.pump(sink))
            await asyncio.sleep(0.5)
            assert got < sent < 300 * 65536
            response.resume()
            await pumping
        assert got == 300 * 65536
        async with client.stream(b"GET", server.url) as response:
            assert await response.read(), "the connection reads again"

    drive(flood, scenario)


def test_a_pump_notices_a_worker_that_falls_silent() -> None:
    async def scenario(client: Client, server: Server) -> None:
        async with client.stream(b"GET", server.url, timeouts=Timeouts(idle=0.05)) as response:
            with pytest.raises(IdleTimeout):
                await response.pump(lambda data, last: None)
        await server.exchanges[0].client_left()

    drive(hold_body, scenario)
