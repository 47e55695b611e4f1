"""Cut streams of real vLLM at random tokens, and see what the client is told of it.

    python -m benchmarks.continuation [--model DIR] [--kills 5] [--cuts 45] [--json FILE]

Two vLLM servers (CPU, float32, greedy, one thread each) behind one gateway, with a proxy between the gateway and each
that can cut a connection at any byte. Every prompt is asked twice: once left alone, once with its worker's connection
cut, or its worker killed (SIGKILL, and started anew), at a random token. The two texts must be the same, unless the
model itself was undecided where they part: the top two tokens of the unbroken answer are nearly as likely there.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.report import Report
from envs import tasks
from envs.engines.vllm_process import VllmOptions, VllmProcess, free_port
from predictors.intervals import wilson
from upstream import sse
from upstream.client import Client
from upstream.types import Timeouts

NEAR_TIE = 1e-3
"""Difference of the top two log-probabilities below which either token may come."""
_MODEL = "medium"
_LONGEST = 400
_START_S = 600.0
_TRIES = 5
_LONG_ANSWERS = frozenset({tasks.Style.STEPS, tasks.Style.CHECKED})


@dataclass
class Blow:
    """What is to happen to the next stream: after ``events`` events and ``more`` bytes of the next one."""

    events: int
    more: int
    kill: bool


class Proxy:
    """Passes bytes between the gateway and one server, and strikes when it is told to."""

    def __init__(self, server: VllmProcess) -> None:
        self.server = server
        self.port = 0
        self.blow: list[Blow] = []
        """Shared by all proxies: the first to carry a stream takes it."""
        self.struck = 0
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on a free port."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.close()
        for task in tuple(self._tasks):
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.server.options.port)
        except OSError:
            writer.transport.abort()
            return
        up = asyncio.ensure_future(_pass(reader, back))
        self._tasks.add(up)
        up.add_done_callback(self._tasks.discard)
        try:
            await self._down(there, writer)
        finally:
            up.cancel()
            back.transport.abort()
            writer.transport.abort()

    async def _down(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        blow: Blow | None = None
        events = 0
        with suppress(OSError):
            while data := await there.read(1 << 16):
                if blow is None and self.blow and b"text/event-stream" in data:
                    blow = self.blow.pop()
                if blow is not None:
                    ends = [at for at in range(len(data)) if data.startswith(b"\n\n", at)]
                    if events + len(ends) > blow.events:
                        end = ends[blow.events - events] + 2
                        writer.write(data[: min(end + blow.more, len(data))])
                        await self._strike(blow, writer)
                        return
                    events += len(ends)
                writer.write(data)
                await writer.drain()

    async def _strike(self, blow: Blow, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await writer.drain()
        self.struck += 1
        if blow.kill:
            self.server.kill()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


@dataclass
class Answer:
    """What one client was told."""

    text: str = ""
    heads: set[tuple[str, str, int]] = field(default_factory=set)
    roles: int = 0
    finish: list[str] = field(default_factory=list)
    usage: Mapping[str, int] | None = None
    done: bool = False
    events: int = 0
    pauses: list[float] = field(default_factory=list)
    error: str | None = None

    @property
    def unbroken(self) -> bool:
        """One id and ``created``, one role, one finish reason, a usage, ``[DONE]``, and no error."""
        parts = (len(self.heads), self.roles, len(self.finish))
        return parts == (1, 1, 1) and self.usage is not None and self.done and self.error is None


async def ask(client: Client, url: str, body: Mapping[str, Any]) -> Answer:
    """One stream, read to its end."""
    answer = Answer()
    buffer = sse.EventBuffer()
    last = time.perf_counter()
    raw = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    headers = [(b"content-type", b"application/json")]
    patience = Timeouts(first_byte=120.0, idle=120.0)
    async with client.stream(b"POST", f"{url}/v1/chat/completions", headers=headers, body=raw, timeouts=patience) as r:
        if r.status != 200:
            answer.error = f"status {r.status}: {(await r.body())[:200]!r}"
            return answer
        async for chunk in r.chunks():
            for event in sse.split(buffer.feed(chunk)):
                now = time.perf_counter()
                answer.pauses.append(now - last)
                last = now
                _read(answer, event)
    return answer


def _read(answer: Answer, event: bytes) -> None:
    data = sse.data(event)
    if data is None:
        return
    answer.events += 1
    if data == sse.DONE:
        answer.done = True
        return
    content = json.loads(data)
    if "error" in content:
        answer.error = content["error"]["message"]
        return
    answer.heads.add((content["id"], content["model"], content["created"]))
    answer.usage = content.get("usage") or answer.usage
    for choice in content["choices"]:
        answer.text += choice["delta"].get("content") or ""
        answer.roles += "role" in choice["delta"]
        if choice["finish_reason"] is not None:
            answer.finish.append(choice["finish_reason"])


async def near_tie(client: Client, url: str, body: Mapping[str, Any], text: str) -> float | None:
    """Difference of the top two log-probabilities of the unbroken answer where ``text`` parts from it; ``None`` if it
    does not."""
    raw = json.dumps({**body, "logprobs": True, "top_logprobs": 2}).encode()
    headers = [(b"content-type", b"application/json")]
    async with client.stream(b"POST", f"{url}/v1/chat/completions", headers=headers, body=raw) as response:
        told = json.loads(await response.body())
    if response.status != 200:
        raise RuntimeError(f"the unbroken answer's probabilities cannot be had: {told}")
    choice = told["choices"][0]
    at = ""
    for token in choice["logprobs"]["content"]:
        at += token["token"]
        if not text.startswith(at):
            first, second = token["top_logprobs"][:2]
            return abs(float(first["logprob"]) - float(second["logprob"]))
    return None


@asynccontextmanager
async def gateway(ports: list[int], mode: str, folder: Path) -> AsyncIterator[str]:
    """``headway serve`` as a process of its own, until the end of the block."""
    port = free_port()
    workers = [{"name": f"w{i}", "url": f"http://127.0.0.1:{p}", "max_inflight": 8} for i, p in enumerate(ports)]
    health = {"interval_s": 0.5, "failures": 2}
    file = folder / "headway.yaml"
    configuration = {
        "pools": [{"name": _MODEL, "model": _MODEL, "tier": 0, "context_length": 2048, "workers": workers}],
        "continuation": {"mode": mode},
        "scoring": {"length": None, "quality": None},
        "health": health,
        "stages": {"place": "round_robin"},
        "retries": {"no_worker_s": 30},
    }
    file.write_text(json.dumps(configuration), encoding="utf-8")
    command = [sys.executable, "-m", "cli.main", "serve", "--config", str(file), "--port", str(port)]
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HEADWAY_HOME": str(folder)})
    url = f"http://127.0.0.1:{port}"
    try:
        async with Client() as client:
            await _ready(client, url, len(ports))
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


async def _ready(client: Client, url: str, workers: int) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        with suppress(Exception):
            async with client.stream(b"GET", f"{url}/admin/fleet") as response:
                phases = Counter(_phases(json.loads(await response.body())))
                if phases["ready"] >= workers:
                    return
        await asyncio.sleep(0.25)
    raise RuntimeError("the gateway did not become ready; its log says why")


def _phases(found: Any) -> list[str]:
    """Every ``phase`` in the fleet's description."""
    if isinstance(found, dict):
        own = [found["phase"]] if isinstance(found.get("phase"), str) else []
        return own + [phase for value in found.values() for phase in _phases(value)]
    return [phase for value in found for phase in _phases(value)] if isinstance(found, list) else []


