"""What the fault tests share: a gateway as a process, workers that break as told, and the books that must agree.

One gateway process serves all tests. Each has a pool of its own there, named after it, whose workers listen at ports
that were chosen when the gateway started; a test's workers come and go at those ports.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from envs.engines.vllm_process import free_port
from tests.gateway.harness import METRICS
from tests.upstream.servers import Exchange, Handler, Server

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 30.0
"""Seconds that a single step may take on a busy machine; nothing is timed more closely."""
PATIENCE = 1.5
"""The gateway's own limits for a worker's first byte and between two pieces of an answer."""
LENIENCE = 7.0
"""And for a client's request, and for a client that does not read its answer."""
CHAT = "/v1/chat/completions"


def _distinct_ports(count: int) -> list[int]:
    """Ports that are free, none of them twice: the system may give one that was given back a moment ago again."""
    found: dict[int, None] = {}
    while len(found) < count:
        found[free_port()] = None
    return list(found)


POOLS: Mapping[str, tuple[int, dict[str, Any]]] = {
    "killed": (2, {"max_inflight": 16}),
    "hung": (2, {}),
    "stalling": (1, {}),
    "slow": (1, {}),
    "resetting": (2, {}),
    "cut": (1, {}),
    "garbage": (2, {}),
    "rubbish": (1, {}),
    "half-closed": (2, {}),
    "stale": (1, {}),
    "busy": (2, {}),
    "always-busy": (1, {}),
    "gone": (1, {}),
    "leaving": (1, {"max_inflight": 1}),
    "loris": (1, {}),
    "dribbling": (1, {}),
    "unread": (1, {}),
}
"""Pool to the number of its workers, and what the configuration says of each."""


