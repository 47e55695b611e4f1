"""The gateways that ``benchmarks.peers`` compares, each started as its users start it, and what workers say of a run.

=====================  ================================================================================================
``headway``            ``headway serve --config``: length ranks, virtual token counters, placement by prefix
``headway:VARIANT``    the same with other stages (:data:`VARIANTS`), to see what does what
``smg:POLICY``         smg, and its ``--policy``
``vllm-router:POLICY`` vllm-router, and its ``--policy``
``round_robin``        plain turns: vllm-router with ``--policy round_robin``
=====================  ================================================================================================

Peers run with their defaults besides, which are no limit on requests in flight that these loads reach.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from cli.bench.gateway_peers import PEERS, clean_environment, environment_of, launch, version
from cli.bench.gateway_processes import Server, free_port, page
from cli.bench.gateway_wrk import LoadError
from upstream.errors import MetricsError
from upstream.metrics import WorkerMetrics, parse

HEADWAY: Final = "headway"
ROUND_ROBIN: Final = "round_robin"
VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "": {},
    "fcfs": {"order": "fcfs", "fairness": "none"},
    "unfair": {"fairness": "none"},
    "unranked": {"order": "fcfs"},
    "dlpm": {"fairness": "dlpm"},
    "least_load": {"place": "least_load"},
}
"""What stands in place of the recommended stages, by what follows ``headway:``."""
RECOMMENDED: Final[Mapping[str, Any]] = {"order": "length_rank", "fairness": "vtc", "place": "prefix"}
_ROUTERS: Final = ("smg", "vllm-router")
_START_S: Final = 300.0
_IDLE_S: Final = 120.0
_LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Fleet:
    """The servers behind every gateway. ``max_inflight`` is how many requests headway keeps on one, ``context`` how
    many tokens it takes."""

    urls: tuple[str, ...]
    model: str
    max_inflight: int
    context: int


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running one."""

    url: str
    version: str


def check(system: str) -> None:
    """Raises LoadError for a name that stands for nothing."""
    name, _, choice = system.partition(":")
    if system == ROUND_ROBIN or (name == HEADWAY and choice in VARIANTS) or (name in _ROUTERS and choice):
        return
    variants = ", ".join(f"{HEADWAY}:{variant}" for variant in VARIANTS if variant)
    policies = ", ".join(f"{router}:POLICY" for router in _ROUTERS)
    raise LoadError(f"there is no system {system!r}; there are {HEADWAY}, {variants}, {policies} and {ROUND_ROBIN}")


@contextmanager
def running(system: str, fleet: Fleet, envs: Path, folder: Path, processes: int = 1) -> Iterator[Gateway]:
    """A gateway of its own before the fleet, ready, until the end of the block. Raises LoadError."""
    name, _, policy = system.partition(":")
    if name == HEADWAY:
        installed = "this tree"
        server = _headway(fleet, folder, VARIANTS[policy], processes)
    else:
        peer = PEERS["vllm-router" if name == ROUND_ROBIN else name]
        home = environment_of(peer, envs)
        installed = f"{peer.name} {version(peer, home)}"
        server = launch(peer, home, fleet.urls, folder, policy or ROUND_ROBIN)
    try:
        url = f"http://127.0.0.1:{server.port}"
        server.wait(lambda: _answers(url, fleet.model), _START_S)
        yield Gateway(url, installed)
    finally:
        server.stop()


def configuration(fleet: Fleet, port: int, folder: Path, stages: Mapping[str, Any]) -> dict[str, Any]:
    """headway's own, for its YAML file."""
    workers = [{"url": url, "max_inflight": fleet.max_inflight} for url in fleet.urls]
    return {
        "listen": {"host": "127.0.0.1", "port": port},
        "pools": [
            {"name": "pool", "model": fleet.model, "tier": 0, "context_length": fleet.context, "workers": workers}
        ],
        "stages": {**RECOMMENDED, **stages},
        "scoring": {"length": "length/fast", "quality": None},
        "limits": {"max_queue": 100_000, "max_queue_seconds": 3600},
        "home": str(folder / "home"),
    }


def _headway(fleet: Fleet, folder: Path, stages: Mapping[str, Any], processes: int) -> Server:
    port, path = free_port(), folder / "headway.yaml"
    path.write_text(yaml.safe_dump(configuration(fleet, port, folder, stages)), encoding="utf-8")
    command = [sys.executable, "-m", "cli.main", "serve", "--config", str(path), "--log-level", "warning"]
    command += ["--processes", str(processes)] if processes > 1 else []
    root = Path(__file__).resolve().parents[1]
    return Server.start(HEADWAY, port, command, folder / "headway.log", clean_environment(), root)


def _answers(url: str, model: str) -> bool:
    """Whether a request for one token gets it."""
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 1}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def metrics(url: str) -> WorkerMetrics:
    """What a worker says of itself. Raises LoadError."""
    found = page(f"{url}/metrics", timeout=30)
    if found is None:
        raise LoadError(f"{url}/metrics cannot be read; is the worker up?")
    try:
        return parse(found.decode())
    except MetricsError as error:
        raise LoadError(f"{url}/metrics: {error}") from error


def cached(before: Sequence[WorkerMetrics], after: Sequence[WorkerMetrics]) -> float | None:
    """Share of all prompt tokens since that the workers found in their prefix caches; ``None`` where they have none."""
    asked = sum((b.prefix_queries or 0) - (a.prefix_queries or 0) for a, b in zip(before, after, strict=True))
    found = sum((b.prefix_hits or 0) - (a.prefix_hits or 0) for a, b in zip(before, after, strict=True))
    return found / asked if asked else None


def wait_idle(urls: Sequence[str]) -> None:
    """Until the workers have nothing to do. Raises LoadError after two minutes."""
    limit = time.monotonic() + _IDLE_S
    while any((seen := metrics(url)).running + seen.waiting for url in urls):
        if time.monotonic() > limit:
            raise LoadError("the workers are still busy after the last answer; does somebody else use them?")
        time.sleep(_LOOK_S)
