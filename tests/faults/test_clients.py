"""Clients that leave in each phase or do not keep up: the worker is let go at once, and others are served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import psutil
import pytest

from tests.faults.caller import Raw, ask, head
from tests.faults.fleet import LIMIT, Books, Gateway, Worker, chat, drive, until
from tests.gateway.harness import begin, event
from tests.gateway.harness import chat as answers
from tests.upstream.servers import Exchange
from upstream.client import Client

CROWD = 40
"""Clients that dribble."""


async def holds(exchange: Exchange) -> None:
    """Take a request; of a stream, send the beginning; then wait until the gateway lets go."""
    if exchange.json.get("stream"):
        await begin(exchange)
        await exchange.chunk(event("a"))
    await asyncio.wait_for(exchange.gone.wait(), LIMIT)


async def plain(books: Books, worker: Worker) -> Raw:
    """The worker has the request, and has sent nothing yet."""
    raw = await Raw.open(books)
    await raw.request(chat(books.model))
    await until(lambda: worker.answering == 1, "not asked")
    return raw


async def streaming(books: Books, worker: Worker) -> Raw:
    """The client has the stream's first event."""
    raw = await Raw.open(books)
    await raw.request(chat(books.model, stream=True))
    await raw.head()
    await asyncio.wait_for(raw.reader.readuntil(b'"a"'), LIMIT)
    return raw


async def headless(books: Books, worker: Worker) -> Raw:
    """The worker has been asked for a stream, and has sent no head."""
    worker.answer = lambda exchange: asyncio.wait_for(_gone(exchange), LIMIT)
    raw = await Raw.open(books)
    await raw.request(chat(books.model, stream=True))
    await until(lambda: worker.answering == 1, "not asked")
    return raw


async def _gone(exchange: Exchange) -> None:
    await exchange.gone.wait()


@pytest.mark.parametrize("end", [Raw.leave, Raw.close], ids=["reset", "closed"])
@pytest.mark.parametrize("phase", [headless, plain, streaming])
def test_leaving_while_it_runs(
    gateway: Gateway, phase: Callable[[Books, Worker], Awaitable[Raw]], end: Callable[[Raw], object]
) -> None:
    books = Books(gateway, "leaving", sent=1)

    async def main() -> None:
        async with Worker(gateway, "leaving", holds) as worker:
            await gateway.until_ready("leaving", 1)
            raw = await phase(books, worker)
            left = end(raw)
            if asyncio.iscoroutine(left):
                await left
            await until(worker.asked_for[0].gone.is_set, "the worker's connection is open still")
            await worker.idle()

    drive(main())
    (record,) = books.balance()
    assert (record["result"], record["code"]) == ("aborted", "client_left")


def test_leaving_the_queue(gateway: Gateway) -> None:
    """A request whose client leaves while it waits is never sent to a worker."""
    books = Books(gateway, "leaving", sent=3)

    async def main() -> None:
        async with Worker(gateway, "leaving", holds) as worker:
            await gateway.until_ready("leaving", 1)
            first = await streaming(books, worker)
            waiting = [await Raw.open(books) for _ in range(2)]
            for raw in waiting:
                await raw.request(chat("leaving"))
            await asyncio.to_thread(gateway.wait, lambda: gateway.pool("leaving")["queued"] == 2, "two in the queue")
            for raw in waiting:
                raw.leave()
            await asyncio.to_thread(gateway.wait, lambda: gateway.pool("leaving")["queued"] == 0, "queue empty")
            first.leave()
            await worker.idle()
            assert len(worker.asked_for) == 1

    drive(main())
    records = books.balance()
    assert [(record["result"], record["code"]) for record in records] == [("aborted", "client_left")] * 3


