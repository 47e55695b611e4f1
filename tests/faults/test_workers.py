"""Workers that break in every way: what clients see, and that nothing is lost silently or left running."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.faults.caller import Seen, ask
from tests.faults.fleet import LIMIT, PATIENCE, Books, Gateway, Worker, drive, errors, sim_worker
from tests.gateway.harness import begin, event, usage_event
from tests.gateway.harness import chat as answers
from tests.upstream.servers import Exchange, Handler
from upstream.client import Client


def reset(exchange: Exchange) -> None:
    """Close the connection with a RST."""
    found = exchange._writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.kill()


def with_workers(
    gateway: Gateway,
    pool: str,
    handlers: list[Handler],
    scenario: Callable[[Client, Books, list[Worker]], Awaitable[None]],
) -> list[dict[str, Any]]:
    """Workers of a pool, a scenario, and then: no request is left with a worker, and the books balance."""
    books = Books(gateway, pool)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            workers = [
                await stack.enter_async_context(Worker(gateway, pool, handler, index))
                for index, handler in enumerate(handlers)
            ]
            await gateway.until_ready(pool, len(workers))
            client = await stack.enter_async_context(Client())
            await scenario(client, books, workers)
            for worker in workers:
                await worker.idle()

    drive(main())
    return books.balance()


async def both(client: Client, books: Books) -> tuple[Seen, Seen]:
    """A plain answer and a stream."""
    return await ask(client, books), await ask(client, books, stream=True)


def is_whole(plain: Seen, stream: Seen) -> None:
    assert plain.status == 200, plain
    assert json.loads(plain.body)["choices"][0]["message"]["content"] == "abc"
    assert stream.done, stream
    assert not errors(stream.events)


async def load(client: Client, books: Books, streams: int, plain: int, **fields: Any) -> tuple[list[Seen], list[Seen]]:
    asked = [ask(client, books, stream=True, **fields) for _ in range(streams)]
    asked += [ask(client, books, **fields) for _ in range(plain)]
    seen = await asyncio.gather(*asked)
    return seen[:streams], seen[streams:]


def test_killed(gateway: Gateway, tmp_path: Path) -> None:
    books = Books(gateway, "killed")
    ports = gateway.workers["killed"]
    started = [sim_worker(port, "killed", tmp_path / f"{port}.log") for port in ports]
    try:
        gateway.ready("killed", 2)
        streams, plain = asyncio.run(_killed(books, started[0]))
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [seen.status for seen in plain] == [200] * len(plain), plain
    for seen in streams:
        assert seen.status == 200
        assert not seen.broken, "a stream was cut without a word"
        assert seen.done or len(errors(seen.events)) == 1, seen.events[-2:]
    records = books.balance()
    assert sum(record["result"] == "completed" for record in records) == len(plain) + sum(s.done for s in streams)


async def _killed(books: Books, victim: subprocess.Popen[bytes]) -> tuple[list[Seen], list[Seen]]:
    async with Client() as client:
        loading = asyncio.create_task(load(client, books, 10, 6, max_tokens=150, ignore_eos=True))
        inflight = lambda: [w["inflight"] for w in books.gateway.pool("killed")["workers"]]  # noqa: E731
        async with asyncio.timeout(LIMIT):
            while min(await asyncio.to_thread(inflight)) < 4:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        victim.send_signal(signal.SIGKILL)
        return await loading


def test_hung(gateway: Gateway) -> None:
    """It takes requests and never answers: another worker stands in, and the hung one is let go."""

    async def hung(exchange: Exchange) -> None:
        await asyncio.wait_for(exchange.gone.wait(), LIMIT)

    async def scenario(client: Client, books: Books, workers: list[Worker]) -> None:
        seen = await asyncio.gather(*(both(client, books) for _ in range(2)))
        for plain, stream in seen:
            is_whole(plain, stream)
        assert workers[0].asked_for
        assert all(exchange.gone.is_set() for exchange in workers[0].asked_for)

    with_workers(gateway, "hung", [hung, answers], scenario)


def test_stalling(gateway: Gateway) -> None:
    """It stops in the middle of a stream: the client is told so, and the worker's connection closed."""

    async def stalls(exchange: Exchange) -> None:
        await begin(exchange)
        await exchange.chunk(event("a") + event("b"))
        await asyncio.wait_for(exchange.gone.wait(), LIMIT)

    async def scenario(client: Client, books: Books, workers: list[Worker]) -> None:
        seen = await ask(client, books, stream=True, n=2)
        assert seen.status == 200
        assert not seen.broken
        assert seen.events[:2] == [event("a").strip(), event("b").strip()]
        assert len(errors(seen.events)) == 1
        assert not seen.done

    (record,) = with_workers(gateway, "stalling", [stalls], scenario)
    assert record["result"] == "failed"
    assert "timeout" in record["code"]


