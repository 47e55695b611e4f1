"""Signals, with real processes: they end, read their file again, and take over from one another."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.harness import CHAT, HELLO, STREAM, Worker, chat, held_until, pool, until
from upstream.client import Client, Response
from upstream.errors import UpstreamError

ROOT = Path(__file__).resolve().parents[2]
START_S = 90.0
"""Importing everything takes two seconds on an idle machine."""


class Process:
    """``headway serve`` on a file and a port."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def says(self, what: str) -> None:
        """Wait until its log has this."""
        async with asyncio.timeout(START_S):
            while what not in self.log.read_text():
                assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.05)

    async def ended(self) -> None:
        async with asyncio.timeout(START_S):
            assert await self.process.wait() in (0, -signal.SIGTERM), self.log.read_text()


@asynccontextmanager
async def serve(file: Path, port: int, name: str, *more: str) -> AsyncIterator[Process]:
    log = file.parent / f"{name}.log"
    command = (sys.executable, "-m", "cli.main", "serve", "--config", str(file), "--port", str(port), *more)
    environment = {**os.environ, "HEADWAY_HOME": str(file.parent / "home")}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stderr=output)
    try:
        running = Process(process, f"http://127.0.0.1:{port}", log)
        await running.says("Uvicorn running on")
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def write(file: Path, *pools: dict[str, Any], **settings: Any) -> None:
    file.write_text(json.dumps({"pools": list(pools), **settings}))


async def post(client: Client, url: str, **more: Any) -> Response:
    body = json.dumps({**HELLO, **more}).encode()
    return await client.send(b"POST", url + CHAT, headers=[(b"content-type", b"application/json")], body=body)


async def status(client: Client, url: str, **more: Any) -> int:
    async with await post(client, url, **more) as response:
        await response.body()
        return response.status


def test_sighup_reads_the_file_again_and_sigterm_lets_a_stream_end(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    held = held_until(go_on)

    async def scenario() -> None:
        file = tmp_path / "gateway.json"
        async with Worker(held) as worker, Client() as client:
            write(file, pool("p", worker))
            async with serve(file, free_port(), "gateway") as gateway:
                stream = await post(client, gateway.url, stream=True)
                write(file, pool("p", worker), aliases={"quick": ["p"]})
                gateway.signal(signal.SIGHUP)
                await gateway.says("the configuration was read again; new: aliases")
                assert await status(client, gateway.url, model="quick") == 200
                write(file, {**pool("p", worker), "teir": 1})
                gateway.signal(signal.SIGHUP)
                await gateway.says("pools[0].teir: unknown key; did you mean 'tier'?")
                write(file, pool("p", worker), seed=4)
                gateway.signal(signal.SIGHUP)
                await gateway.says("a restart is needed to change seed")
                assert await status(client, gateway.url, model="quick") == 200
                gateway.signal(signal.SIGTERM)
                await gateway.says("draining: ")
                go_on.set()
                assert await stream.body() == STREAM
                await gateway.ended()

    asyncio.run(scenario())


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
def test_a_rolling_restart_under_load_loses_no_request(tmp_path: Path) -> None:
    failures: list[str] = []
    answered = 0
    over = asyncio.Event()

    async def use(url: str, client: Client, *, new: bool, stream: bool) -> None:
        """One user, with a connection for each request or as few as the gateway allows."""
        nonlocal answered
        while not over.is_set():
            one = Client() if new else client
            try:
                async with await post(one, url, stream=stream) as response:
                    body = await response.body()
                if response.status == 200 and (not stream or body == STREAM):
                    answered += 1
                else:
                    failures.append(f"{response.status} {body!r}")
            except UpstreamError as error:
                failures.append(repr(error))
            if new:
                await one.close()
            await asyncio.sleep(0.03)  # leave the processes room to start in

    async def scenario() -> None:
        file, port = tmp_path / "gateway.json", free_port()
        async with Worker(chat) as worker, Client() as client:
            write(file, pool("p", worker), listen={"reuse_port": True, "drain_delay_s": 0.5})
            async with serve(file, port, "old") as old:
                kinds = [(new, stream) for new in (True, False) for stream in (True, False)] * 2
                users = [asyncio.ensure_future(use(old.url, client, new=n, stream=s)) for n, s in kinds]
                await until(lambda: answered > 50)
                async with serve(file, port, "new") as new:
                    old.signal(signal.SIGTERM)
                    await old.ended()
                    by_then = answered
                    await until(lambda: answered > by_then + 50)
                    over.set()
                    await asyncio.gather(*users)
                    new.signal(signal.SIGTERM)
                    await new.ended()
        assert failures == []

    asyncio.run(scenario())
