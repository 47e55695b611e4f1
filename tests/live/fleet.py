"""What the live tests share: a gateway as a process, requests that are timed, and a look at a server's gauges."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import httpx
import yaml

from envs.engines.vllm_process import free_port
from envs.ladder.shapes import CONTEXT, shipped
from upstream.metrics import WorkerMetrics, parse


@dataclass(frozen=True)
class Pool:
    """A pool of the gateway's, and the model that its workers serve."""

    name: str
    model: str
    tier: int


MODEL, UPPER = "small", "medium"
"""Models of the ladder: the one that most tests use, and a better and slower one."""
SEATS = 2
"""``--max-num-seqs`` of each server: one more request waits inside it."""
QUICK, ABLE = Pool("quick", MODEL, 0), Pool("able", UPPER, 1)
POOL = QUICK.name
URGENT = "urgent"
"""The tenant whose clients may ask for priority."""
LONG = 1500
"""Output tokens that keep a seat taken for some seconds."""
LIMIT = 60.0
"""Seconds a single step may take."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Gateway:
    """A running gateway."""

    url: str
    log: Path


@contextmanager
def gateway_running(
    workers: Mapping[Pool, Sequence[str]], folder: Path, *, tier: Mapping[str, Any] | None = None
) -> Iterator[Gateway]:
    """A gateway as users start it: ``serve --config FILE``, with these workers' URLs by pool, and a tier stage."""
    port = free_port()
    config, log = folder / "gateway.yaml", folder / "gateway.log"
    pools = [
        {
            **asdict(pool),
            "context_length": CONTEXT,
            "workers": [{"url": url, "max_inflight": 8, "priority_scheduling": True} for url in urls],
        }
        for pool, urls in workers.items()
    ]
    tree = {
        "listen": {"host": "127.0.0.1", "port": port},
        "pools": pools,
        "tenants": [{"name": URGENT, "priority": {"min": -10, "max": 0}}],
        "stages": {"order": "fcfs", **({"tier": dict(tier)} if tier else {})},
        "health": {"interval_s": 0.5, "report_interval_s": 0.3},
        "home": str(folder / "home"),
    }
    config.write_text(yaml.safe_dump(tree))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "serve", "--config", str(config)],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    gateway = Gateway(f"http://127.0.0.1:{port}", log)
    try:
        _wait_ready(gateway, process, sum(map(len, workers.values())))
        yield gateway
    finally:
        process.terminate()
        process.wait(20)


def _wait_ready(gateway: Gateway, process: subprocess.Popen[bytes], workers: int) -> None:
    limit = time.monotonic() + LIMIT
    while ready_workers(gateway) < workers:
        assert process.poll() is None, f"the gateway ended:\n{gateway.log.read_text()}"
        assert time.monotonic() < limit, f"the gateway did not get ready:\n{gateway.log.read_text()}"
        time.sleep(0.2)


def ready_workers(gateway: Gateway) -> int:
    """How many workers the gateway gives requests to, as its admin endpoint says."""
    return sum(phase == "ready" for phase in phases(gateway).values())


def phases(gateway: Gateway) -> dict[str, str]:
    """Worker URL to its phase; nothing while the gateway does not answer."""
    return {worker["url"]: worker["phase"] for worker in _listed(gateway)}


def names(gateway: Gateway) -> dict[str, str]:
    """Worker URL to the gateway's name for it."""
    return {worker["url"]: worker["name"] for worker in _listed(gateway)}


def _listed(gateway: Gateway) -> list[dict[str, Any]]:
    try:
        fleet = httpx.get(f"{gateway.url}/admin/fleet", timeout=5.0)
    except httpx.TransportError:
        return []
    if fleet.status_code != 200:
        return []
    return [worker for pool in fleet.json()["pools"] for worker in pool["workers"]]


@dataclass
class Answer:
    """What a client saw of one request."""

    status: int = 0
    worker: str = ""
    """Which one answered, as the gateway says."""
    text: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    first_at: float | None = None
    ended_at: float | None = None
    done: bool = False
    error: Any = None

    @property
    def usage(self) -> dict[str, Any]:
        return next(event["usage"] for event in reversed(self.events) if event.get("usage"))


def body(prompt: str, max_tokens: int, **fields: Any) -> dict[str, Any]:
    """A completion of exactly ``max_tokens`` tokens, each of them visible, the same each time."""
    fixed = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "allowed_token_ids": visible_tokens(),
    }
    return {**fixed, **fields}


@cache
def visible_tokens() -> list[int]:
    """The tokens of single letters and digits: an answer of these alone shows something at each step."""
    known = json.loads((shipped(MODEL) / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return [known[letter] for letter in ascii_letters + digits]


async def stream(
    client: httpx.AsyncClient,
    url: str,
    payload: dict[str, Any],
    *,
    path: str = "/v1/completions",
    headers: dict[str, str] | None = None,
    started: Callable[[], None] | None = None,
) -> Answer:
    """POST with ``stream`` on; every event and when the first text came."""
    answer = Answer()
    request = client.stream("POST", url + path, json={**payload, "stream": True}, headers=headers, timeout=LIMIT * 3)
    async with request as response:
        answer.status = response.status_code
        answer.worker = response.headers.get("x-headway-worker", "")
        if answer.status != 200:
            answer.error = json.loads(await response.aread())
            return answer
        async for data in _events(response):
            if data == "[DONE]":
                answer.done = True
                continue
            event = json.loads(data)
            answer.events.append(event)
            answer.error = event.get("error", answer.error)
            for choice in event.get("choices", ()):
                text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                if text and answer.first_at is None:
                    answer.first_at = time.monotonic()
                    if started is not None:
                        started()
                answer.text += text
    answer.ended_at = time.monotonic()
    return answer


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


async def metrics(client: httpx.AsyncClient, url: str) -> WorkerMetrics:
    """A server's gauges now."""
    return parse((await client.get(f"{url}/metrics")).text)


async def until(
    client: httpx.AsyncClient, url: str, holds: Callable[[WorkerMetrics], bool], what: str
) -> WorkerMetrics:
    """Wait until a server's gauges are so."""
    limit = time.monotonic() + LIMIT
    while not holds(now := await metrics(client, url)):
        assert time.monotonic() < limit, f"{url}: not {what} after {LIMIT:.0f} s, but {now}"
        await asyncio.sleep(0.05)
    return now


async def whole(client: httpx.AsyncClient, url: str, payload: dict[str, Any], path: str) -> dict[str, Any]:
    """POST without streaming; the answer's JSON."""
    response = await client.post(url + path, json=payload, timeout=LIMIT * 3)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def value(page: str, name: str, **labels: str) -> float:
    """The sum of a metric's series that have these labels, on a Prometheus page."""
    wanted = [f'{label}="{text}"' for label, text in labels.items()]
    series = [line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in series if all(label in line for label in wanted))


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of headway's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")}
