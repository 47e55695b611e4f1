"""SIGTERM under load: what runs is finished, nobody new is taken, and every request is in the records on disk."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet

from tests.faults.caller import Seen, ask
from tests.faults.fleet import LIMIT, Books, Gateway, Worker, errors, until
from tests.gateway.harness import begin, event, usage_event
from tests.gateway.harness import chat as answers
from tests.upstream.servers import Exchange
from upstream.client import Client

STREAMS, PLAIN, SHORT = 8, 4, 10


class Gate:
    """A worker's answers that wait in their middle until they are let go on."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def answer(self, exchange: Exchange) -> None:
        if exchange.json.get("max_tokens") == 1:
            await answers(exchange)
        elif exchange.json.get("stream"):
            await begin(exchange)
            await exchange.chunk(event("a"))
            await self._pass(exchange)
            await exchange.chunk(event("b") + usage_event() + b"data: [DONE]\n\n")
            await exchange.end()
        else:
            await self._pass(exchange)
            await answers(exchange)

    async def _pass(self, exchange: Exchange) -> None:
        waits = [asyncio.ensure_future(self.open.wait()), asyncio.ensure_future(exchange.gone.wait())]
        await asyncio.wait(waits, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


def shut_down(
    folder: Path, grace: float, then: Callable[[Gateway, Gate], Awaitable[None]]
) -> tuple[list[Seen], int, list[dict[str, Any]], int]:
    """Load a gateway, tell it to end, go on as told: what clients saw, how it ended, its records, how many asked."""
    patient = {"connect_s": 2.0, "first_byte_s": 60.0, "idle_s": 60.0}
    gateway = Gateway.start(folder, {"ending": (1, {"max_inflight": 64})}, "--grace", str(grace), timeouts=patient)
    books = Books(gateway, "ending")

    async def main() -> list[Seen]:
        gate = Gate()
        async with Worker(gateway, "ending", gate.answer) as worker, Client() as client:
            await gateway.until_ready("ending", 1)
            short = [await ask(client, books, max_tokens=1) for _ in range(SHORT)]
            running = [asyncio.create_task(ask(client, books, stream=True)) for _ in range(STREAMS)]
            running += [asyncio.create_task(ask(client, books)) for _ in range(PLAIN)]
            await until(lambda: worker.answering == STREAMS + PLAIN, "not all are running")
            gateway.process.send_signal(signal.SIGTERM)
            await then(gateway, gate)
            seen = await asyncio.gather(*running)
            await asyncio.to_thread(gateway.process.wait, LIMIT)
            await worker.idle()
            return [*short, *seen]

    try:
        seen = asyncio.run(main())
    finally:
        gateway.process.kill()
        code = gateway.process.wait()
    tables = [pyarrow.parquet.read_table(path) for path in (folder / "records").rglob("*.parquet")]
    return seen, code, [row for table in tables for row in table.to_pylist()], books.sent


async def refuses(gateway: Gateway) -> bool:
    """Whether a new client is not taken any more: no connection, or 503."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    except OSError:
        return True
    try:
        writer.write(b"GET /ready HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(64), LIMIT)
    except OSError:
        return True
    finally:
        writer.close()
    return not answer.startswith(b"HTTP/1.1 200")


async def until_refusing(gateway: Gateway) -> None:
    async with asyncio.timeout(LIMIT):
        while not await refuses(gateway):
            await asyncio.sleep(0.05)


def test_what_runs_is_finished(tmp_path: Path) -> None:
    async def then(gateway: Gateway, gate: Gate) -> None:
        await until_refusing(gateway)
        gate.open.set()

    seen, code, records, sent = shut_down(tmp_path, 60, then)
    assert [one.status for one in seen] == [200] * len(seen)
    assert not any(one.broken for one in seen)
    assert sum(one.done for one in seen) == STREAMS
    assert code in (0, -signal.SIGTERM)
    assert len(records) == sent == len(seen)
    assert {record["result"] for record in records} == {"completed"}


def test_what_outlasts_the_grace_time_is_told(tmp_path: Path) -> None:
    async def then(gateway: Gateway, gate: Gate) -> None:
        await until_refusing(gateway)

    seen, _, records, sent = shut_down(tmp_path, 1, then)
    short, streams, plain = seen[:SHORT], seen[SHORT:-PLAIN], seen[-PLAIN:]
    assert [one.status for one in short] == [200] * SHORT
    for one in streams:
        assert (one.status, one.broken) == (200, False), one
        assert len(errors(one.events)) == 1
        assert not one.done
    for one in plain:
        assert one.status == 503
        assert one.error["code"] == "shutting_down"
    assert len(records) == sent == len(seen)
    assert sum(record["result"] == "completed" for record in records) == SHORT