def test_slow_loris(gateway: Gateway) -> None:
    """Heads and bodies that dribble keep nobody else waiting, and reach no worker before they are complete."""
    books = Books(gateway, "loris")

    async def main() -> None:
        async with Worker(gateway, "loris", answers) as worker, Client() as client:
            await gateway.until_ready("loris", 1)
            body = chat("loris")
            begun = head(len(body))
            crowd = [await Raw.open(books) for _ in range(CROWD)]
            for index, raw in enumerate(crowd):
                await raw.send((begun if index % 2 else begun + body)[: len(begun) - 20 if index % 2 else -20])
            for _ in range(3):
                for raw in crowd[1::2]:
                    await raw.send(b"0")
                assert (await ask(client, books)).status == 200
            assert len(worker.asked_for) == 3
            finished = crowd[0]
            books.sent += 1
            await finished.send(body[-20:])
            assert (await finished.head()).startswith(b"HTTP/1.1 200")
            for raw in crowd:
                raw.leave()
            assert (await ask(client, books)).status == 200
            await worker.idle()

    drive(main())
    books.balance()
    gateway.wait(lambda: _clients(gateway) <= 4, "rid of the crowd")


def test_dribbling_for_ever(gateway: Gateway) -> None:
    """A client cannot hold a connection by dribbling its request, nor a worker by never reading its answer."""
    books = Books(gateway, "dribbling", sent=1)

    async def floods(exchange: Exchange) -> None:
        await begin(exchange)
        while not exchange.gone.is_set():
            await exchange.chunk(event("x" * 65_000))

    async def dribble(raw: Raw) -> None:
        with suppress(ConnectionError):
            while not raw.writer.is_closing():
                await raw.send(b"0")
                await asyncio.sleep(0.2)

    async def main() -> None:
        async with Worker(gateway, "dribbling", floods) as worker:
            await gateway.until_ready("dribbling", 1)
            never = await Raw.open(books)
            await never.request(chat("dribbling", stream=True))
            heads, bodies = [[await Raw.open(books) for _ in range(5)] for _ in range(2)]
            for raw in heads:
                await raw.send(head(900)[:-30])
            for raw in bodies:
                await raw.send(head(900) + b"{")
            tasks = [asyncio.create_task(dribble(raw)) for raw in (*heads, *bodies)]
            for raw in (*heads, *bodies):
                assert (await raw.head()).startswith(b"HTTP/1.1 408")
                await raw.reader.read()
            await worker.idle()
            assert len(worker.asked_for) == 1
            for raw in (never, *heads, *bodies):
                raw.leave()
            await asyncio.gather(*tasks)

    drive(main())
    (record,) = books.balance()
    assert record["result"] != "completed"


def _clients(gateway: Gateway) -> int:
    """Connections that clients have with the gateway."""
    found = psutil.Process(gateway.process.pid).net_connections("tcp")
    return sum(one.laddr.port == gateway.port and one.status == "ESTABLISHED" for one in found)


def test_a_client_that_does_not_read(gateway: Gateway) -> None:
    """It cannot make the gateway hold its answer: the worker has to wait, and when the client reads, all is there."""
    books = Books(gateway, "unread", sent=1)
    megabytes, piece = 64, event("x" * 65_000)
    count = megabytes * 1_000_000 // len(piece)
    written = 0

    async def floods(exchange: Exchange) -> None:
        nonlocal written
        await begin(exchange)
        for _ in range(count):
            await exchange.chunk(piece)
            written += 1
        await exchange.chunk(b"data: [DONE]\n\n")
        await exchange.end()

    async def main() -> None:
        process = psutil.Process(gateway.process.pid)
        async with Worker(gateway, "unread", floods) as worker:
            await gateway.until_ready("unread", 1)
            before = process.memory_info().rss
            raw = await Raw.open(books)
            await raw.request(chat("unread", stream=True))
            stood = await _still(lambda: written)
            assert 0 < stood < count // 2, "nothing holds the worker back"
            assert process.memory_info().rss - before < 24_000_000
            await raw.head()
            size = 0
            while not (part := await asyncio.wait_for(raw.reader.read(1 << 20), LIMIT)).endswith(b"0\r\n\r\n"):
                assert part, "the stream was cut"
                size += len(part)
            assert size + len(part) > count * len(piece)
            raw.leave()
            await worker.idle()

    drive(main())
    (record,) = books.balance()
    assert record["result"] == "completed"


async def _still(value: Callable[[], int]) -> int:
    """Wait until it has not changed for a while; shorter than the time after which the gateway gives up a stream."""
    async with asyncio.timeout(LIMIT):
        while True:
            seen = value()
            await asyncio.sleep(0.5)
            if seen and value() == seen:
                return seen
