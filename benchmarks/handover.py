"""One gateway takes a port over from another under load: how many requests fail, beside uvicorn's own shutdown?

Clients open a connection for every request. In each round a second gateway begins to listen on the same port
(``SO_REUSEPORT``), and the first is told to end. ``uvicorn`` is the same application under ``uvicorn.Server`` as it is.

    python benchmarks/handover.py --json FILE
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
import uvloop
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli.report import Report
from controller.configuration import parse
from controller.store import ArtifactStore
from gateway.application import create_app
from gateway.draining import GatewayServer, bind
from gateway.server import protocol
from predictors.intervals import wilson
from upstream.client import Client
from upstream.errors import UpstreamError

_ANSWER = json.dumps(
    {"choices": [{"message": {"content": "yes"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
)
_BODY = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hello"}]}).encode()
_JSON = [(b"content-type", b"application/json")]
_GRACE_S = 10.0


@dataclass
class Seen:
    """What the clients of one way to end saw."""

    requests: int = 0
    failed: int = 0
    slowest_s: float = 0.0


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Handovers of each kind, in turn.")] = 8,
    clients: Annotated[int, typer.Option(min=1, help="At once.")] = 48,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of load before and after each handover.")] = 0.3,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE")] = None,
) -> None:
    """Hand over again and again, and count."""
    logging.disable(logging.CRITICAL)
    seen = {"headway": Seen(), "uvicorn": Seen()}

    async def run() -> None:
        for _ in range(rounds):
            for target, found in seen.items():
                await hand_over(target, found, clients, seconds)

    uvloop.run(run())
    report = Report("benchmarks handover", None, {"rounds": rounds, "clients": clients, "seconds": seconds})
    for target, found in seen.items():
        failed = wilson(found.failed, found.requests)
        counts = {"requests": found.requests, "failed": found.failed, "slowest_s": found.slowest_s}
        report.row({"target": target}, {**counts, "failed_share": failed})
    report.write(json_path)
    report.show(Console(), "One gateway takes over from another")
    if seen["headway"].failed:
        raise typer.Exit(1)


async def hand_over(target: str, found: Seen, clients: int, seconds: float) -> None:
    """One of them."""
    over = asyncio.Event()
    worker = await asyncio.start_server(_work, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{worker.sockets[0].getsockname()[1]}"
    async with gateway(target, url) as (old, port):
        users = [asyncio.ensure_future(use(port, found, over)) for _ in range(clients)]
        await asyncio.sleep(seconds)
        async with gateway(target, url, port):
            old.handle_exit(signal.SIGTERM, None)
            while old.started:
                await asyncio.sleep(0.02)
            await asyncio.sleep(seconds)
            over.set()
            await asyncio.gather(*users)
    worker.close()


@asynccontextmanager
async def gateway(target: str, worker: str, port: int = 0) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """A gateway that listens; ``started`` of its server is false once it has ended."""
    pool = {"name": "p", "model": "m", "tier": 0, "workers": [{"url": worker, "max_inflight": 64}]}
    app = create_app(
        parse({"pools": [pool], "scoring": {"length": None, "quality": None}}), store=ArtifactStore(None, None)
    )
    config = uvicorn.Config(app, http=protocol(app), lifespan="on", log_config=None, access_log=False)
    config.timeout_graceful_shutdown = round(_GRACE_S)
    config.load()
    ours = target == "headway"
    server = GatewayServer(config, app.runtime, grace_s=_GRACE_S) if ours else uvicorn.Server(config)
    sockets = bind("127.0.0.1", port, reuse_port=True)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets)

    async def live() -> None:
        await server.main_loop()
        await server.shutdown(sockets)
        server.started = False

    life = asyncio.get_running_loop().create_task(live())
    try:
        yield server, sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await life


async def use(port: int, found: Seen, over: asyncio.Event) -> None:
    """One client."""
    while not over.is_set():
        began = time.monotonic()
        client = Client()
        try:
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            async with client.stream(b"POST", url, headers=_JSON, body=_BODY) as response:
                await response.body()
                found.failed += response.status != 200
        except UpstreamError:
            found.failed += 1
        found.requests += 1
        found.slowest_s = max(found.slowest_s, time.monotonic() - began)
        await client.close()


async def _work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that answers everything alike."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(_ANSWER)}\r\n\r\n"
    try:
        while True:
            asked: Any = await reader.readuntil(b"\r\n\r\n")
            sizes = [
                line.partition(b":")[2] for line in asked.lower().split(b"\r\n") if line.startswith(b"content-length")
            ]
            await reader.readexactly(int(sizes[0]) if sizes else 0)
            writer.write((head + _ANSWER).encode())
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


if __name__ == "__main__":
    typer.run(main)
