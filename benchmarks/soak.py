"""A mixed load for a quarter of an hour, with clients that leave in every phase: does memory or anything else grow?

Plain answers and streams from simulated workers, a part of whose clients leave: while their request waits, before the
answer's head, in the middle of a stream or of an answer. Reported are the slope of the gateway's resident memory after
warming up (Theil-Sen, MB a minute, 95 % interval), its open descriptors, and whether it has counted every request.

    python benchmarks/soak.py --minutes 15 --json FILE
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli.bench.gateway_config import Keys, launch
from cli.bench.gateway_peers import clean_environment
from cli.bench.gateway_processes import Sample, Sampler, Server, free_port, page
from cli.bench.gateway_prompts import prompts
from cli.bench.gateway_upstream import MODEL
from cli.report import Report
from predictors.types import Interval
from upstream.client import Client
from upstream.errors import UpstreamError

ROOT = Path(__file__).resolve().parent.parent
_WORKERS = 2
_SAMPLE_S = 2.0
_WARM_UP = 0.25
"""Share of the run that is left out of the slope."""
_LEAVE = 0.25
"""Share of clients that leave."""
_SHORTEST_STAY_S, _LONGEST_STAY_S = 0.02, 1.0


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long the load lasts.")] = 15.0,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 40.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE")] = None,
) -> None:
    """Load a gateway with its whole pipeline on, and watch it."""
    console = Console()
    report = Report("benchmarks soak", seed, {"minutes": minutes, "rate": rate, "leave": _LEAVE})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headway-soak-")))
        workers = [_worker(index, folder) for index in range(_WORKERS)]
        for worker in workers:
            stack.callback(worker.stop)
        for worker in workers:
            worker.wait(lambda port=worker.port: page(f"http://127.0.0.1:{port}/health") is not None, 60)  # type: ignore[misc]
        keys = Keys.issue()
        gateway = launch([f"http://127.0.0.1:{worker.port}" for worker in workers], folder, keys)
        stack.callback(gateway.stop)
        sampler = Sampler(gateway.pid, _SAMPLE_S)
        sampler.start()
        seen = uvloop.run(_load(gateway.port, minutes * 60, rate, keys.shown, random.Random(seed)))
        samples = sampler.stop()
        counted = _settled(gateway, sum(seen.values()))
        left = _inflight(gateway)
    metrics = _metrics(samples, seen, counted, left)
    report.row({"target": "headway", "mode": "mixed"}, metrics)
    report.extra("samples", [[round(s.at, 1), round(s.rss_mb, 2), s.descriptors] for s in samples])
    report.extra("outcomes", dict(seen))
    report.write(json_path)
    for name, value in metrics.items():
        shown = f"{value:.6g}" if isinstance(value, float) else f"{value.value:.4g} [{value.lo:.4g}, {value.hi:.4g}]"
        console.print(f"{name:28}{shown:>24}", highlight=False, markup=False)
    if seen["failed"] or left or not 0 <= sum(seen.values()) - counted <= seen["left"] // 20:
        raise typer.Exit(1)


def _metrics(samples: Sequence[Sample], seen: Counter[str], counted: int, left: int) -> dict[str, Interval | float]:
    late = [sample for sample in samples if sample.at >= _WARM_UP * samples[-1].at]
    minutes = [sample.at / 60 for sample in late]
    return {
        "rss_slope_mb_per_min": _slope([sample.rss_mb for sample in late], minutes),
        "descriptors_slope_per_min": _slope([float(sample.descriptors) for sample in late], minutes),
        "rss_mb_first": late[0].rss_mb,
        "rss_mb_last": late[-1].rss_mb,
        "descriptors_max": float(max(sample.descriptors for sample in samples)),
        "descriptors_last": float(samples[-1].descriptors),
        "sent": float(sum(seen.values())),
        "left": float(seen["left"]),
        "failed": float(seen["failed"]),
        "counted": float(counted),
        "still_in_flight": float(left),
    }


def _slope(values: Sequence[float], minutes: Sequence[float]) -> Interval:
    found = stats.theilslopes(values, minutes)
    return Interval(float(found.slope), float(found.low_slope), float(found.high_slope))


async def _load(port: int, seconds: float, rate: float, keys: Sequence[str], rng: random.Random) -> Counter[str]:
    """Poisson arrivals; outcomes by what clients saw: ``whole``, ``left``, ``failed``."""
    seen: Counter[str] = Counter()
    texts = prompts(2000, rng.randrange(1 << 30))
    tasks: set[asyncio.Task[None]] = set()
    async with Client(idle_per_origin=64) as client:

        async def one(number: int) -> None:
            streams, leaves = rng.random() < 0.6, rng.random() < _LEAVE
            stay = _SHORTEST_STAY_S + rng.random() ** 2 * _LONGEST_STAY_S if leaves else None
            key, text = keys[number % len(keys)], f"{texts[number % len(texts)]} [{number}]"
            seen[await _ask(client, port, key, text, streams, rng.randint(4, 120), stay)] += 1

        began, number = time.monotonic(), 0
        due = rng.expovariate(rate)
        while due < seconds:
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            task = asyncio.create_task(one(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            due += rng.expovariate(rate)
        await asyncio.gather(*tasks)
    return seen


async def _ask(client: Client, port: int, key: str, text: str, streams: bool, tokens: int, stay: float | None) -> str:
    """One request; after ``stay`` seconds its client leaves, wherever it is."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": streams}
    headers = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {key}".encode())]
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    try:
        async with asyncio.timeout(stay):
            async with await client.send(b"POST", url, headers=headers, body=json.dumps(body).encode()) as response:
                answer = await response.body()
    except TimeoutError:
        return "left"
    except UpstreamError:
        return "failed"
    ended = answer.rstrip().endswith(b"[DONE]") and b'"error"' not in answer if streams else b'"usage"' in answer
    return "whole" if response.status == 200 and ended else "failed"


def _worker(index: int, folder: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "cli.main", "worker", "sim", "--profile", "h100-8b", "--model", MODEL]
    command += ["--scheduling-policy", "priority", "--port", str(port)]
    return Server.start(f"worker-{index}", port, command, folder / f"worker-{index}.log", clean_environment(), ROOT)


def _settled(gateway: Server, sent: int) -> int:
    """Requests that the gateway has counted, once nothing more comes; one that left before it was read is not one."""
    limit = time.monotonic() + 15
    while (counted := _counted(gateway)) < sent and time.monotonic() < limit:
        time.sleep(0.2)
    return counted


def _counted(gateway: Server) -> int:
    """Requests that have ended, whatever became of them."""
    lines = (page(f"http://127.0.0.1:{gateway.port}/metrics", 30) or b"").decode().splitlines()
    wanted = [line for line in lines if line.startswith("headway_requests_total{")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in wanted))


def _inflight(gateway: Server) -> int:
    fleet = json.loads(page(f"http://127.0.0.1:{gateway.port}/admin/fleet", 30) or b'{"pools": []}')
    return sum(pool["inflight"] + pool["queued"] for pool in fleet["pools"])


if __name__ == "__main__":
    typer.run(main)
