"""Arrival processes: seeded, ordered, and at the rates asked for."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.tasks import Split, generate, stream
from envs.workloads import (
    ArrivalProcess,
    Bursty,
    Demand,
    Gamma,
    GivenTasks,
    Lengths,
    LengthSource,
    Poisson,
    TaskSource,
    arrivals,
    bursty,
)

PROCESSES = [Poisson(4.0), Gamma(4.0, cv=2.0), Gamma(4.0, cv=0.5), Bursty(4.0, 8.0, ((1000.0, 1001.0),))]
SIZES = LengthSource((Lengths(10, 20), Lengths(30, 5)))


@pytest.mark.parametrize("process", PROCESSES)
def test_times_ascend_repeat_with_the_seed_and_have_the_rate(process: ArrivalProcess) -> None:
    times = list(islice(process.times(np.random.default_rng(7)), 3000))
    assert times == list(islice(process.times(np.random.default_rng(7)), 3000))
    assert all(a <= b for a, b in pairwise(times))
    assert 3000 / times[-1] == pytest.approx(4.0, rel=0.12)


@pytest.mark.parametrize(("cv", "low", "high"), [(0.5, 0.4, 0.6), (1.0, 0.9, 1.1), (2.0, 1.8, 2.2)])
def test_gamma_gaps_have_the_coefficient_of_variation(cv: float, low: float, high: float) -> None:
    gaps = np.diff(list(islice(Gamma(3.0, cv).times(np.random.default_rng(1)), 8000)))
    assert low < gaps.std() / gaps.mean() < high


def test_bursts_come_when_and_as_strong_as_asked() -> None:
    rows = bursty(3, 300.0, 2.0, 12.0, [(100.0, 200.0)], source=SIZES)
    inside = sum(100 <= row.at < 200 for row in rows)
    assert inside / 100 == pytest.approx(12.0, rel=0.1)
    assert (len(rows) - inside) / 200 == pytest.approx(2.0, rel=0.15)


@given(
    edges=st.lists(st.floats(0, 50), min_size=2, max_size=6, unique=True).filter(lambda e: len(e) % 2 == 0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_bursty_times_always_ascend(edges: list[float], seed: int) -> None:
    ordered = sorted(edges)
    process = Bursty(1.0, 20.0, tuple(zip(ordered[::2], ordered[1::2], strict=True)))
    times = list(islice(process.times(np.random.default_rng(seed)), 200))
    assert all(a <= b for a, b in pairwise(times))
    assert times[0] > 0


def test_workloads_stop_at_the_duration_or_the_count() -> None:
    assert all(row.at < 5.0 for row in arrivals(Poisson(10.0), SIZES, 1, duration=5.0))
    assert len(list(arrivals(Poisson(10.0), SIZES, 1, count=7))) == 7
    assert len(list(islice(arrivals(Poisson(10.0), SIZES, 1), 100))) == 100


def test_tasks_come_in_the_order_of_their_stream_so_that_a_book_can_hold_them() -> None:
    rows = list(arrivals(Poisson(5.0), TaskSource(9, Split.TEST), 1, count=30))
    assert [row.task for row in rows] == list(islice(stream(9, "test"), 30))
    listed = tuple(generate(9, 4, "test"))
    again = [row.task for row in arrivals(Poisson(5.0), GivenTasks(listed), 1, count=6)]
    assert again == [*listed, *listed[:2]]


def test_demand_names_tenants_by_share_and_sets_limits() -> None:
    demand = Demand({"a": 3.0, "b": 1.0}, max_tokens=64, deadline_s=2.5)
    rows = list(arrivals(Poisson(5.0), SIZES, 4, count=2000, demand=demand))
    assert sum(row.tenant == "a" for row in rows) / 2000 == pytest.approx(0.75, abs=0.04)
    assert {(row.max_tokens, row.deadline_s) for row in rows} == {(64, 2.5)}


def test_changing_the_source_leaves_the_times_as_they_are() -> None:
    one = [row.at for row in arrivals(Poisson(5.0), SIZES, 4, count=50)]
    assert one == [row.at for row in arrivals(Poisson(5.0), TaskSource(1), 4, count=50)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Poisson(0.0),
        lambda: Gamma(1.0, -1.0),
        lambda: Bursty(1.0, 2.0, ((5.0, 3.0),)),
        lambda: LengthSource(()),
        lambda: GivenTasks(()),
        lambda: list(arrivals(Poisson(1.0), SIZES, 1, count=1, demand=Demand({}))),
    ],
)
def test_senseless_settings_are_refused(make: object) -> None:
    with pytest.raises((ValueError, IndexError)):
        make()  # type: ignore[operator]