class Gateway:
    """A running ``headway serve``."""

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, log: Path, workers: Mapping[str, list[int]]
    ) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.workers = workers
        """Pool to the ports at which the gateway looks for its workers."""

    @classmethod
    def start(
        cls, folder: Path, pools: Mapping[str, tuple[int, dict[str, Any]]], *options: str, **settings: Any
    ) -> Self:
        """Start one and wait until it listens; its workers need not be there."""
        ports = _distinct_ports(sum(count for count, _ in pools.values()))
        workers = {name: [ports.pop() for _ in range(count)] for name, (count, _) in pools.items()}
        listed = [
            {
                "name": name,
                "model": name,
                "tier": tier,
                "workers": [{"url": f"http://127.0.0.1:{port}", **pools[name][1]} for port in ports],
            }
            for tier, (name, ports) in enumerate(workers.items())
        ]
        tree = {
            "listen": {
                "host": "127.0.0.1",
                "port": free_port(),
                "client_head_s": LENIENCE,
                "client_body_s": LENIENCE,
                "client_stall_s": LENIENCE,
            },
            "pools": listed,
            "stages": {"order": "fcfs"},
            "scoring": {"length": None, "quality": None},
            "health": {"interval_s": 0.2, "report_interval_s": 0.2, "timeout_s": 2.0},
            "timeouts": {"connect_s": 2.0, "first_byte_s": PATIENCE, "idle_s": PATIENCE},
            "retries": {"attempts": 3, "breaker_errors": 20, "no_worker_s": 0.5},
            "records": {"dir": str(folder / "records")},
            "home": str(folder / "home"),
            **settings,
        }
        config, log = folder / "gateway.yaml", folder / "gateway.log"
        config.write_text(yaml.safe_dump(tree))
        command = [sys.executable, "-m", "cli.main", "serve", "--config", str(config), *options]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=output, stderr=subprocess.STDOUT)
        gateway = cls(process, tree["listen"]["port"], log, workers)
        gateway.wait(lambda: gateway.get("/health") is not None, "listening")
        return gateway

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path: str) -> bytes | None:
        """The body at this path; ``None`` while there is no good answer."""
        with suppress(OSError), urllib.request.urlopen(self.url + path, timeout=5) as answer:
            body: bytes = answer.read()
            return body
        return None

    def json(self, path: str) -> Any:
        found = self.get(path)
        assert found is not None, f"{path} does not answer; the log ends with\n{self.log.read_text()[-1500:]}"
        return json.loads(found)

    def wait(self, holds: Callable[[], object], what: str) -> None:
        """Until something holds."""
        limit = time.monotonic() + LIMIT
        while not holds():
            assert self.process.poll() is None, f"the gateway ended:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < limit, f"not {what} after {LIMIT:.0f} s:\n{self.log.read_text()[-1500:]}"
            time.sleep(0.05)

    def pool(self, name: str) -> dict[str, Any]:
        """A pool as the admin endpoint shows it."""
        pools: list[dict[str, Any]] = self.json("/admin/fleet")["pools"]
        return next(pool for pool in pools if pool["name"] == name)

    def phases(self, name: str) -> list[str]:
        """Of the pool's workers, in the configuration's order."""
        found = {worker["url"]: worker["phase"] for worker in self.pool(name)["workers"]}
        return [found[f"http://127.0.0.1:{port}"] for port in self.workers[name]]

    def ready(self, name: str, count: int) -> None:
        """Wait until so many of the pool's workers are given requests."""
        self.wait(lambda: self.pool(name)["ready"] == count, f"{count} workers of {name} ready")

    async def until_ready(self, name: str, count: int) -> None:
        """The same, in the event loop."""
        await asyncio.to_thread(self.ready, name, count)

    def counted(self) -> float:
        """Requests that have ended, by the gateway's metrics."""
        page = (self.get("/metrics") or b"").decode()
        lines = [line for line in page.splitlines() if line.startswith("headway_requests_total{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def decisions(self, model: str) -> list[dict[str, Any]]:
        """The decision records of requests for this model, newest first."""
        return [one for one in self.json("/admin/decisions?limit=1000") if one["model"] == model]


def environment() -> dict[str, str]:
    """Without settings of headway's own, and with one thread for numerics."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")}
    return {**kept, "OMP_NUM_THREADS": "1"}


@dataclass
class Books:
    """What clients sent for one model must be what the gateway has counted and recorded, each request once."""

    gateway: Gateway
    model: str
    sent: int = 0
    _counted: float = field(init=False)
    _recorded: int = field(init=False)

    def __post_init__(self) -> None:
        self._counted = self.gateway.counted()
        self._recorded = len(self.gateway.decisions(self.model))

    def balance(self) -> list[dict[str, Any]]:
        """Wait until all is booked, and nothing is left running; returns the new records, newest first."""
        gateway = self.gateway
        gateway.wait(lambda: self._idle(), f"idle: {gateway.pool(self.model)}")
        gateway.wait(lambda: gateway.counted() - self._counted >= self.sent, f"{self.sent} counted")
        assert gateway.counted() - self._counted == self.sent
        records = gateway.decisions(self.model)
        assert len(records) - self._recorded == self.sent
        return records[: self.sent]

    def _idle(self) -> bool:
        pool = self.gateway.pool(self.model)
        return bool(pool["inflight"] == pool["queued"] == 0)


class Worker(Server):
    """A scripted worker at one of a pool's ports. Its health is good; ``answer`` handles requests to generate."""

    def __init__(self, gateway: Gateway, pool: str, answer: Handler, index: int = 0) -> None:
        super().__init__(self._handle, gateway.workers[pool][index])
        self.answer = answer
        self.asked_for: list[Exchange] = []
        self.answering = 0
        """Requests whose handler has not ended."""

    async def _handle(self, exchange: Exchange) -> None:
        if exchange.method == "GET":
            await exchange.reply(METRICS.encode() if exchange.path == "/metrics" else b"")
            return
        self.asked_for.append(exchange)
        self.answering += 1
        try:
            await self.answer(exchange)
        finally:
            self.answering -= 1

    async def idle(self) -> None:
        """Wait until no request is left here: the gateway has let go of all."""
        await until(lambda: self.answering == 0, "the worker is still asked for something")


async def until(holds: Callable[[], object], why: str) -> None:
    """Wait in the event loop."""
    limit = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < limit, why
        await asyncio.sleep(0.01)


def drive(*parts: Any) -> None:
    """Run a scenario to its end."""

    async def main() -> None:
        async with asyncio.timeout(3 * LIMIT):
            for part in parts:
                await part

    asyncio.run(main())


def chat(model: str, **fields: Any) -> bytes:
    """A chat request."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}], **fields}).encode()


def sim_worker(port: int, model: str, log: Path) -> subprocess.Popen[bytes]:
    """A simulated worker as a process of its own."""
    command = [sys.executable, "-m", "cli.main", "worker", "sim", "--profile", "h100-8b", "--model", model]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*command, "--port", str(port)], cwd=ROOT, env=environment(), stdout=output, stderr=subprocess.STDOUT
        )


def errors(events: Sequence[bytes]) -> list[dict[str, Any]]:
    """Error objects among a stream's events."""
    objects = [json.loads(event.removeprefix(b"data: ")) for event in events if event.startswith(b"data: {")]
    return [one["error"] for one in objects if "error" in one]
