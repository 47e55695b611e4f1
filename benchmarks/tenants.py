"""What tenants, keys and limits cost a request: microseconds of CPU of each step, and of all of them together.

    python -m benchmarks.tenants [--requests 20000] [--json FILE]

The steps are called as the gateway calls them, one after the other, for a thousand tenants and chats of eight messages.
Each figure is the median of seven rounds, with their range. ``read`` is reading the body as JSON, which has to be done
anyway: it says how fast the machine was at the time.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.report import Report
from controller.backlog import Backlog
from controller.configuration import Configuration, parse
from controller.configuration.credentials import RANDOM_BYTES, StoredKey
from controller.limits import Limits
from controller.types import Ticket
from gateway.document import read
from gateway.endpoints import find
from gateway.nesting import deeper_than
from gateway.rate_limits import rate_limit_headers
from gateway.reserved import answers, impose
from gateway.tenants import Tenants
from predictors.types import Interval

_ROUNDS = 7
_TENANTS = 1000
_RATE = 10**12

Step = Callable[[int], None]
"""Takes the number of the request."""


def main(
    requests: Annotated[int, typer.Option(min=1, help="In each round.")] = 20_000,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report here too.")] = None,
) -> None:
    """Time each step, and all of them."""
    report = Report("benchmark tenants", None, {"requests": requests, "tenants": _TENANTS})
    steps = _steps()
    body = _body()

    def everything(index: int) -> None:
        for step in steps.values():
            step(index)

    for name, step in (*steps.items(), ("all", everything), ("read", lambda index: _nothing(read(body)))):
        report.row({"step": name}, {"cpu_us": _time(step, requests)})
    report.show(Console(), "microseconds a request (range of the rounds)")
    report.write(json_path)


def _steps() -> dict[str, Step]:
    """Each by name; the argument numbers the request."""
    keys, configuration = _fleet()
    tenants = Tenants(configuration)
    callers = [tenants.identify(headers) for headers in keys]
    settings = configuration.control_settings()
    limits = Limits({name: spec.quota for name, spec in settings.tenants.items()}, settings.quota)
    backlog = Backlog()
    body = _body()
    fields = json.loads(body)
    tickets = [Ticket(f"t{index}", "auto", f"tenant-{index}", body_bytes=len(body)) for index in range(_TENANTS)]
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None

    def keyed(index: int) -> None:
        tenants.identify(keys[index % _TENANTS])

    def depth(index: int) -> None:
        deeper_than(100, body, fields)

    def reserved(index: int) -> None:
        caller = callers[index % _TENANTS]
        impose(endpoint, fields, caller.longest_answer, 100)
        answers(endpoint, fields)
        if caller.cache_key is not None:
            caller.cache_key.salt()

    def limited(index: int) -> None:
        ticket = tickets[index % _TENANTS]
        refusal = limits.admit(ticket, 500, backlog, index * 1e-4)
        assert refusal is None, refusal
        backlog.add(ticket)
        backlog.remove(ticket)
        limits.end(ticket.id, 450, index * 1e-4)

    def shown(index: int) -> None:
        rate_limit_headers(limits.standing(tickets[index % _TENANTS].tenant, index * 1e-4))

    return {"key": keyed, "depth": depth, "members": reserved, "limits": limited, "headers": shown}


def _fleet() -> tuple[list[dict[bytes, bytes]], Configuration]:
    """The headers of each tenant's requests, and the configuration that knows them."""
    headers, listed = [], []
    for index in range(_TENANTS):
        key, stored = StoredKey.issue(index.to_bytes(4, "big") * (RANDOM_BYTES // 4))
        headers.append({b"authorization": b"Bearer " + key.encode(), b"content-type": b"application/json"})
        limits = {"requests_per_minute": _RATE, "tokens_per_minute": _RATE, "concurrency": 64, "max_tokens": 4096}
        listed.append({"name": f"tenant-{index}", "keys": [str(stored)], "limits": limits, "cache_isolation": True})
    pool = {"name": "p", "model": "m", "tier": 0, "workers": [{"url": "http://127.0.0.1:1"}]}
    return headers, parse({"pools": [pool], "tenants": listed, "auth": {"cache_secret": "of this benchmark"}})


def _body() -> bytes:
    messages = [{"role": "user" if index % 2 == 0 else "assistant", "content": "word " * 150} for index in range(8)]
    return json.dumps({"model": "auto", "messages": messages, "max_tokens": 100, "stream": True}).encode()


def _time(step: Step, requests: int) -> Interval:
    """Microseconds of CPU a call."""
    rounds = []
    for number in range(_ROUNDS):
        started = time.process_time()
        for index in range(number * requests, (number + 1) * requests):
            step(index)
        rounds.append((time.process_time() - started) / requests * 1e6)
    return Interval(statistics.median(rounds), min(rounds), max(rounds))


def _nothing(_: Any) -> None:
    """The result is of no interest."""


if __name__ == "__main__":
    typer.run(main)
