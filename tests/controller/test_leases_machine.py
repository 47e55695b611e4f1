"""Whatever is lost, late, doubled or dead: all members together never use more of a worker than it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controller.leases import Grant, GroupUse, Report, Stamp, TenantUse, WorkerUse, decayed
from controller.leases_leader import Leader
from controller.leases_ledger import Ledger

CAPACITY = {"w0": 5, "w1": 3}
UNITS = 4
HALF_LIFE_S = 20.0
RELEASE_S = 0.5
FATES = st.lists(st.integers(0, 3), min_size=4, max_size=4)


@dataclass
class Model:
    """What a member must do, in the fewest words."""

    name: str
    applied: Stamp = (-1, -1)
    limits: dict[str, int] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    queued: int = 0
    number: int = 0
    share: int = 0
    scales: bool = False
    heard_at: float = 0.0
    """When the report was made that the last grant took into account."""
    made_at: dict[int, float] = field(default_factory=dict)

    def halvings(self, now: float) -> int:
        return int((now - self.heard_at) / HALF_LIFE_S)

    def limit(self, worker: str, now: float) -> int:
        return decayed(self.limits.get(worker, 0), self.halvings(now))

    def uses(self, worker: str, now: float) -> int:
        return max(self.limit(worker, now), self.running.get(worker, 0))

    def report(self, now: float) -> Report:
        self.number += 1
        self.made_at[self.number] = now
        workers = {
            name: WorkerUse("p", capacity, self.limit(name, now), self.running.get(name, 0), True)
            for name, capacity in CAPACITY.items()
        }
        demand = {"p": {"t": GroupUse(sum(self.running.values()), self.queued, 1.0)}}
        tenants = {"t": TenantUse(UNITS, decayed(self.share, self.halvings(now)), 0, float(self.queued))}
        scales = self.scales and not self.halvings(now)
        return Report(self.name, self.number, self.applied, workers, demand, tenants, scales=scales)

    def apply(self, grant: Grant) -> None:
        if grant.stamp > self.applied:
            self.applied = grant.stamp
            self.limits = dict(grant.workers)
            self.share = grant.tenants.get("t", (0, UNITS))[0]
            self.scales = grant.scales
            self.heard_at = max(self.heard_at, self.made_at.get(grant.heard, self.heard_at))


class Machine(RuleBasedStateMachine):
    """``half_life_s`` None is one machine, where deaths are known; else the silent are believed to halve."""

    half_life_s: float | None = None

    @initialize()
    def begin(self) -> None:
        self.now = 100.0
        self.epoch = 0
        self.leader = self._leader()
        self.members: dict[str, Model] = {}
        self.born = 0
        self.reports: list[Report] = []
        self.grants: list[Grant] = []
        self.stored: dict[str, Grant] = {}
        self.buried: list[str] = []

    def _leader(self) -> Leader:
        return Leader(epoch=self.epoch, silent_s=3.0, release_s=RELEASE_S, half_life_s=self.half_life_s)

    @rule()
    @precondition(lambda self: len(self.members) < 4)
    def join(self) -> None:
        self.born += 1
        name = f"m{self.born}"
        self.members[name] = Model(name, heard_at=self.now)

    @rule(fates=FATES)
    def work(self, fates: list[int]) -> None:
        """Members start as many requests as they may, or end some or all."""
        for member, fate in zip(self.members.values(), fates, strict=False):
            for worker in CAPACITY:
                running = member.running.get(worker, 0)
                room = member.limit(worker, self.now)
                member.running[worker] = max(running, room) if fate >= 2 else running * fate // 2

    @rule(queued=st.lists(st.sampled_from([0, 0, 1, 30]), min_size=4, max_size=4), fates=FATES, arrived=FATES)
    def exchange(self, queued: list[int], fates: list[int], arrived: list[int]) -> None:
        """Everybody reports and is granted something; only some of it arrives, and some of that later."""
        for member, wanted, fate in zip(self.members.values(), queued, fates, strict=False):
            member.queued = wanted
            report = member.report(self.now)
            if fate:
                self.leader.heard(report, self.now)
            self.reports.append(report)
        grants = {grant.member: grant for grant in self.leader.plan(self.now)}
        self.stored.update(grants)
        for member, fate in zip(self.members.values(), arrived, strict=False):
            if member.name in grants:
                self.grants.append(grants[member.name])
                if fate >= 2:
                    member.apply(grants[member.name])

    @rule(which=st.integers(0, 30))
    @precondition(lambda self: self.reports)
    def hear_late(self, which: int) -> None:
        report = self.reports.pop(which % len(self.reports))
        if self.half_life_s is None or self._fresh(report):
            self.leader.heard(report, self.now)

    @rule(which=st.integers(0, 30))
    @precondition(lambda self: self.grants)
    def apply_late(self, which: int) -> None:
        grant = self.grants.pop(which % len(self.grants))
        if grant.member in self.members:
            self.members[grant.member].apply(grant)

    @rule()
    def everything_arrives(self) -> None:
        for member in self.members.values():
            self.leader.heard(member.report(self.now), self.now)
        for grant in self.leader.plan(self.now):
            self.stored[grant.member] = grant
            if grant.member in self.members:
                self.members[grant.member].apply(grant)

    @rule(data=st.data())
    @precondition(lambda self: self.members)
    def die(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.members)))
        del self.members[name]
        self.buried.append(name)

    @rule()
    @precondition(lambda self: self.buried)
    def notice(self) -> None:
        self.leader.gone(self.buried.pop(), self.now)

    @rule()
    def follow(self) -> None:
        """Another leader, which knows only what the last one stored."""
        self.epoch += 1
        self.leader = self._leader()
        self.leader.restore(self.stored.values(), self.now)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def within_capacity(self) -> None:
        for worker, capacity in CAPACITY.items():
            assert sum(member.uses(worker, self.now) for member in self.members.values()) <= capacity
        assert sum(decayed(m.share, m.halvings(self.now)) for m in self.members.values()) <= UNITS
        assert sum(m.scales and not m.halvings(self.now) for m in self.members.values()) <= 1

    def _fresh(self, report: Report) -> bool:
        """A store keeps a member's last report only."""
        member = self.members.get(report.member)
        return member is None or report.number == member.number


