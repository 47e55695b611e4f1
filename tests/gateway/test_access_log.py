from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from controller.configuration import parse
from controller.errors import ConfigurationError
from gateway.access_log import AccessLog
from gateway.tenants import Tenants
from gateway.trail import Trail, Trails
from tests.gateway.harness import (
    HELLO,
    Gateway,
    Worker,
    chat,
    configured,
    drive,
    hold_stream,
    pool,
    serving,
    until,
)
from tests.gateway.test_metrics import POOL, RECORD
from tests.upstream.servers import Exchange

TENANTS = Tenants(parse({"pools": [POOL]}))
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def logged(
    path: Path,
    scenario: Callable[[Gateway, Worker], Awaitable[None]],
    answer: Callable[[Exchange], Awaitable[None]] = chat,
    **settings: Any,
) -> list[dict[str, Any]]:
    """What is in the log once the gateway has ended."""
    log = {"enabled": True, "path": str(path), **settings.pop("access_log", {})}

    async def run() -> None:
        async with (
            Worker(answer) as worker,
            serving(configured(pool("p", worker), access_log=log, **settings)) as gateway,
        ):
            await scenario(gateway, worker)
            await gateway.quiet()

    drive(run)
    return lines(path)


def test_a_request_has_one_line_that_says_all(tmp_path: Path) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        headers = {
            "x-request-id": "mine",
            "x-headway-tenant": "gold",
            "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
            "authorization": "Bearer very-secret-key",
        }
        body = {**HELLO, "stream": True, "messages": [{"role": "user", "content": "very secret prompt"}]}
        status, answer = await gateway.ask(body, headers=headers)
        assert status == 200
        sizes.append(len(answer))

    sizes: list[int] = []
    tenants = [{"name": "gold", "class": "paying"}]
    [line] = logged(tmp_path / "log", scenario, tenants=tenants)
    assert {key: line[key] for key in ("request_id", "tenant", "class", "method", "path", "status", "model")} == {
        "request_id": "mine",
        "tenant": "gold",
        "class": "paying",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "model": "auto",
    }
    assert (line["pool"], line["worker"], line["attempts"], line["continued"]) == ("p", "p-0", 1, 0)
    assert (line["input_tokens"], line["output_tokens"], line["cached_tokens"]) == (7, 3, None)
    assert (line["bytes_out"], line["code"], line["trace_id"]) == (sizes[0], None, TRACE)
    assert 0 <= line["queue_ms"] <= line["ttft_ms"] <= line["duration_ms"] + 1
    assert line["bytes_in"] > 50
    assert line["time"].endswith("Z")
    assert "secret" not in (tmp_path / "log").read_text()


def test_every_way_to_end_has_its_line(tmp_path: Path) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        await gateway.ask(b"{", headers={"x-headway-tenant": "stranger"})
        await gateway.ask({**HELLO, "model": "unknown"})
        await gateway.ask({**HELLO, "max_tokens": 1})

    found = logged(tmp_path / "log", scenario)
    assert [(line["status"], line["code"], line["tenant"]) for line in found] == [
        (400, "invalid_json", "other"),
        (404, "model_not_found", "default"),
        (200, None, "default"),
    ]


def test_a_client_that_leaves_has_a_line_too(tmp_path: Path) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        response = await gateway.post({**HELLO, "stream": True})
        await response.read()
        response.close()
        await gateway.quiet()

    [line] = logged(tmp_path / "log", scenario, hold_stream)
    assert (line["status"], line["code"]) == (200, "client_left")


def test_further_attempts_are_counted(tmp_path: Path) -> None:
    async def failing_once(exchange: Exchange) -> None:
        if not seen:
            seen.append(exchange)
            await exchange.reply(b"", 500)
        else:
            await chat(exchange)

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        assert (await gateway.ask(HELLO))[0] == 200

    seen: list[Exchange] = []
    [line] = logged(tmp_path / "log", scenario, failing_once)
    assert (line["attempts"], line["status"]) == (2, 200)


def test_of_what_went_well_a_sample_is_enough(tmp_path: Path) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        for _ in range(5):
            await gateway.ask(HELLO)
            await gateway.ask({**HELLO, "model": "unknown"})

    found = logged(tmp_path / "log", scenario, access_log={"sample": 0})
    assert [line["status"] for line in found] == [404] * 5


def test_a_reload_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "log"

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        await gateway.ask(HELLO, headers={"x-request-id": "first"})
        await until(lambda: path.exists() and len(lines(path)) == 1)
        path.rename(tmp_path / "log.1")
        with pytest.raises(ConfigurationError):  # it was not started from a file; the log is opened anew all the same
            await gateway.app.runtime.reload()
        await until(path.exists)
        await gateway.ask(HELLO, headers={"x-request-id": "second"})

    assert [line["request_id"] for line in logged(path, scenario)] == ["second"]
    assert [line["request_id"] for line in lines(tmp_path / "log.1")] == ["first"]


def test_a_file_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    log = {"enabled": True, "path": str(tmp_path / "nowhere" / "log")}

    async def run() -> None:
        with pytest.raises(ConfigurationError, match=r"access_log\.path.*No such file"):
            async with serving(configured(pool("p", "http://127.0.0.1:1"), access_log=log)):
                pass

    drive(run)


class Standing:
    """As much of an exchange as a trail asks for."""

    method, path, status, sent = "POST", "/v1/chat/completions", 200, 10
    fields: ClassVar[dict[bytes, bytes]] = {}


def trail(ticket: str) -> Trail:
    one = Trail(Trails([], lambda: 0.0), Standing(), ticket, ticket.encode(), 0.0)  # type: ignore[arg-type]
    one.record = RECORD
    return one


def test_lines_that_find_no_room_are_dropped_and_counted(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "log", 1.0, 0.0, TENANTS, pending=3)
    for i in range(5):
        log.take(trail(f"t{i}"))
    assert log.dropped == 2
    log.start()
    log.close()
    assert [line["ticket"] for line in lines(tmp_path / "log")] == ["t0", "t1", "t2"]


def test_a_full_disk_loses_lines_and_no_more(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    log = AccessLog(Path("/dev/full"), 1.0, 0.0, TENANTS)
    log.take(trail("t"))
    log.start()
    log.close()
    assert log.dropped == 1


def test_a_line_is_never_cut_by_a_slow_reader(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(fifo, 1.0, 0.0, TENANTS)
    for i in range(2000):
        log.take(trail(f"t{i}"))
    log.start()
    os.set_blocking(reader, True)
    with os.fdopen(reader, "rb") as stream:
        found = [json.loads(stream.readline())["ticket"] for _ in range(2000)]
    log.close()
    assert found == [f"t{i}" for i in range(2000)]


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_sample_is_about_as_large_as_it_should_be(tmp_path: Path, share: float) -> None:
    log = AccessLog(tmp_path / "log", share, 0.0, TENANTS)
    for i in range(4000):
        log.take(trail(f"ab12cd34-{i:x}"))
    log.start()
    log.close()
    assert abs(len(lines(tmp_path / "log")) / 4000 - share) < 0.05
