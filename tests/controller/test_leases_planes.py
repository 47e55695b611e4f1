"""Several whole control planes under one leader, in simulated time: what a fleet of one process would have done."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from controller.leases_leader import Leader
from controller.leases_member import Member
from controller.limits import Quota
from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.settings import ControlSettings, TenantSpec
from controller.types import Admitted, Rejected, Usage, WorkerSpec
from controller.view import FleetView
from tests.controller.planes import SMALL, plane, stages, submit, ticket

WEIGHTS = ControlSettings(
    max_queue=10_000, max_queue_s=1e9, tenants={"gold": TenantSpec(weight=4.0), "free": TenantSpec(weight=1.0)}
)
STEP_S = 0.05


class World:
    """Planes with the same workers, which count what is in flight on them."""

    def __init__(self, planes: int, slots: Sequence[int], settings: ControlSettings = WEIGHTS, **choices: str) -> None:
        self.capacity = {f"w{i}": size for i, size in enumerate(slots)}
        self.planes: list[ControlPlane] = []
        self.members: list[Member] = []
        self.leader = Leader()
        self.now = 0.0
        self.inflight: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self._ids = itertools.count()
        self._ends: list[tuple[float, str, int, str, str]] = []
        for index in range(planes):
            chosen = stages({"fairness": "vtc", **choices}, Resources(pools=(SMALL,), settings=settings))
            made = plane(chosen, workers=0, settings=settings)
            self.planes.append(made)
            self.members.append(Member(made.sharing, f"m{index}", 0.0))
            for name, size in self.capacity.items():
                made.add_worker(WorkerSpec(name, "small", f"http://{name}", size), 0.0)

    def exchange(self) -> None:
        for member in self.members:
            self.leader.heard(member.report(self.now), self.now)
        grants = {grant.member: grant for grant in self.leader.plan(self.now)}
        for member in self.members:
            member.apply(grants[member.name], self.now)

    def backlog(self, index: int, tenant: str, count: int) -> None:
        """So many requests of the tenant wait at the plane."""
        waiting = sum(one.tenant == tenant for one in self.planes[index].queued())
        for _ in range(count - waiting):
            submit(self.planes[index], f"{tenant}-{next(self._ids)}", self.now, tenant=tenant)

    def step(self, seconds: Mapping[str, float] | None = None) -> None:
        """Requests end, others are dispatched; they take a second, or what ``seconds`` says of their tenant."""
        self.now += STEP_S
        while self._ends and self._ends[0][0] <= self.now:
            _, name, index, worker, tenant = heapq.heappop(self._ends)
            self.planes[index].on_first_token(name, self.now)
            self.planes[index].on_finish(name, Usage(100, 100), self.now)
            self.inflight[worker] -= 1
            self.served[tenant] += 1
        for index, one in enumerate(self.planes):
            for sent in one.dispatch(self.now):
                tenant = sent.ticket.split("-")[0]
                self.inflight[sent.worker] += 1
                end = self.now + (seconds or {}).get(tenant, 1.0)
                heapq.heappush(self._ends, (end, sent.ticket, index, sent.worker, tenant))
        for worker, capacity in self.capacity.items():
            assert self.inflight[worker] <= capacity

    def run(self, wanted: Sequence[Mapping[str, int]], seconds: float, took: Mapping[str, float] | None = None) -> None:
        """Keep a backlog of each tenant at each plane; the leases go round every second step."""
        for step in range(round(seconds / STEP_S)):
            for index, tenants in enumerate(wanted):
                for tenant, count in tenants.items():
                    self.backlog(index, tenant, count)
            if step % 2 == 0:
                self.exchange()
            self.step(took)


def test_nothing_is_sent_before_there_is_a_lease() -> None:
    world = World(2, [4])
    world.backlog(0, "gold", 3)
    world.step()
    assert not world.inflight.total()
    world.exchange()
    world.step()
    assert world.inflight.total() == 3


@pytest.mark.parametrize("slots", [[10], [6, 4], [3]])
def test_four_to_one_stays_four_to_one_through_different_processes(slots: list[int]) -> None:
    world = World(2, slots)
    world.run([{"gold": 30}, {"free": 60}], 20.0)
    world.served.clear()
    world.run([{"gold": 30}, {"free": 60}], 100.0)
    assert world.served["gold"] / world.served["free"] == pytest.approx(4.0, rel=0.1)
    assert world.served.total() > 0.93 * sum(slots) * 100


def test_four_to_one_where_one_tenant_comes_through_all_processes() -> None:
    world = World(3, [8, 8])
    wanted = [{"gold": 20}, {"free": 20}, {"free": 40, "gold": 20}]
    world.run(wanted, 10.0)
    world.served.clear()
    world.run(wanted, 60.0)
    assert world.served["gold"] / world.served["free"] == pytest.approx(4.0, rel=0.1)
    assert world.served.total() > 0.93 * 16 * 60


def test_one_process_with_all_the_work_has_almost_all_the_slots() -> None:
    world = World(4, [32])
    world.run([{"gold": 100}], 5.0)
    assert world.inflight["w0"] >= 28


def test_counters_are_those_of_all_processes() -> None:
    world = World(2, [4])
    world.run([{"gold": 5, "free": 5}, {"gold": 5, "free": 5}], 10.0)
    world.exchange()
    world.exchange()
    found = [_counters(one) for one in world.planes]
    assert found[0] == pytest.approx(found[1])
    assert found[0]["gold"] > 0


def test_who_comes_back_from_idleness_has_saved_up_nothing() -> None:
    world = World(2, [4])
    world.run([{"free": 20}], 20.0)
    world.run([{"free": 20}, {"gold": 20}], 1.0)
    assert _counters(world.planes[1])["gold"] >= 0.8 * _counters(world.planes[0])["free"]


def test_a_tenants_concurrency_is_that_of_all_processes_together() -> None:
    quotas = ControlSettings(tenants={"gold": TenantSpec(quota=Quota(concurrency=4))})
    world = World(3, [100], quotas)
    for _ in range(20):
        world.exchange()
    for _ in range(4):
        admitted = 0
        for index, one in enumerate(world.planes):
            names = [f"gold-{index}-{n}-{world.now}" for n in range(6)]
            admitted += sum(isinstance(one.submit(ticket(n, tenant="gold"), world.now), Admitted) for n in names)
        assert admitted == 4
        for _ in range(40):
            world.exchange()
            world.step()


def test_a_tenants_concurrency_goes_where_it_is_needed() -> None:
    quotas = ControlSettings(tenants={"gold": TenantSpec(quota=Quota(concurrency=3))})
    world = World(4, [100], quotas)
    for _ in range(5):
        world.exchange()
    for turn in range(8):
        one = world.planes[turn % 4]
        rounds = 0
        for name in (f"gold-{turn}-{n}" for n in range(3)):
            while one.limits.cramped("gold", world.now):
                world.now += 0.02
                world.exchange()
                rounds += 1
            assert isinstance(one.submit(ticket(name, tenant="gold"), world.now), Admitted)
        assert rounds <= 9
        assert not one.limits.cramped("gold", world.now)
        assert isinstance(one.submit(ticket(f"gold-{turn}-more", tenant="gold"), world.now), Rejected)
        for name in (f"gold-{turn}-{n}" for n in range(3)):
            one.on_abort(name, world.now)


@pytest.mark.parametrize("tenant", ["gold", "unlisted"])
def test_a_tenants_rate_is_that_of_all_processes_together(tenant: str) -> None:
    quota = Quota(requests_per_s=10.0, burst_s=2.0)
    world = World(3, [1000], ControlSettings(tenants={"gold": TenantSpec(quota=quota)}, quota=quota))
    admitted = 0
    for step in range(800):
        if step % 2 == 0:
            world.exchange()
        for index, one in enumerate(world.planes[: 1 + step // 200]):
            answer = one.submit(ticket(f"{tenant}-{index}-{step}", tenant=tenant), world.now)
            admitted += isinstance(answer, Admitted)
        world.step()
    assert 10.0 * 40 * 0.9 <= admitted <= 10.0 * 40 + 20 + 3


def test_without_a_leader_the_leases_stay() -> None:
    world = World(2, [8])
    world.run([{"gold": 10}, {"gold": 10}], 2.0)
    before = [one.sharing.uses()["w0"].limit for one in world.planes]
    for _ in range(200):
        world.step()
    assert [one.sharing.uses()["w0"].limit for one in world.planes] == before


def test_where_deaths_are_not_known_they_are_halved_and_come_back() -> None:
    made = plane(workers=1, max_inflight=8)
    member, leader = Member(made.sharing, "m", 0.0, half_life_s=10.0), Leader(half_life_s=10.0)
    leader.heard(member.report(0.0), 0.0)
    member.apply(leader.plan(0.0)[0], 0.0)
    assert made.sharing.uses()["small-0"].limit == 8
    assert made.sharing.scales
    assert not member.tick(9.9)
    assert member.tick(10.0)
    assert made.sharing.uses()["small-0"].limit == 4
    assert not made.sharing.scales
    assert member.tick(45.0)
    assert made.sharing.uses()["small-0"].limit == 1
    leader.heard(member.report(46.0), 46.0)
    member.apply(leader.plan(46.0)[0], 46.0)
    assert made.sharing.uses()["small-0"].limit == 8


def test_scale_sees_what_others_have_and_one_runs_it() -> None:
    world = World(3, [6])
    world.run([{"gold": 5}, {"gold": 3}, {}], 2.0)
    assert [one.sharing.scales for one in world.planes] == [True, False, False]
    world.exchange()
    view = _whole(world.planes[0], world.now)
    assert view.pool("small").queued == sum(len(one.queued()) for one in world.planes)
    assert view.pool("small").inflight == world.inflight["w0"] == 6
    assert view.pool("small").limit == 6
    assert view.pool("small").workers[0].limit == 6


def test_a_new_worker_is_shared_like_the_others() -> None:
    world = World(2, [4])
    world.run([{"gold": 20}, {"gold": 20}], 1.0)
    world.capacity["new"] = 6
    for one in world.planes:
        one.add_worker(WorkerSpec("new", SMALL.name, "http://new", 6), world.now)
    assert not world.inflight["new"]
    world.run([{"gold": 20}, {"gold": 20}], 1.0)
    assert world.inflight["new"] == 6


def test_a_control_plane_alone_has_no_leases() -> None:
    alone = plane(workers=1, max_inflight=3)
    assert alone.sharing.scales
    assert alone.sharing.uses()["small-0"].limit == 3
    assert not alone.limits.cramped("default", 0.0)


def _counters(one: ControlPlane) -> dict[str, float]:
    return {item.name: -item.score for item in one.stages.fairness.standing("small")}


def _whole(one: ControlPlane, now: float) -> FleetView:
    return one.sharing.whole(one.view(now))
