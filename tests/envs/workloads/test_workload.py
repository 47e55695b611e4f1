"""Workloads: bounded as asked, with separate streams, of one tenant or of many."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from envs.workloads import (
    Arrival,
    Conversations,
    Demand,
    Gamma,
    Lengths,
    LengthSource,
    LogNormalLengths,
    Poisson,
    Ramp,
    TaskSource,
    TenantLoad,
    arrivals,
    bursty,
    mixed,
)
from tests.envs.workloads.memory import growth

SIZES = LengthSource((Lengths(10, 20), Lengths(30, 5)))
CHAT = TenantLoad(Poisson(0.5), Conversations(LogNormalLengths(100.0, 80.0), system=64), deadline_s=20.0)
BATCH = TenantLoad(Gamma(4.0, cv=3.0), LengthSource((Lengths(4000, 10),)), max_tokens=16)
GROWING = TenantLoad(Ramp(0.0, 5.0, 100.0), SIZES)


def test_bursts_come_when_and_as_strong_as_asked() -> None:
    rows = bursty(3, 300.0, 2.0, 12.0, [(100.0, 200.0)], source=SIZES)
    inside = sum(100 <= row.at < 200 for row in rows)
    assert inside / 100 == pytest.approx(12.0, rel=0.1)


def test_workloads_stop_at_the_duration_or_the_count() -> None:
    assert all(row.at < 5.0 for row in arrivals(Poisson(10.0), SIZES, 1, duration=5.0))
    assert len(list(arrivals(Poisson(10.0), SIZES, 1, count=7))) == 7
    assert len(list(islice(arrivals(Poisson(10.0), SIZES, 1), 100))) == 100


def test_demand_names_tenants_by_share_and_sets_limits() -> None:
    demand = Demand({"a": 3.0, "b": 1.0}, max_tokens=64, deadline_s=2.5)
    rows = list(arrivals(Poisson(5.0), SIZES, 4, count=2000, demand=demand))
    assert sum(row.tenant == "a" for row in rows) / 2000 == pytest.approx(0.75, abs=0.04)
    assert {(row.max_tokens, row.deadline_s) for row in rows} == {(64, 2.5)}


def test_tenants_may_ask_something_of_their_own_and_leave_the_others_as_they_are() -> None:
    def rows(asks: dict[str, LengthSource]) -> list[Arrival]:
        demand = Demand({"a": 1.0, "b": 1.0, "c": 1.0}, asks=asks)
        return list(arrivals(Poisson(5.0), SIZES, 4, count=300, demand=demand))

    large, larger = LengthSource((Lengths(900, 9), Lengths(950, 9))), LengthSource((Lengths(5000, 9),))
    one, two = rows({"a": large, "b": large}), rows({"a": large, "b": larger})
    assert {row.lengths for row in of(two, "b")} == set(larger.lengths)
    assert {row.lengths for row in of(two, "c")} == set(SIZES.lengths)
    assert of(one, "a") == of(two, "a")
    assert of(one, "c") == of(two, "c")
    assert [(row.at, row.tenant) for row in one] == [(row.at, row.tenant) for row in two]


def test_changing_the_source_leaves_the_times_as_they_are() -> None:
    one = [row.at for row in arrivals(Poisson(5.0), SIZES, 4, count=50)]
    assert one == [row.at for row in arrivals(Poisson(5.0), TaskSource(1), 4, count=50)]


@pytest.mark.parametrize("shares", [{}, {"a": 0.0}, {"a": 2.0, "b": -1.0}])
def test_senseless_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        list(arrivals(Poisson(1.0), SIZES, 1, count=1, demand=Demand(shares)))


def of(rows: list[Arrival], tenant: str) -> list[Arrival]:
    return [row for row in rows if row.tenant == tenant]


def test_tenants_have_their_own_rates_lengths_and_limits() -> None:
    rows = list(mixed({"chat": CHAT, "batch": BATCH, "growing": GROWING}, 1, duration=400.0))
    assert all(a.at <= b.at for a, b in pairwise(rows))
    assert len(of(rows, "batch")) / 400 == pytest.approx(4.0, rel=0.2)
    assert {row.lengths for row in of(rows, "batch")} == {Lengths(4000, 10)}
    assert {row.max_tokens for row in of(rows, "batch")} == {16}
    assert {row.deadline_s for row in of(rows, "chat")} == {20.0}
    assert all(row.session for row in of(rows, "chat"))
    assert of(rows, "growing")[0].at > 0


def test_a_tenant_is_the_same_whoever_else_is_there() -> None:
    alone = list(mixed({"chat": CHAT}, 1, duration=100.0))
    together = list(mixed({"batch": BATCH, "chat": CHAT}, 1, duration=100.0))
    assert of(together, "chat") == alone
    assert list(mixed({"chat": CHAT}, 2, duration=100.0)) != alone
    louder = TenantLoad(Gamma(8.0, cv=3.0), BATCH.asks)
    assert of(list(mixed({"batch": louder, "chat": CHAT}, 1, duration=100.0)), "chat") == alone


def test_a_mix_needs_a_tenant_and_stops_at_its_count() -> None:
    with pytest.raises(ValueError, match="tenants"):
        mixed({}, 1)
    assert len(list(mixed({"a": BATCH, "b": GROWING}, 1, count=30))) == 30


def test_a_long_mix_holds_no_more_than_a_short_one() -> None:
    stream = mixed({"chat": CHAT, "batch": BATCH}, 1)
    assert growth(stream, warm=5000, then=10_000) < 1_000_000
