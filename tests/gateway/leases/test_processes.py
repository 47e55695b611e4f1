"""``headway serve --processes``: real processes before scripted workers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from controller.configuration.credentials import RANDOM_BYTES, StoredKey
from tests.gateway.harness import until
from tests.gateway.leases.fleets import Caller, Counting, Serving, drive, serving

_ISSUED = {name: StoredKey.issue(name.encode().ljust(RANDOM_BYTES, b"-")) for name in ("gold", "free", "few")}
KEYS = {name: key for name, (key, _) in _ISSUED.items()}
TENANTS: list[dict[str, Any]] = [
    {"name": "gold", "weight": 4, "keys": [str(_ISSUED["gold"][1])]},
    {"name": "free", "weight": 1, "keys": [str(_ISSUED["free"][1])]},
    {"name": "few", "weight": 1, "keys": [str(_ISSUED["few"][1])], "limits": {"concurrency": 3}},
]


def pool(*workers: Counting, max_inflight: int) -> dict[str, Any]:
    listed = [{"url": worker.url, "max_inflight": max_inflight} for worker in workers]
    return {"name": "p", "model": "m", "tier": 0, "workers": listed}


def settings(*workers: Counting, max_inflight: int) -> dict[str, Any]:
    stages = {"fairness": "vtc", "place": "least_load"}
    return {"pools": [pool(*workers, max_inflight=max_inflight)], "stages": stages, "tenants": TENANTS}


def test_several_processes_are_one_gateway(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            Counting(0.05) as first,
            Counting(0.05) as second,
            serving(tmp_path, settings(first, second, max_inflight=5), 2) as gateway,
        ):
            assert each_has_a_core(gateway)
            callers = await by_process(gateway, 12)
            await weights_hold(callers, first, second)
            await concurrency_holds(callers, first, second)
            await both_are_seen(gateway, first, second)
            await changes_reach_both(gateway, callers, second)
            await a_killed_one_is_replaced(gateway, callers, first, second)
            await closed(caller for some in callers for caller in some)

    drive(scenario, 60.0)


def each_has_a_core(gateway: Serving) -> bool:
    """One, and where there are two, not the same."""
    cores = [os.sched_getaffinity(pid) for pid in gateway.children.values()]
    return all(len(one) == 1 for one in cores) and len(set.union(*cores)) == min(2, len(os.sched_getaffinity(0)))


async def by_process(gateway: Serving, count: int) -> list[list[Caller]]:
    """Connections, ``count`` to each of the two processes."""
    found: dict[str, list[Caller]] = defaultdict(list)
    for _ in range(40 * count):
        caller = Caller(gateway.url)
        process = await caller.process(KEYS["free"])
        if len(found[process]) < count:
            found[process].append(caller)
        else:
            await caller.close()
        if len(found) == 2 and all(len(some) == count for some in found.values()):
            return list(found.values())
    return pytest.fail("one process serves no connection")


async def weights_hold(callers: list[list[Caller]], *workers: Counting) -> None:
    """Each tenant comes in through one process only; both have more to do than they may."""
    counts = {"gold": 0, "free": 0}
    ends = asyncio.get_running_loop().time() + 2.5

    async def keep(caller: Caller, tenant: str) -> None:
        while asyncio.get_running_loop().time() < ends:
            assert await caller.ask(tenant, KEYS[tenant]) == 200
            counts[tenant] += 1

    async with asyncio.TaskGroup() as group:
        for caller in callers[0]:
            group.create_task(keep(caller, "gold"))
        for caller in callers[1]:
            group.create_task(keep(caller, "free"))
    assert max(worker.most for worker in workers) == 5
    assert counts["gold"] / counts["free"] == pytest.approx(4.0, rel=0.25)


async def concurrency_holds(callers: list[list[Caller]], *workers: Counting) -> None:
    """Three at once, through whichever processes, and no fewer."""
    some = [caller for pair in zip(*callers, strict=True) for caller in pair]
    for worker in workers:
        worker.seconds = 1.0
    for wanted in (some[:6], callers[0][:6], callers[1][:6]):
        answers = await asyncio.gather(*(caller.ask("few", KEYS["few"]) for caller in wanted))
        assert sorted(answers) == [200] * 3 + [429] * 3
    for worker in workers:
        worker.seconds = 0.05


async def both_are_seen(gateway: Serving, *workers: Counting) -> None:
    """The metrics and the fleet of any process are those of all."""
    served = sum(worker.served.total() for worker in workers)
    await asyncio.sleep(0.3)
    for _ in range(4):
        page = await gateway.page()
        completed = re.findall(r'^headway_requests_total\{outcome="completed",.*\} (\S+)$', page, re.MULTILINE)
        assert sum(map(float, completed)) == served
        assert re.search(r'^headway_inflight_limit\{pool="p"\} 10\.0$', page, re.MULTILINE)
        fleet = await gateway.get("/admin/fleet")
        assert sum(worker["dispatched"] for worker in fleet["pools"][0]["workers"]) == served
        assert fleet["pools"][0]["limit"] == 10


async def changes_reach_both(gateway: Serving, callers: list[list[Caller]], second: Counting) -> None:
    """A worker that the operator drains through one process is given nothing by the other."""
    await gateway.post("/admin/workers/p-1/drain")
    await asyncio.sleep(0.3)
    before = second.served.total()
    await asyncio.gather(*(caller.ask("free", KEYS["free"]) for some in callers for caller in some))
    assert second.served.total() == before
    await gateway.post("/admin/workers/p-1/undrain")
    await asyncio.sleep(0.5)
    await asyncio.gather(*(caller.ask("free", KEYS["free"]) for some in callers for caller in some))
    assert second.served.total() > before


async def a_killed_one_is_replaced(gateway: Serving, callers: list[list[Caller]], *workers: Counting) -> None:
    """Its share comes back, and what the other one serves is not disturbed."""
    for worker in workers:
        worker.seconds = 0.3
    running = [[asyncio.ensure_future(swallowed(caller)) for caller in some] for some in callers]
    await until(lambda: sum(worker.now for worker in workers) == 10)
    before = gateway.children
    os.kill(before["0"], signal.SIGKILL)
    answers = [await asyncio.gather(*some) for some in running]
    assert any(set(some) == {200} for some in answers)
    for worker in workers:
        worker.seconds, worker.most = 0.05, 0
    await gateway.heard("running on http", 3)
    assert gateway.children["0"] != before["0"]
    assert gateway.children["1"] == before["1"]
    again = await by_process(gateway, 6)
    everybody = [caller.ask("gold", KEYS["gold"]) for some in again for caller in some]
    assert set(await asyncio.gather(*everybody)) == {200}
    assert [worker.most for worker in workers] == [5, 5]
    await closed(caller for some in again for caller in some)


async def swallowed(caller: Caller) -> int | None:
    """Its status; ``None`` where the connection broke."""
    try:
        return await caller.ask("gold", KEYS["gold"])
    except Exception:
        return None


async def closed(callers: Iterable[Caller]) -> None:
    for caller in callers:
        await caller.close()