class StoreMachine(Machine):
    """Beyond one machine: nobody knows who is dead, members that hear nothing halve what they use, and requests end
    within that time."""

    half_life_s = HALF_LIFE_S

    @rule()
    def be_cut_off(self) -> None:
        """So long that every request that was running has ended."""
        self.now += 2 * HALF_LIFE_S
        for member in self.members.values():
            member.running = {w: min(n, member.limit(w, self.now)) for w, n in member.running.items()}


TestOneMachine = Machine.TestCase
TestOneMachine.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)
TestThroughAStore = StoreMachine.TestCase
TestThroughAStore.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)


def walk(machine: Machine, random: np.random.Generator, steps: int) -> None:
    """The same rules in long random walks: what goes wrong, goes wrong after a long story."""

    def fates() -> list[int]:
        return random.integers(0, 4, 4).tolist()

    def exchange() -> None:
        machine.exchange(random.choice([0, 0, 1, 30], 4).tolist(), fates(), fates())

    def die() -> None:
        if len(machine.members) > 1:
            name = sorted(machine.members)[int(random.integers(len(machine.members)))]
            machine.buried.append(name)
            del machine.members[name]

    def wait() -> None:
        machine.wait(float(random.choice([0.1, 0.3] if machine.half_life_s is None else [0.1, 1.0, 5.0])))

    acts: list[tuple[int, Callable[[], bool], Callable[[], None]]] = [
        (3, lambda: len(machine.members) < 4, machine.join),
        (20, lambda: True, lambda: machine.work(fates())),
        (40, lambda: True, exchange),
        (8, lambda: bool(machine.reports), lambda: machine.hear_late(int(random.integers(31)))),
        (15, lambda: bool(machine.grants), lambda: machine.apply_late(int(random.integers(31)))),
        (2, lambda: True, die),
        (3, lambda: bool(machine.buried), machine.notice),
        (1, lambda: True, machine.follow),
        (10, lambda: True, wait),
        (6, lambda: True, machine.everything_arrives),
        (1, lambda: isinstance(machine, StoreMachine), lambda: cast("StoreMachine", machine).be_cut_off()),
    ]
    odds = np.array([odd for odd, _, _ in acts]) / sum(odd for odd, _, _ in acts)
    for choice in random.choice(len(acts), steps, p=odds):
        _, possible, act = acts[choice]
        if possible():
            act()
            machine.within_capacity()


@pytest.mark.parametrize("kind", [Machine, StoreMachine])
@pytest.mark.parametrize("seed", range(4))
def test_a_long_story(kind: type[Machine], seed: int) -> None:
    machine = kind()
    machine.begin()
    walk(machine, np.random.default_rng(seed), 1200)


