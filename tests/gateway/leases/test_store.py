"""Leases through a real Redis server."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from controller.leases_member import Member
from controller.pipeline import ControlPlane
from controller.types import WorkerSpec
from gateway.leases import store
from gateway.leases.membership import Membership
from gateway.leases.store import StoreLink, connect
from tests.controller.planes import plane, submit
from tests.gateway.harness import configured, pool
from tests.gateway.harness import serving as application
from tests.gateway.leases.fleets import Caller, Counting, drive

SERVER = shutil.which("redis-server")
SLOTS = 12

pytestmark = pytest.mark.skipif(SERVER is None, reason="needs redis-server (Debian: apt-get install redis-server)")


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SETTLE_S", 0.3)
    monkeypatch.setattr(store, "_LOCK_MS", 400)
    monkeypatch.setattr(store, "_PREDECESSOR_S", 0.6)


class Redis:
    """A server of its own, which forgets everything when it ends."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "redis.sock"
        self.url = f"unix://{self._socket}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        assert SERVER is not None
        self._process = await asyncio.create_subprocess_exec(
            SERVER, "--port", "0", "--unixsocket", str(self._socket), "--save", "", "--appendonly", "no",
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        client = connect(self.url)
        while True:
            with suppress(Exception):
                if await client.ping():
                    break
            await asyncio.sleep(0.02)
        await client.aclose()

    async def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


class Gateway:
    """A control plane with its leases; nothing of HTTP."""

    def __init__(self, redis: Redis, slot: str, run: str = "1", half_life_s: float = 60.0) -> None:
        self.plane: ControlPlane = plane({"fairness": "vtc"}, workers=0)
        self.plane.add_worker(WorkerSpec("w", "small", "http://w", SLOTS), time.monotonic())
        self.link = StoreLink(connect(redis.url), "test", slot, f"{slot}#{run}", half_life_s)
        self.member = Member(self.plane.sharing, f"{slot}#{run}", time.monotonic(), half_life_s=half_life_s)
        self.membership = Membership(
            self.member, self.plane, self.link, time.monotonic, changed=lambda: None, scaling=lambda scales: None
        )

    @property
    def limit(self) -> int:
        return self.plane.sharing.uses()["w"].limit

    def wants(self, count: int) -> None:
        """So many requests wait here."""
        for index in range(count):
            submit(self.plane, f"{self.member.name}-{index}", time.monotonic())

    async def vanish(self) -> None:
        """As when its machine loses power."""
        await self.link.abandon()
        await self.membership.abandon()


class Cluster:
    """Several of them, looked at all the time."""

    def __init__(self) -> None:
        self.gateways: list[Gateway] = []
        self.most = 0

    async def watch(self) -> None:
        while True:
            self.most = max(self.most, sum(gateway.limit for gateway in self.gateways))
            await asyncio.sleep(0.002)

    async def join(self, gateway: Gateway) -> Gateway:
        await gateway.membership.start()
        self.gateways.append(gateway)
        return gateway

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    async def spread(self) -> None:
        """Wait until everything is granted."""
        await self.until(lambda: sum(gateway.limit for gateway in self.gateways) == SLOTS)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[tuple[Redis, Cluster]]:
    redis, made = Redis(folder), Cluster()
    await redis.start()
    watching = asyncio.ensure_future(made.watch())
    try:
        yield redis, made
        assert made.most == SLOTS
    finally:
        watching.cancel()
        for gateway in made.gateways:
            await gateway.vanish()
        await redis.stop()


def with_cluster(folder: Path, scenario: Callable[[Redis, Cluster], Awaitable[None]]) -> None:
    async def run() -> None:
        async with cluster(folder) as (redis, made):
            await scenario(redis, made)

    drive(run, 30.0)


def test_gateways_share_a_worker_and_one_of_them_leads(tmp_path: Path) -> None:
    async def scenario(redis: Redis, made: Cluster) -> None:
        for slot in "abc":
            await made.join(Gateway(redis, slot))
        await made.spread()
        await made.until(lambda: [gateway.limit for gateway in made.gateways] == [4, 4, 4])
        assert sum(gateway.link.leads for gateway in made.gateways) == 1
        assert sum(gateway.member.scales for gateway in made.gateways) == 1
        made.gateways[1].wants(50)
        await made.until(lambda: made.gateways[1].limit >= SLOTS - 2)

    with_cluster(tmp_path, scenario)


def test_one_that_ends_gives_its_share_back_at_once(tmp_path: Path) -> None:
    async def scenario(redis: Redis, made: Cluster) -> None:
        first, second = await made.join(Gateway(redis, "a")), await made.join(Gateway(redis, "b"))
        await made.spread()
        made.gateways.remove(first)
        await first.membership.close()
        await made.until(lambda: second.limit == SLOTS)
        assert second.link.leads

    with_cluster(tmp_path, scenario)


def test_redis_gone_leaves_the_leases_and_back_moves_them_again(tmp_path: Path) -> None:
    async def scenario(redis: Redis, made: Cluster) -> None:
        for slot in "ab":
            await made.join(Gateway(redis, slot))
        await made.spread()
        await made.until(lambda: [gateway.limit for gateway in made.gateways] == [6, 6])
        await redis.stop()
        made.gateways[0].wants(50)
        await asyncio.sleep(1.0)
        assert [gateway.limit for gateway in made.gateways] == [6, 6]
        await redis.start()  # and it has forgotten everything
        await made.until(lambda: made.gateways[0].limit >= SLOTS - 2)

    with_cluster(tmp_path, scenario)


def test_who_joins_while_redis_is_gone_gets_nothing_before_it_is_back(tmp_path: Path) -> None:
    async def scenario(redis: Redis, made: Cluster) -> None:
        await made.join(Gateway(redis, "a"))
        await made.spread()
        await redis.stop()
        late = Gateway(redis, "b")
        joining = asyncio.ensure_future(made.join(late))
        await asyncio.sleep(0.5)
        assert not joining.done()
        assert late.limit == 0
        await redis.start()
        await joining
        await made.until(lambda: late.limit == 6)

    with_cluster(tmp_path, scenario)


def test_another_leads_when_the_leader_is_gone_and_its_share_comes_back_by_halves(tmp_path: Path) -> None:
    async def scenario(redis: Redis, made: Cluster) -> None:
        for slot in "ab":
            await made.join(Gateway(redis, slot, half_life_s=0.8))
        await made.spread()
        await made.until(lambda: [gateway.limit for gateway in made.gateways] == [6, 6])
        leader = next(gateway for gateway in made.gateways if gateway.link.leads)
        other = next(gateway for gateway in made.gateways if not gateway.link.leads)
        made.gateways.remove(leader)
        await leader.vanish()
        await made.until(lambda: other.link.leads)
        assert other.limit <= 6
        await made.until(lambda: other.limit == 11)

    with_cluster(tmp_path, scenario)


def test_one_that_was_restarted_takes_the_place_of_its_predecessor(tmp_path: Path) -> None:
    async def scenario(redis: Redis, made: Cluster) -> None:
        first, second = await made.join(Gateway(redis, "a")), await made.join(Gateway(redis, "b"))
        await made.spread()
        made.gateways.remove(second)
        await second.vanish()
        again = await made.join(Gateway(redis, "b", run="2"))
        await made.until(lambda: first.limit + again.limit == SLOTS)

    with_cluster(tmp_path, scenario)


def test_two_gateways_never_put_more_on_a_worker_than_one_would(tmp_path: Path) -> None:
    async def scenario(redis: Redis, made: Cluster) -> None:
        made.most = SLOTS
        async with Counting(0.02) as worker:
            shared = {"redis": redis.url, "prefix": "apps"}
            settings = [
                configured(pool("p", worker, max_inflight=4), cluster={**shared, "member": name}) for name in "ab"
            ]
            async with application(settings[0]) as first, application(settings[1]) as second:
                callers = [Caller(gateway.url) for gateway in (first, second) for _ in range(8)]
                for _ in range(6):
                    answers = await asyncio.gather(*(caller.ask("t", "any") for caller in callers))
                    assert set(answers) == {200}
                assert worker.most == 4
                for caller in callers:
                    await caller.close()

    with_cluster(tmp_path, scenario)