class Bench:
    """The servers, their proxies, and what was found."""

    def __init__(self, model: Path, folder: Path, rng: Random) -> None:
        self.rng = rng
        self._folder = folder
        self._options = [_options(model, free_port()) for _ in range(2)]
        self.proxies: list[Proxy] = []
        self.rows: list[dict[str, Any]] = []

    async def start(self) -> None:
        """Start servers and proxies."""
        servers = [self._start(options) for options in self._options]
        for server in servers:
            await asyncio.to_thread(server.wait_ready, _START_S)
        self.proxies = [Proxy(server) for server in servers]
        for proxy in self.proxies:
            await proxy.start()

    async def close(self) -> None:
        """Stop all."""
        for proxy in self.proxies:
            await proxy.close()
            await asyncio.to_thread(proxy.server.stop)

    def revive(self) -> None:
        """Start what was killed anew, on its old port."""
        for proxy, options in zip(self.proxies, self._options, strict=True):
            if not proxy.server.alive:
                proxy.server = self._start(options)

    async def all_alive(self) -> None:
        """Wait until both servers answer."""
        for proxy in self.proxies:
            await asyncio.to_thread(proxy.server.wait_ready, _START_S)

    async def one(self, client: Client, url: str, body: Mapping[str, Any], *, kill: bool) -> None:
        """Ask once undisturbed and once struck, and compare."""
        whole = await ask(client, url, body)
        if not whole.unbroken:
            raise RuntimeError(f"an undisturbed stream failed: {whole.error}")
        for _ in range(_TRIES):  # a server that is behind puts several tokens into an event: the blow may come too late
            blow = Blow(self.rng.randrange(0, max(1, whole.events - 2)), self.rng.choice([0, 0, 1, 40, 150]), kill)
            before = sum(proxy.struck for proxy in self.proxies)
            shared = [blow]
            for proxy in self.proxies:
                proxy.blow = shared
            struck = await ask(client, url, body)
            cut = sum(proxy.struck for proxy in self.proxies) > before
            if cut:
                break
        differs = struck.unbroken and struck.text != whole.text
        gap = await near_tie(client, url, body, struck.text) if differs else None
        self.rows.append(
            {
                "mode": "kill" if kill else "cut",
                "at": blow.events,
                "struck": cut,
                "unbroken": struck.unbroken,
                "same": struck.text == whole.text,
                "near_tie": gap is not None and gap < NEAR_TIE,
                "gap": gap,
                "usage": struck.usage == whole.usage,
                "tokens": (whole.usage or {}).get("completion_tokens", 0),
                "pause": max(struck.pauses[1:], default=0.0),
                "error": struck.error,
            }
        )

    def _start(self, options: VllmOptions) -> VllmProcess:
        return VllmProcess.start(options, self._folder / f"vllm-{options.port}.log")