def settle(leader: Leader, members: list[Model], now: float, rounds: int = 6) -> float:
    """Report and apply until nothing changes any more."""
    for _ in range(rounds):
        now += 0.1
        for member in members:
            leader.heard(member.report(now), now)
        grants = {grant.member: grant for grant in leader.plan(now)}
        for member in members:
            member.apply(grants[member.name])
    return now


def test_everything_is_granted_to_who_is_there() -> None:
    leader, members = Leader(), [Model("a"), Model("b"), Model("c")]
    settle(leader, members, 0.0)
    for worker, capacity in CAPACITY.items():
        assert sum(member.limits[worker] for member in members) == capacity
    assert sum(member.share for member in members) == UNITS
    assert [member.scales for member in members] == [True, False, False]


def test_slots_follow_demand() -> None:
    leader, members = Leader(), [Model("a"), Model("b")]
    now = settle(leader, members, 0.0)
    members[1].queued = 50
    settle(leader, members, now)
    assert members[1].limits == CAPACITY


def test_a_dead_members_share_comes_back_after_its_connections_are_closed() -> None:
    leader, members = Leader(release_s=RELEASE_S), [Model("a"), Model("b")]
    now = settle(leader, members, 0.0)
    leader.gone("a", now)
    now = settle(leader, members[1:], now, rounds=2)
    assert members[1].limits != CAPACITY
    settle(leader, members[1:], now + RELEASE_S)
    assert members[1].limits == CAPACITY
    assert members[1].scales


def test_a_silent_members_share_is_not_given_away_where_its_death_would_be_known() -> None:
    leader, members = Leader(), [Model("a"), Model("b")]
    now = settle(leader, members, 0.0)
    before = dict(members[1].limits)
    settle(leader, members[1:], now + 1e6)
    assert members[1].limits == before


def test_a_silent_members_share_comes_back_by_halves_where_it_would_not() -> None:
    leader, members = Leader(half_life_s=HALF_LIFE_S), [Model("a"), Model("b")]
    now = settle(leader, members, 0.0)
    held = members[0].limits["w0"]
    settle(leader, members[1:], now + 1.5 * HALF_LIFE_S)
    assert members[1].limits["w0"] == CAPACITY["w0"] - held
    settle(leader, members[1:], now + 2.5 * HALF_LIFE_S)
    assert members[1].limits["w0"] == CAPACITY["w0"] - max(1, held // 2)
    settle(leader, members[1:], now + 18 * HALF_LIFE_S)
    assert members[1].limits == CAPACITY


def test_a_leader_that_may_not_know_everybody_grants_nothing() -> None:
    leader, member = Leader(settle_s=2.0), Model("a", applied=(0, 9), limits={"w0": 2, "w1": 1})
    leader.heard(member.report(0.0), 0.0)
    assert leader.plan(1.9) == ()
    leader.heard(member.report(1.9), 1.9)
    (grant,) = leader.plan(2.0)
    assert grant.workers == CAPACITY


@pytest.mark.parametrize("members", [2, 5, 9])
def test_a_tenants_whole_concurrency_stays_usable(members: int) -> None:
    leader, all_ = Leader(), [Model(f"m{i}") for i in range(members)]
    settle(leader, all_, 0.0, rounds=20)
    assert sum(member.share for member in all_) == UNITS


def test_every_grant_that_is_not_confirmed_counts() -> None:
    ledger = Ledger()
    ledger.heard("a", 1, (-1, -1), {"w": 2}, 0.0)
    ledger.granted("a", (0, 1), {"w": 5})
    ledger.granted("a", (0, 2), {"w": 1})
    assert ledger.bound("a", "w", 0.0) == 5, "the first one may yet arrive before the second"
    assert ledger.heard("a", 2, (0, 1), {"w": 5}, 0.1)
    assert ledger.bound("a", "w", 0.1) == 5
    assert ledger.heard("a", 3, (0, 2), {"w": 1}, 0.2)
    assert ledger.bound("a", "w", 0.2) == 1
    assert not ledger.heard("a", 2, (0, 1), {"w": 5}, 0.3), "an old report says nothing new"


def test_the_next_leader_counts_what_was_not_given_up_yet() -> None:
    first, early, late = Leader(), Model("a"), Model("b")
    now = settle(first, [early], 0.0)
    assert early.limits == CAPACITY
    first.heard(late.report(now), now)
    stored = first.plan(now)  # a's part is smaller, and a does not hear of it
    second = Leader(epoch=1)
    second.restore(stored, now)
    second.heard(late.report(now), now)
    (grant,) = [grant for grant in second.plan(now) if grant.member == "b"]
    assert not any(grant.workers.values())
