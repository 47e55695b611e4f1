from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from controller.actuators import Exit
from controller.types import WorkerSpec
from tests.gateway.harness import HELLO, Gateway, Worker, chat, configured, drive, pool, serving, until
from tests.upstream.servers import Exchange


@pytest.mark.parametrize("prompt_text", [False, True])
def test_decisions_are_written_and_prompts_only_if_asked_for(tmp_path: Path, prompt_text: bool) -> None:
    async def scenario() -> None:
        records = {"dir": str(tmp_path), "prompt_text": prompt_text}
        async with Worker(chat) as worker, serving(configured(pool("p", worker), records=records)) as gateway:
            for _ in range(5):
                await gateway.ask(HELLO)

    drive(scenario)
    rows = [row for file in sorted(tmp_path.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert [row["result"] for row in rows] == ["completed"] * 5
    assert any("hello" in str(row) for row in rows) is prompt_text


class Starter:
    """An actuator whose workers are servers in this very loop."""

    pools = frozenset({"p"})

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.healthy = asyncio.Event()

    async def launch(self, pool: str) -> WorkerSpec:
        worker = Worker(chat)
        await worker.start()
        name = f"{pool}:{len(self.workers)}"
        self.workers[name] = worker
        return WorkerSpec(name, pool, worker.url)

    async def ready(self, worker: str) -> None:
        await self.healthy.wait()

    async def stop(self, worker: str) -> None:
        await self.workers[worker].stop()

    def exits(self) -> tuple[Exit, ...]:
        return ()

    async def close(self) -> None:
        for worker in self.workers.values():
            await worker.stop()


def scaled(**settings: Any) -> dict[str, Any]:
    started = {"command": ["serve", "{port}"]}
    return {**pool("p"), "actuator": started, "replicas": {"min": 1, "max": 2}, **settings}


def test_a_worker_that_is_started_serves_once_it_is_healthy_and_not_before() -> None:
    async def scenario() -> None:
        starter = Starter()
        async with serving(configured(scaled()), actuator=starter) as gateway:
            await until(lambda: bool(starter.workers))
            waiting = asyncio.ensure_future(gateway.ask(HELLO))
            await asyncio.sleep(0.15)
            assert not waiting.done()
            assert gateway.app.runtime.ready_workers() == {"p": 0}
            starter.healthy.set()
            assert (await waiting)[0] == 200
            summary = await gateway.get("/admin/summary")
            assert {event["kind"] for event in summary["events"]} == {"launched", "ready"}

    drive(scenario)


def test_scaling_decisions_reach_the_actuator(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        from controller.types import Scale

        starter = Starter()
        starter.healthy.set()
        async with serving(configured(scaled()), actuator=starter) as gateway:
            await ready(gateway, 1)
            gateway.app.runtime.scale([Scale("p", 2, "more to do")])
            await ready(gateway, 2)
            assert (await gateway.ask(HELLO))[0] == 200

    drive(scenario)


async def ready(gateway: Gateway, count: int) -> None:
    await until(lambda: gateway.app.runtime.ready_workers() == {"p": count})


def test_a_started_worker_that_hangs_is_started_anew() -> None:
    async def hang(exchange: Exchange) -> None:
        await exchange.client_left()

    async def scenario() -> None:
        starter = Starter()
        starter.healthy.set()
        health = {"interval_s": 0.03, "report_interval_s": 0.03, "timeout_s": 0.1, "restart_after": 4}
        async with serving(configured(scaled(), health=health), actuator=starter) as gateway:
            await ready(gateway, 1)
            starter.workers["p:0"].handler = hang
            await until(lambda: "p:1" in starter.workers)
            await ready(gateway, 1)
            assert (await gateway.ask(HELLO))[0] == 200
            assert starter.workers["p:1"].asked_for
            summary = await gateway.get("/admin/summary")
            (unresponsive,) = [event for event in summary["events"] if event["kind"] == "unresponsive"]
            assert unresponsive["worker"] == "p:0"
            assert "looks in a row failed" in unresponsive["detail"]

    drive(scenario)


def test_an_actuators_worker_is_not_the_operators_to_drain_or_remove() -> None:
    async def scenario() -> None:
        starter = Starter()
        starter.healthy.set()
        async with serving(configured(scaled()), actuator=starter) as gateway:
            await ready(gateway, 1)
            for method, path in ((b"POST", "p:0/drain"), (b"POST", "p:0/undrain"), (b"DELETE", "p:0")):
                async with gateway.client.stream(method, f"{gateway.url}/admin/workers/{path}") as response:
                    assert response.status == 409
                    assert b"actuator_worker" in await response.body()
            assert gateway.app.runtime.ready_workers() == {"p": 1}

    drive(scenario)