def _options(model: Path, port: int) -> VllmOptions:
    extra = ("--dtype", "float32")
    return VllmOptions(model, _MODEL, port, max_num_seqs=8, max_model_len=2048, threads=1, extra=extra)


def prompts(seed: int, number: int) -> list[dict[str, Any]]:
    """Greedy requests for long answers."""
    found = [t for t in tasks.generate(seed, 40 * number, tasks.Split.TEST) if t.style in _LONG_ANSWERS]
    found.sort(key=lambda task: -len(task.worked))
    return [{"model": _MODEL, "messages": t.messages, "temperature": 0, "max_tokens": _LONGEST} for t in found[:number]]


async def run(model: Path, kills: int, cuts: int, mode: str, seed: int, folder: Path, console: Console) -> Bench:
    """All of it: between two kills, while a server starts anew, connections are cut."""
    rng = Random(seed)
    bench = Bench(model, folder, rng)
    bodies = prompts(seed, kills + cuts)
    rng.shuffle(bodies)
    plan = [index * max(1, (kills + cuts) // max(1, kills)) for index in range(kills)]
    try:
        console.print("starting two servers …")
        await bench.start()
        async with gateway([proxy.port for proxy in bench.proxies], mode, folder) as url, Client() as client:
            for index, body in enumerate(bodies):
                kill = index in plan
                if kill:
                    await bench.all_alive()
                    await _ready(client, url, len(bench.proxies))
                await bench.one(client, url, body, kill=kill)
                bench.revive()
                row = bench.rows[-1]
                console.print(f"{index + 1}/{len(bodies)} {row}", highlight=False)
    finally:
        await bench.close()
    return bench


def main(
    model: Annotated[Path, typer.Option(help="The model's folder.")] = Path("models/ladder/medium"),
    kills: Annotated[int, typer.Option(min=0, help="Streams whose worker is killed.")] = 5,
    cuts: Annotated[int, typer.Option(min=0, help="Streams whose connection is cut.")] = 45,
    mode: Annotated[str, typer.Option(help="tokens or text, as in continuation.mode.")] = "tokens",
    seed: Annotated[int, typer.Option(help="Of prompts and cuts.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
) -> None:
    """Strike, compare, print, and write; ends with 1 if a stream broke, or a text differs without a near tie."""
    console = Console(width=140)
    with tempfile.TemporaryDirectory() as folder:
        bench = asyncio.run(run(model, kills, cuts, mode, seed, Path(folder), console))
    settings = {"model": str(model), "kills": kills, "cuts": cuts, "mode": mode, "near_tie": NEAR_TIE}
    report = Report("benchmarks continuation", seed, {**settings, "dtype": "float32", "servers": 2})
    for kind in ("kill", "cut"):
        rows = [row for row in bench.rows if row["mode"] == kind]
        if rows:
            report.row({"mode": kind}, _metrics(rows))
    report.row({"mode": "all"}, _metrics(bench.rows))
    report.extra("streams", bench.rows)
    console.print(report.table("Streams struck at a random token"))
    report.write(json_path)
    if not all(row["struck"] and row["unbroken"] and (row["same"] or row["near_tie"]) for row in bench.rows):
        raise typer.Exit(1)


def _metrics(rows: list[dict[str, Any]]) -> dict[str, Any]:
    pauses = sorted(row["pause"] for row in rows)
    shares = {f"{name}": wilson(sum(row[name] for row in rows), len(rows)) for name in ("unbroken", "same", "usage")}
    return {
        "streams": float(len(rows)),
        "struck": float(sum(row["struck"] for row in rows)),
        **shares,
        "near_ties": float(sum(row["near_tie"] for row in rows)),
        "tokens_mean": sum(row["tokens"] for row in rows) / len(rows),
        "pause_p50_s": pauses[len(pauses) // 2],
        "pause_max_s": pauses[-1],
    }


if __name__ == "__main__":
    typer.run(main)
