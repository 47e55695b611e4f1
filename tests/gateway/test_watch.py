from __future__ import annotations

import asyncio

import pytest

from tests.gateway.harness import (
    HELLO,
    Gateway,
    Worker,
    chat,
    configured,
    drive,
    hold,
    pool,
    serving,
    until,
    with_gateway,
)
from tests.upstream.servers import Exchange


def phases(gateway: Gateway) -> dict[str, str]:
    runtime = gateway.app.runtime
    view = runtime.plane.view(runtime.driver.now())
    return {worker.name: worker.phase.value for one in view.pools for worker in one.workers}


def test_a_healthy_worker_is_ready_before_the_first_request() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        assert phases(gateway) == {"p-0": "ready"}

    with_gateway(chat, scenario)


def test_a_worker_that_is_not_there_is_out_at_once_and_says_why() -> None:
    async def scenario() -> None:
        async with serving(configured(pool("p", "http://127.0.0.1:1"))) as gateway:
            assert phases(gateway) == {"p-0": "unhealthy"}
            fleet = await gateway.get("/admin/fleet")
            assert "cannot connect" in fleet["pools"][0]["workers"][0]["error"]

    drive(scenario)


def test_a_dead_engine_is_taken_out_and_comes_back() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        worker.healthy = False
        await until(lambda: phases(gateway) == {"p-0": "unhealthy"})
        assert "503" in gateway.app.runtime.watch.errors()["p-0"]
        worker.healthy = True
        await until(lambda: phases(gateway) == {"p-0": "ready"})
        assert gateway.app.runtime.watch.errors() == {}
        assert (await gateway.ask(HELLO))[0] == 200

    with_gateway(chat, scenario)


def test_one_bad_look_is_not_enough() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        watch = gateway.app.runtime.watch
        looks = len(worker.exchanges)
        worker.healthy = False
        await until(lambda: any(e.path == "/health" for e in worker.exchanges[looks:]))
        worker.healthy = True
        await asyncio.sleep(0.2)
        assert phases(gateway) == {"p-0": "ready"}
        assert watch.errors() == {}

    with_gateway(chat, scenario, health={"interval_s": 0.05, "failures": 5})


def test_a_hanging_health_endpoint_is_a_failed_look() -> None:
    async def hanging(exchange: Exchange) -> None:
        await hold(exchange)

    async def scenario() -> None:
        async with Worker(chat) as worker:
            quick = configured(pool("p", worker), health={"interval_s": 0.05, "timeout_s": 0.05})
            async with serving(quick) as gateway:
                worker.handler = hanging
                await until(lambda: phases(gateway) == {"p-0": "unhealthy"})

    drive(scenario)


def test_a_failed_request_brings_the_next_look_forward() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker:
            rare = {"interval_s": 60, "report_interval_s": 60, "failures": 1}
            slow = configured(pool("p", worker), health=rare, retries={"attempts": 1, "no_worker_s": 0.01})
            async with serving(slow) as gateway:
                await worker.stop()
                await gateway.ask(HELLO)
                await until(lambda: phases(gateway) == {"p-0": "unhealthy"})

    drive(scenario)


def test_reports_reach_the_control_plane() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        runtime = gateway.app.runtime
        await until(lambda: runtime.plane.view(runtime.driver.now()).pools[0].workers[0].report is not None)
        report = runtime.plane.view(runtime.driver.now()).pools[0].workers[0].report
        assert report is not None
        assert (report.running, report.waiting, report.kv_usage) == (0, 0, 0.5)

    with_gateway(chat, scenario)


def test_a_server_that_is_not_vllm_serves_without_reports(caplog: pytest.LogCaptureFixture) -> None:
    async def plain(exchange: Exchange) -> None:
        if exchange.method == "POST":
            await chat(exchange)
        else:
            await exchange.reply(b"not here", 404)

    async def scenario() -> None:
        async with Worker(chat) as worker:
            worker.handler = plain
            async with serving(configured(pool("p", worker))) as gateway:
                assert (await gateway.ask(HELLO))[0] == 200

    drive(scenario)
    assert caplog.text.count("gives no report") == 1
