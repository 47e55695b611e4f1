"""Gateways of several processes before scripted workers that count what they have in flight."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.gateway.harness import USAGE, Worker
from tests.upstream.servers import Exchange
from upstream.client import Client

ROOT = Path(__file__).resolve().parents[3]
START_S = 60.0


class Counting(Worker):
    """Takes ``seconds`` for every request, and remembers the most that it had at once."""

    def __init__(self, seconds: float) -> None:
        super().__init__(self._count)
        self.seconds = seconds
        self.now = 0
        self.most = 0
        self.served: Counter[str] = Counter()

    async def _count(self, exchange: Exchange) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            left = asyncio.ensure_future(exchange.client_left())
            done, _ = await asyncio.wait([left], timeout=self.seconds)
            if done:
                return
            left.cancel()
        finally:
            self.now -= 1
        self.served[str(exchange.json["user"])] += 1
        await exchange.reply_json({"id": "1", "choices": [{"message": {"content": "a"}}], "usage": USAGE})


@dataclass
class Serving:
    """``headway serve`` with its processes."""

    process: asyncio.subprocess.Process
    url: str
    said: list[str] = field(default_factory=list)

    @property
    def children(self) -> dict[str, int]:
        """Member → process id, of the newest of each."""
        found = {}
        for line in self.said:
            if "headway.supervisor: process " in line and " is " in line:
                name, pid = line.rstrip().split("process ")[1].split(" is ")
                found[name.split(".")[0]] = int(pid)
        return found

    async def get(self, path: str) -> Any:
        """JSON, over a connection of its own."""
        async with Client() as client, client.stream(b"GET", self.url + path) as response:
            return json.loads(await response.body())

    async def post(self, path: str) -> int:
        """The status of a request without a body."""
        async with Client() as client, client.stream(b"POST", self.url + path) as response:
            await response.body()
            return response.status

    async def page(self) -> str:
        """The metrics page, from whichever process answers."""
        async with Client() as client, client.stream(b"GET", self.url + "/metrics") as response:
            return (await response.body()).decode()

    async def heard(self, words: str, count: int = 1) -> None:
        """Wait for so many lines of the log."""
        async with asyncio.timeout(START_S):
            while sum(words in line for line in self.said) < count:
                assert self.process.returncode is None, "".join(self.said)
                await asyncio.sleep(0.02)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@asynccontextmanager
async def serving(
    folder: Path, settings: Mapping[str, Any], processes: int, grace: float = 5.0
) -> AsyncIterator[Serving]:
    """Started, and ready on every process; ended at the end of the block."""
    port = free_port()
    health = {"interval_s": 0.1, "report_interval_s": 0.5, "timeout_s": 2.0}
    scoring = {"length": None, "quality": None}
    file = folder / f"gateway-{port}.yaml"
    file.write_text(yaml.safe_dump({"listen": {"port": port}, "health": health, "scoring": scoring, **settings}))
    arguments = ["serve", "--config", str(file), "--processes", str(processes), "--pin", "--grace", str(grace)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", *arguments,
        cwd=ROOT, stderr=asyncio.subprocess.PIPE, env={**os.environ, "HEADWAY_HOME": str(folder / "home")},
    )  # fmt: skip
    found = Serving(process, f"http://127.0.0.1:{port}")
    assert process.stderr is not None
    reading = asyncio.ensure_future(_read(process.stderr, found.said))
    try:
        await found.heard("running on http", processes)
        yield found
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace + 20):
                await process.wait()
        except TimeoutError:
            process.kill()
            for pid in found.children.values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise
        finally:
            await reading


async def _read(stream: asyncio.StreamReader, lines: list[str]) -> None:
    async for line in stream:
        lines.append(line.decode())


class Caller:
    """One connection that is kept, and so one process. A broken one is not made again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = Client()
        self._turn = asyncio.Lock()
        self.ticket = ""

    async def process(self, key: str) -> str:
        """Which process serves it."""
        assert await self.ask("probe", key) == 200
        return self.ticket.split("-")[0]

    async def ask(self, tenant: str, key: str, model: str = "auto") -> int:
        """One request, after those before it; its status."""
        body = {"model": model, "user": tenant, "messages": [{"role": "user", "content": "hello"}]}
        headers = [(b"content-type", b"application/json"), (b"authorization", b"Bearer " + key.encode())]
        async with self._turn:
            url = self._url + "/v1/chat/completions"
            async with await self._client.send(b"POST", url, headers=headers, body=json.dumps(body).encode()) as answer:
                self.ticket = (answer.header(b"x-headway-ticket") or b"").decode()
                await answer.body()
                return answer.status

    async def close(self) -> None:
        await self._client.close()


def drive(scenario: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Run a scenario; it ends in time, or the test fails."""

    async def main() -> None:
        async with asyncio.timeout(seconds):
            await scenario()

    asyncio.run(main())
