from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.gateway.harness import (
    FIRST,
    HELLO,
    STREAM,
    Gateway,
    Worker,
    begin,
    chat,
    configured,
    drive,
    pool,
    serving,
    until,
    with_gateway,
)
from tests.upstream.servers import Exchange


async def call(gateway: Gateway, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    raw = b"" if body is None else json.dumps(body).encode()
    headers = [(b"content-type", b"application/json")] if raw else []
    async with gateway.client.stream(method.encode(), gateway.url + path, headers=headers, body=raw) as response:
        return response.status, json.loads(await response.body())


async def seen(gateway: Gateway, name: str) -> dict[str, Any] | None:
    fleet = await gateway.get("/admin/fleet")
    return next((worker for pool in fleet["pools"] for worker in pool["workers"] if worker["name"] == name), None)


async def phase(gateway: Gateway, name: str, wanted: str | None) -> dict[str, Any] | None:
    """Wait until the fleet shows the worker like that (``None``: not at all)."""
    async with asyncio.timeout(5):
        while (found := await seen(gateway, name)) is None or found["phase"] != wanted:
            if found is None and wanted is None:
                return None
            await asyncio.sleep(0.01)
        return found


def empty_pool() -> dict[str, Any]:
    return {"name": "p", "model": "p-model", "tier": 0, "discovery": {"kind": "admin"}}


def test_a_worker_told_by_the_operator_serves_and_leaves() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker, serving(configured(empty_pool())) as gateway:
            assert (await gateway.ask(HELLO))[0] == 503
            status, member = await call(gateway, "POST", "/admin/workers", {"pool": "p", "url": worker.url + "/"})
            assert (status, member["name"], member["source"], member["url"]) == (201, "p-0", "admin", worker.url)
            shown = await phase(gateway, "p-0", "ready")
            assert shown is not None
            assert shown["source"] == "admin"
            assert (await gateway.ask(HELLO))[0] == 200
            assert (await call(gateway, "DELETE", "/admin/workers/p-0"))[0] == 202
            await phase(gateway, "p-0", None)
            assert (await call(gateway, "GET", "/admin/workers")) == (200, [])

    drive(scenario)


def test_what_cannot_join_is_told_why() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        async def refused(body: dict[str, Any]) -> tuple[int, str]:
            status, answer = await call(gateway, "POST", "/admin/workers", body)
            return status, answer["error"]["message"]

        other = "http://127.0.0.1:9"
        assert await refused({"pool": "q", "url": other}) == (404, "no pool is called 'q'; known: 'p'")
        status, message = await refused({"pool": "p", "url": worker.url})
        assert (status, "as worker 'p-0'" in message) == (409, True)
        status, message = await refused({"pool": "p", "url": other, "name": "p-0"})
        assert (status, "already there" in message) == (409, True)
        status, message = await refused({"pool": "p", "url": other + "/v1"})
        assert (status, "leave /v1 out" in message) == (400, True)
        status, message = await refused({"pool": "p", "url": other, "max_inflight": 0})
        assert (status, "max_inflight" in message) == (400, True)
        status, message = await refused({"pool": "p", "url": other, "max_inflite": 3})
        assert (status, "unknown key 'max_inflite'; did you mean 'max_inflight'?" in message) == (400, True)
        assert [w["name"] for w in (await call(gateway, "GET", "/admin/workers"))[1]] == ["p-0"]

    with_gateway(chat, scenario)


@pytest.mark.parametrize("path", ["/admin/workers/none", "/admin/workers/none/drain", "/admin/workers/none/undrain"])
def test_a_worker_that_is_not_there(path: str) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        method = "DELETE" if path.endswith("none") else "POST"
        status, answer = await call(gateway, method, path)
        assert (status, answer["error"]["code"]) == (404, "unknown_worker")

    with_gateway(chat, scenario)


class Held:
    """Streams that end when the test says so."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.running = 0

    async def __call__(self, exchange: Exchange) -> None:
        if not exchange.json.get("stream"):
            return await chat(exchange)
        self.running += 1
        await begin(exchange)
        await exchange.chunk(FIRST)
        await self.go_on.wait()
        await exchange.chunk(STREAM.removeprefix(FIRST))
        await exchange.end()
        return None


def test_a_rolling_restart_of_workers_loses_no_request() -> None:
    async def scenario() -> None:
        held = Held()
        async with (
            Worker(held) as first,
            Worker(held) as second,
            serving(configured(pool("p", first, second))) as gateway,
        ):
            streams = [await gateway.post({**HELLO, "stream": True}) for _ in range(2)]
            await until(lambda: held.running == 2)
            status, member = await call(gateway, "POST", "/admin/workers/p-0/drain")
            assert (status, member["draining"]["removed_in_s"]) == (202, None)
            for _ in range(6):
                assert (await gateway.ask(HELLO))[0] == 200
            assert len([e for e in first.asked_for if not e.json.get("stream")]) == 0
            shown = await seen(gateway, "p-0")
            assert shown is not None
            assert (shown["phase"], shown["inflight"]) == ("draining", 1)
            held.go_on.set()
            assert [await stream.body() for stream in streams] == [STREAM] * 2
            await first.stop()  # restarted: for a while nothing answers there
            await asyncio.sleep(0.15)
            assert (await seen(gateway, "p-0") or {})["phase"] == "draining"
            await first.start()
            assert (await call(gateway, "POST", "/admin/workers/p-0/undrain"))[0] == 202
            await phase(gateway, "p-0", "ready")
            before = len(first.asked_for)
            for _ in range(6):
                assert (await gateway.ask(HELLO))[0] == 200
            assert len(first.asked_for) > before

    drive(scenario)


def test_a_worker_is_removed_when_its_requests_have_ended() -> None:
    async def scenario() -> None:
        held = Held()
        async with Worker(held) as worker, serving(configured(pool("p", worker))) as gateway:
            stream = await gateway.post({**HELLO, "stream": True})
            await until(lambda: held.running == 1)
            status, member = await call(gateway, "DELETE", "/admin/workers/p-0?grace_s=60")
            assert status == 202
            assert 0 < member["draining"]["removed_in_s"] <= 60
            await asyncio.sleep(0.25)
            assert await seen(gateway, "p-0") is not None
            held.go_on.set()
            assert await stream.body() == STREAM
            await phase(gateway, "p-0", None)

    drive(scenario)


@pytest.mark.parametrize("query", ["?drain=false", "?grace_s=0"])
def test_what_runs_on_a_removed_worker_goes_on(query: str) -> None:
    async def scenario() -> None:
        held = Held()
        async with Worker(held) as worker, serving(configured(pool("p", worker))) as gateway:
            stream = await gateway.post({**HELLO, "stream": True})
            await until(lambda: held.running == 1)
            assert (await call(gateway, "DELETE", "/admin/workers/p-0" + query))[0] == 202
            await until(lambda: gateway.app.runtime.roster.source("p-0") is None)
            held.go_on.set()
            assert await stream.body() == STREAM

    drive(scenario)


def test_undrain_calls_a_removal_off() -> None:
    async def scenario() -> None:
        held = Held()
        async with Worker(held) as worker, serving(configured(pool("p", worker))) as gateway:
            stream = await gateway.post({**HELLO, "stream": True})
            await until(lambda: held.running == 1)
            await call(gateway, "DELETE", "/admin/workers/p-0")
            assert (await call(gateway, "POST", "/admin/workers/p-0/undrain"))[1]["draining"] is None
            held.go_on.set()
            await stream.body()
            await phase(gateway, "p-0", "ready")
            await asyncio.sleep(0.25)
            assert (await gateway.ask(HELLO))[0] == 200

    drive(scenario)


def test_the_admin_token_guards_all_of_it() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        for method, path in (("POST", "/admin/workers"), ("DELETE", "/admin/workers/p-0"), ("POST", "/admin/reload")):
            body = {"pool": "p", "url": "http://127.0.0.1:9"} if path.endswith("workers") else None
            assert (await call(gateway, method, path, body))[0] == 401
        assert gateway.app.runtime.roster.source("p-0") is not None

    with_gateway(chat, scenario, admin={"token": "long enough"})


def test_an_engine_that_hangs_behind_a_healthy_page_is_found_by_a_probe_and_comes_back() -> None:
    hangs = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        if hangs.is_set():
            await exchange.client_left()
        elif exchange.path == "/v1/completions":
            await exchange.reply_json({"choices": [{"text": "1"}]})
        else:
            await chat(exchange)

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        await until(lambda: any(e.path == "/v1/completions" for e in worker.exchanges))
        hangs.set()
        shown = await phase(gateway, "p-0", "unhealthy")
        assert shown is not None
        assert "gives no token" in shown["error"]
        hangs.clear()
        await phase(gateway, "p-0", "ready")
        probe = next(e for e in worker.exchanges if e.path == "/v1/completions")
        assert (probe.json["model"], probe.json["max_tokens"]) == ("p-model", 1)

    health = {"interval_s": 0.05, "report_interval_s": 0.05, "probe": {"every_s": 0.1, "timeout_s": 0.2}}
    with_gateway(answer, scenario, health=health)


def test_a_request_that_gets_no_answer_has_the_worker_probed_at_once() -> None:
    hangs = True

    async def answer(exchange: Exchange) -> None:
        if hangs:
            await exchange.client_left()
        else:
            await chat(exchange)

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        nonlocal hangs
        assert (await gateway.ask(HELLO))[0] == 502
        await phase(gateway, "p-0", "unhealthy")
        hangs = False
        await phase(gateway, "p-0", "ready")

    health = {"interval_s": 0.05, "report_interval_s": 0.05, "probe": {"every_s": 600, "timeout_s": 0.2}}
    with_gateway(answer, scenario, health=health, timeouts={"first_byte_s": 0.1}, retries={"attempts": 1})


@pytest.mark.parametrize("status", [400, 404, 429, 503])
def test_a_server_that_only_refuses_the_probe_is_left_in(status: int) -> None:
    async def refuses(exchange: Exchange) -> None:
        await exchange.reply_json({"error": {}}, status)

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        await until(lambda: len(worker.asked_for) >= 3)
        assert (await seen(gateway, "p-0") or {})["phase"] == "ready"

    health = {"interval_s": 0.05, "report_interval_s": 0.05, "probe": {"every_s": 0.05, "timeout_s": 1}}
    with_gateway(refuses, scenario, health=health)
