"""Ten thousand slow streams at once through one gateway process: does any fail, and what memory do they take?

Every stream gets an event every few seconds and lasts until some time after the last one has begun, so that all are
open together. Workers and clients are processes of their own, and the clients come from several loopback addresses. A
stream takes two descriptors of the gateway; where the machine's hard limit does not allow that for all, as many as fit
are run, and the report says so.

    python benchmarks/streams.py --json FILE
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
import yaml
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli.bench.gateway_peers import clean_environment
from cli.bench.gateway_processes import Sampler, Server, free_port, page
from cli.report import Report

ROOT = Path(__file__).resolve().parent.parent
MODEL = "slow-model"
_PROCESSES = 2
"""Of workers, and of clients."""
_SPARE = 120
"""Descriptors of the gateway for anything else."""
_GOAL_MB = 1500.0
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_DONE = b"data: [DONE]\n\n"


def main(
    streams: Annotated[int, typer.Option(min=1, help="Open at once.")] = 10_000,
    ramp: Annotated[float, typer.Option(min=1, help="Streams begun a second.")] = 400.0,
    hold: Annotated[float, typer.Option(min=1, help="Seconds that all stay open.")] = 30.0,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two events of a stream.")] = 5.0,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE")] = None,
) -> None:
    """Open the streams, hold them, and count what failed."""
    console = Console()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fit = min(streams, (hard - _SPARE) // 2)
    if fit < streams:
        console.print(f"the hard limit of open files is {hard}: {fit} streams instead of {streams}")
    settings = {"streams": fit, "wanted": streams, "ramp": ramp, "hold": hold, "interval": interval, "files": hard}
    report = Report("benchmarks streams", None, settings)
    metrics = run(fit, ramp, hold, interval)
    report.row({"target": "headway", "mode": "slow streams"}, metrics)
    report.write(json_path)
    for name, value in metrics.items():
        console.print(f"{name:16}{value:12.6g}", highlight=False)
    if metrics["failed"] or metrics["open_at_once"] < fit or metrics["rss_mb"] > _GOAL_MB:
        raise typer.Exit(1)


def run(streams: int, ramp: float, hold: float, interval: float) -> dict[str, float]:
    """All of it: the metrics of the run."""
    events = int((streams / ramp + hold) / interval) + 1
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headway-streams-")))
        ports = []
        for _ in range(_PROCESSES):
            ours, theirs = context.Pipe()
            worker = context.Process(target=serve_slowly, args=(theirs, events, interval), daemon=True)
            worker.start()
            stack.callback(worker.terminate)
            ports.append(ours.recv())
        gateway = _gateway(folder, ports, streams)
        stack.callback(gateway.stop)
        rss_before = gateway.cost().rss_bytes / 1e6
        sampler = Sampler(gateway.pid, 1.0)
        sampler.start()
        cpu_before = gateway.cost().cpu_s
        pipes = []
        for index in range(_PROCESSES):
            ours, theirs = context.Pipe()
            share = streams // _PROCESSES + (index < streams % _PROCESSES)
            arguments = (theirs, gateway.port, share, ramp / _PROCESSES, events, index)
            client = context.Process(target=listen, args=arguments, daemon=True)
            client.start()
            stack.callback(client.terminate)
            pipes.append(ours)
        most = _watch(gateway, pipes)
        seen: list[dict[str, int]] = [pipe.recv() for pipe in pipes]
        samples = sampler.stop()
        cpu = gateway.cost().cpu_s - cpu_before
        return {
            "whole": float(sum(one["whole"] for one in seen)),
            "failed": float(sum(one["failed"] for one in seen)),
            "events": float(sum(one["events"] for one in seen)),
            "open_at_once": float(most),
            "rss_mb": max(sample.rss_mb for sample in samples),
            "rss_mb_idle": rss_before,
            "descriptors": float(max(sample.descriptors for sample in samples)),
            "cpu_s": cpu,
            "errors_kinds": float(len({kind for one in seen for kind in one if kind.startswith("error ")})),
        }


def _gateway(folder: Path, ports: Sequence[int], streams: int) -> Server:
    workers = [{"url": f"http://127.0.0.1:{port}", "max_inflight": streams} for port in ports]
    port = free_port()
    tree = {
        "listen": {"host": "127.0.0.1", "port": port},
        "pools": [{"name": "slow", "model": MODEL, "tier": 0, "workers": workers}],
        "stages": {"order": "fcfs", "fairness": "vtc", "place": "least_load"},
        "scoring": {"length": None, "quality": None},
        "records": {"dir": str(folder / "records")},
        "home": str(folder / "home"),
    }
    config = folder / "gateway.yaml"
    config.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "cli.main", "serve", "--config", str(config), "--log-level", "warning"]
    server = Server.start("headway", port, command, folder / "gateway.log", clean_environment(), ROOT)
    return server.wait(lambda: page(f"http://127.0.0.1:{port}/ready") is not None, 60)


def _watch(gateway: Server, pipes: Sequence[Connection]) -> int:
    """Until all clients have something to say: the most requests that were in flight at once."""
    most = 0
    while not all(pipe.poll() for pipe in pipes):
        found = page(f"http://127.0.0.1:{gateway.port}/admin/fleet", timeout=30)
        if found is not None:
            most = max(most, sum(pool["inflight"] for pool in json.loads(found)["pools"]))
        time.sleep(1.0)
    return most


class SlowWorker(asyncio.Protocol):
    """A vLLM server that takes its time: one request a connection at a time."""

    def __init__(self, events: int, interval: float) -> None:
        self._events = events
        self._interval = interval
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        if head.startswith(b"GET"):
            self._buffer = b""
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        elif body.endswith(b"}"):
            self._buffer = b""
            self._transport.write(_HEAD)
            self._go_on(0)

    def _go_on(self, sent: int) -> None:
        if sent == self._events:
            self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(_DONE), _DONE))
            return
        choice = {"index": 0, "delta": {"content": f" word{sent}"}, "finish_reason": None}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
        event = b"data: %b\n\n" % json.dumps(chunk).encode()
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._go_on, sent + 1)


def serve_slowly(pipe: Connection, events: int, interval: float) -> None:
    """A worker process; says its port."""

    async def run_() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: SlowWorker(events, interval), "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run_())


def listen(pipe: Connection, port: int, streams: int, rate: float, events: int, index: int) -> None:
    """A client process; says how many streams were whole, how many not and why, and how many events came."""
    seen = {"whole": 0, "failed": 0, "events": 0}

    async def one(number: int) -> None:
        problem = await _stream(number)
        seen["whole" if problem is None else "failed"] += 1
        if problem is not None:
            seen[f"error {problem}"] = seen.get(f"error {problem}", 0) + 1

    async def _stream(number: int) -> str | None:
        try:
            source = (f"127.0.{index + 1}.{number % 8 + 1}", 0)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=source, limit=4096)
            body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": f"{index} {number}"}]}
            raw = json.dumps(body).encode()
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n"
            writer.write(head + b"content-length: %d\r\n\r\n" % len(raw) + raw)
            status = (await reader.readline()).split(b" ")[1]
            came, done = 0, False
            while line := await reader.readline():
                came += line.startswith(b"data: {")
                done = done or line.startswith(b"data: [DONE]")
                if line == b"0\r\n":
                    break
            writer.close()
            seen["events"] += came
        except (OSError, ValueError, IndexError) as error:
            return type(error).__name__
        return None if status == b"200" and done and came == events else f"{status.decode()}, {came} events"

    async def all_() -> None:
        tasks = []
        began = time.monotonic()
        for number in range(streams):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(one(number)))
        await asyncio.gather(*tasks)

    uvloop.run(all_())
    for kind, count in seen.items():
        if kind.startswith("error "):
            sys.stderr.write(f"client {index}: {count} × {kind}\n")
    pipe.send(seen)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    typer.run(main)