def test_slow(gateway: Gateway) -> None:
    """A worker that dribbles, but within the limits, is waited for, though the whole takes longer than they are."""
    pieces = [event(f"piece {index}") for index in range(8)]

    async def slow(exchange: Exchange) -> None:
        await begin(exchange)
        for piece in pieces:
            middle = len(piece) // 2
            for part in (piece[:middle], piece[middle:]):
                await asyncio.sleep(PATIENCE / 12)
                await exchange.chunk(part)
        await exchange.chunk(usage_event() + b"data: [DONE]\n\n")
        await exchange.end()

    async def scenario(client: Client, books: Books, workers: list[Worker]) -> None:
        seen = await asyncio.gather(*(ask(client, books, stream=True) for _ in range(4)))
        for one in seen:
            assert one.done
            assert one.events[:-1] == [piece.strip() for piece in pieces]

    records = with_workers(gateway, "slow", [slow], scenario)
    assert {record["result"] for record in records} == {"completed"}


def test_resetting(gateway: Gateway) -> None:
    """Connections that are reset before or within an answer that has not begun to pass: another worker stands in."""

    async def resets(exchange: Exchange) -> None:
        if exchange.json.get("max_tokens") == 1:
            await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{")
        reset(exchange)

    async def scenario(client: Client, books: Books, workers: list[Worker]) -> None:
        for _ in range(4):
            is_whole(*await both(client, books))
            is_whole(await ask(client, books, max_tokens=1), await ask(client, books, stream=True))
        assert workers[0].asked_for

    records = with_workers(gateway, "resetting", [resets, answers], scenario)
    assert {record["result"] for record in records} == {"completed"}


def test_cut(gateway: Gateway) -> None:
    """A reset in the middle of a stream that nobody can go on with: the client is told."""

    async def cuts(exchange: Exchange) -> None:
        await begin(exchange)
        await exchange.chunk(event("a"))
        await asyncio.sleep(0.2)
        reset(exchange)

    async def scenario(client: Client, books: Books, workers: list[Worker]) -> None:
        seen = await ask(client, books, stream=True, n=2)
        assert (seen.status, seen.broken, seen.done) == (200, False, False)
        assert seen.events[0] == event("a").strip()
        assert len(errors(seen.events)) == 1

    (record,) = with_workers(gateway, "cut", [cuts], scenario)
    assert record["result"] == "failed"


GARBAGE = (
    b"\x00\x01\x02 this is not HTTP\r\n\r\n",
    b"HTTP/1.1 two-hundred OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: application/json\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
)


def test_garbage(gateway: Gateway) -> None:
    """What is not HTTP is not passed on: another worker stands in."""
    asked = 0

    async def garbage(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        await exchange.raw(GARBAGE[asked % len(GARBAGE)])
        await asyncio.wait_for(exchange.gone.wait(), LIMIT)

    async def scenario(client: Client, books: Books, workers: list[Worker]) -> None:
        for _ in range(6):
            is_whole(*await both(client, books))
        assert workers[0].asked_for

    with_workers(gateway, "garbage", [garbage, answers], scenario)


def test_rubbish(gateway: Gateway) -> None:
    """Nobody stands in for the only worker: 502, in OpenAI's shape."""

    async def rubbish(exchange: Exchange) -> None:
        await exchange.raw(GARBAGE[0])

    async def scenario(client: Client, books: Books, workers: list[Worker]) -> None:
        seen = await ask(client, books)
        assert seen.status == 502, seen
        assert seen.error["message"]

    with_workers(gateway, "rubbish", [rubbish], scenario)


def test_half_closed(gateway: Gateway) -> None:
    """A worker that ends its half of the connection too early has not answered."""

    async def half(exchange: Exchange) -> None:
        if exchange.json.get("stream"):
            await begin(exchange)
        else:
            await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{")
        exchange._writer.write_eof()
        await asyncio.wait_for(exchange.gone.wait(), LIMIT)

    async def scenario(client: Client, books: Books, workers: list[Worker]) -> None:
        for _ in range(3):
            is_whole(*await both(client, books))
        assert workers[0].asked_for

    with_workers(gateway, "half-closed", [half, answers], scenario)


def test_stale(gateway: Gateway) -> None:
    """Kept connections that the worker closes between two requests are not noticed by any client."""

    async def closes(exchange: Exchange) -> None:
        await answers(exchange)
        exchange._writer.close()

    async def scenario(client: Client, books: Books, workers: list[Worker]) -> None:
        for _ in range(10):
            is_whole(*await both(client, books))

    records = with_workers(gateway, "stale", [closes], scenario)
    assert {record["result"] for record in records} == {"completed"}


def test_busy(gateway: Gateway) -> None:
    """503 from some means busy: the request goes elsewhere, and the busy worker stays in the fleet."""

    async def busy(exchange: Exchange) -> None:
        await exchange.reply_json({"error": {"message": "queue is full"}}, 503)

    async def scenario(client: Client, books: Books, workers: list[Worker]) -> None:
        for plain, stream in await asyncio.gather(*(both(client, books) for _ in range(10))):
            is_whole(plain, stream)
        assert workers[0].asked_for
        assert gateway.phases("busy") == ["ready", "ready"]

    with_workers(gateway, "busy", [busy, answers], scenario)


def test_always_busy(gateway: Gateway) -> None:
    """A storm of 503 from everybody: clients get 503 and when to come back; when it is over, all is well at once."""
    storm = True

    async def stormy(exchange: Exchange) -> None:
        if storm:
            await exchange.reply_json({"error": {"message": "queue is full"}}, 503)
        else:
            await answers(exchange)

    async def scenario(client: Client, books: Books, workers: list[Worker]) -> None:
        nonlocal storm
        for seen in await asyncio.gather(*(ask(client, books) for _ in range(12))):
            assert seen.status == 503, seen
            assert float(seen.headers[b"retry-after"]) > 0
            assert seen.error["message"]
        storm = False
        await gateway.until_ready("always-busy", 1)
        await until_good(client, books)
        is_whole(*await both(client, books))

    with_workers(gateway, "always-busy", [stormy], scenario)


async def until_good(client: Client, books: Books) -> None:
    """The circuit may be open for a moment still."""
    async with asyncio.timeout(LIMIT):
        while (await ask(client, books)).status != 200:
            await asyncio.sleep(0.1)


def test_gone_and_back(gateway: Gateway) -> None:
    """No worker at all: 503 at once or after a moment, and all is well when one comes back."""
    books = Books(gateway, "gone")

    async def main() -> None:
        async with Client() as client:
            async with Worker(gateway, "gone", answers) as worker:
                await gateway.until_ready("gone", 1)
                is_whole(*await both(client, books))
                await worker.idle()
            for seen in await asyncio.gather(*(ask(client, books) for _ in range(4))):
                assert seen.status in (502, 503), seen
                assert seen.error["message"]
            await gateway.until_ready("gone", 0)
            seen = await ask(client, books)
            assert seen.status == 503
            assert float(seen.headers[b"retry-after"]) > 0
            async with Worker(gateway, "gone", answers) as worker:
                await gateway.until_ready("gone", 1)
                await until_good(client, books)
                is_whole(*await both(client, books))
                await worker.idle()

    drive(main())
    books.balance()
