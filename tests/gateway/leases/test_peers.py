"""What the processes of one machine tell each other about workers: two applications under one hub."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from controller.leases_leader import Leader
from controller.types import WorkerPhase, WorkerSpec
from gateway.admin_workers import NewWorker
from gateway.leases.local import Hub
from gateway.leases.peers import Peers, Place
from tests.gateway.harness import Gateway, Worker, chat, configured, pool, serving, until
from tests.gateway.leases.fleets import drive


def both(folder: Path, scenario: object) -> None:
    """Two processes' applications, in one loop; each has its own control plane."""

    async def run() -> None:
        hub = Hub(folder / "hub", Leader())
        await hub.start()
        try:
            async with Worker(chat) as worker:
                settings = configured(pool("p", worker, max_inflight=4))
                places = [Place(f"{index}.1", folder / "hub") for index in range(2)]
                async with (
                    serving(settings, place=places[0]) as first,
                    serving(settings, place=places[1]) as second,
                ):
                    await scenario(first, second, worker)  # type: ignore[operator]
        finally:
            await hub.close()

    drive(run, 20.0)


def source(gateway: Gateway, name: str) -> str | None:
    return gateway.app.runtime.roster.source(name)


def phase(gateway: Gateway, name: str) -> WorkerPhase | None:
    runtime = gateway.app.runtime
    workers = runtime.plane.view(time.monotonic()).pool("p").workers
    return next((worker.phase for worker in workers if worker.name == name and not worker.removed), None)


def peers(gateway: Gateway) -> Peers:
    found = gateway.app.runtime.peers
    assert found is not None
    return found


def test_the_operators_workers_are_everybodys(tmp_path: Path) -> None:
    async def scenario(first: Gateway, second: Gateway, worker: Worker) -> None:
        async with Worker(chat) as more:
            first.app.runtime.workers.add(NewWorker(pool="p", url=more.url, name="more"))
            await until(lambda: phase(second, "more") is WorkerPhase.READY)
            assert source(second, "more") == "admin"
            second.app.runtime.workers.drain("more")
            await until(lambda: phase(first, "more") is WorkerPhase.DRAINING)
            second.app.runtime.workers.undrain("more")
            await until(lambda: phase(first, "more") is WorkerPhase.READY)
            first.app.runtime.workers.remove("more", drain=True, grace_s=5.0)
            await until(lambda: phase(second, "more") is None)

    both(tmp_path, scenario)


def test_workers_that_one_process_started_are_served_by_all_and_belong_to_it(tmp_path: Path) -> None:
    async def scenario(first: Gateway, second: Gateway, worker: Worker) -> None:
        async with Worker(chat) as more:
            plane = peers(first).plane
            plane.add_worker(WorkerSpec("started", "p", more.url, 2), time.monotonic(), WorkerPhase.STARTING)
            await until(lambda: phase(second, "started") is WorkerPhase.READY)
            assert source(second, "started") == "process"
            plane.set_phase("started", WorkerPhase.READY, time.monotonic())
            plane.set_phase("started", WorkerPhase.DRAINING, time.monotonic())
            await until(lambda: phase(second, "started") is WorkerPhase.DRAINING)
            shown = {w.name: w.inflight for w in plane.view(time.monotonic()).pool("p").workers}
            assert shown["started"] == 1, "the other process may have something there, and has not said so yet"
            await asyncio.sleep(1.1)
            shown = {w.name: w.inflight for w in plane.view(time.monotonic()).pool("p").workers}
            assert shown["started"] == 0
            plane.set_phase("started", WorkerPhase.READY, time.monotonic())
            await until(lambda: phase(second, "started") is WorkerPhase.READY)
            plane.remove_worker("started", time.monotonic())
            await until(lambda: phase(second, "started") is None)

    both(tmp_path, scenario)


def test_one_of_them_runs_scale_and_another_takes_over(tmp_path: Path) -> None:
    async def scenario(first: Gateway, second: Gateway, worker: Worker) -> None:
        planes = [first.app.runtime.plane, second.app.runtime.plane]
        assert [plane.sharing.scales for plane in planes] == [True, False]
        await peers(first).close()
        await until(lambda: planes[1].sharing.scales)
        limit = planes[1].view(time.monotonic()).pool("p").limit
        await until(lambda: planes[1].view(time.monotonic()).pool("p").limit == 4)
        assert limit <= 4

    both(tmp_path, scenario)


def test_metrics_and_fleet_are_those_of_all(tmp_path: Path) -> None:
    async def scenario(first: Gateway, second: Gateway, worker: Worker) -> None:
        for gateway in (first, first, second):
            status, _ = await gateway.ask({"model": "auto", "messages": [{"role": "user", "content": "hello"}]})
            assert status == 200
        for gateway in (first, second):
            page = await gateway.page()
            assert 'headway_requests_total{outcome="completed",pool="p",tenant="default"} 3.0' in page
            fleet = await gateway.get("/admin/fleet")
            assert fleet["pools"][0]["workers"][0]["dispatched"] == 3
            assert fleet["pools"][0]["limit"] == 4

    both(tmp_path, scenario)
