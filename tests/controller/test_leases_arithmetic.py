from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.leases_arithmetic import Rounding, apportion, entitlements, lay_out, max_min

NAMES = st.sampled_from("abcdefgh")
DEMANDS = st.dictionaries(NAMES, st.floats(0, 500), min_size=1)


@given(DEMANDS, st.floats(0, 1000), st.dictionaries(NAMES, st.floats(0.1, 16), min_size=8))
def test_max_min_gives_everybody_its_demand_or_an_equal_weighted_share(
    demands: dict[str, float], capacity: float, weights: dict[str, float]
) -> None:
    shares = max_min(capacity, demands, weights)
    assert math.isclose(sum(shares.values()), min(capacity, sum(demands.values())), rel_tol=1e-6, abs_tol=1e-6)
    short = {name: shares[name] / weights[name] for name in demands if shares[name] < demands[name] - 1e-6}
    for level in short.values():
        assert level == pytest.approx(max(short.values()), rel=1e-6, abs=1e-6)
        for name in demands:
            assert shares[name] / weights[name] <= level * (1 + 1e-6) + 1e-6


def test_a_weight_of_four_to_one_is_four_to_one_through_different_members() -> None:
    wanted = {"m0": {"gold": 300.0}, "m1": {"free": 900.0}}
    assert entitlements(100, wanted, {"gold": 4.0, "free": 1.0}) == pytest.approx({"m0": 80.0, "m1": 20.0})


def test_a_tenant_on_several_members_has_no_more_than_on_one() -> None:
    wanted = {"m0": {"gold": 300.0}, "m1": {"free": 400.0}, "m2": {"free": 500.0, "gold": 300.0}}
    found = entitlements(100, wanted, {"gold": 4.0, "free": 1.0})
    assert found == pytest.approx({"m0": 40.0, "m1": 20 * 4 / 9, "m2": 40.0 + 20 * 5 / 9})


def test_who_has_nothing_to_do_may_start_at_once() -> None:
    assert entitlements(8, {"m0": {}, "m1": {}}, {}) == {"m0": 4.0, "m1": 4.0}
    busy = entitlements(100, {"m0": {"t": 900.0}, "m1": {}}, {"t": 1.0})
    assert busy == pytest.approx({"m0": 99.0, "m1": 1.0})
    scarce = entitlements(4, {"m0": {"t": 900.0}, "m1": {}}, {"t": 1.0})
    assert scarce == pytest.approx({"m0": 4.0, "m1": 0.0})


@given(
    st.integers(0, 300),
    st.dictionaries(st.sampled_from(["m0", "m1", "m2", "m3"]), DEMANDS, min_size=1),
)
def test_entitlements_are_the_whole_capacity(capacity: int, demands: dict[str, dict[str, float]]) -> None:
    found = entitlements(capacity, demands, dict.fromkeys("abcdefgh", 1.0))
    assert sum(found.values()) == pytest.approx(capacity, abs=1e-6)
    assert all(each >= -1e-9 for each in found.values())
    if capacity >= 8 * len(demands):
        assert all(each >= 1 - 1e-6 for each in found.values())


@given(st.integers(0, 200), st.dictionaries(NAMES, st.floats(0.001, 10), min_size=1))
def test_apportioned_numbers_add_up_and_are_near_the_wishes(total: int, parts: dict[str, float]) -> None:
    whole = sum(parts.values())
    wishes = {name: total * part / whole for name, part in parts.items()}
    found = apportion(total, wishes)
    assert sum(found.values()) == total
    assert all(abs(found[name] - wish) < 1 + 1e-6 for name, wish in wishes.items())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_everybody_is_dealt_its_part_of_every_worker(capacities: list[int], parts: list[float]) -> None:
    total = sum(capacities)
    wishes = {str(i): total * part / (sum(parts) or 1.0) for i, part in enumerate(parts)}
    if not sum(parts):
        wishes = {name: total / len(parts) for name in wishes}
    counts = list(apportion(total, wishes).values())
    rows = lay_out(capacities, counts)
    assert [sum(row) for row in rows] == counts
    assert [sum(column) for column in zip(*rows, strict=True)] == capacities
    for row, count in zip(rows, counts, strict=True):
        for amount, capacity in zip(row, capacities, strict=True):
            assert abs(amount - count * capacity / total) <= 2


def test_rounding_gives_everybody_its_wish_over_time() -> None:
    rounding = Rounding(turn_s=1.0)
    given_: dict[str, float] = {"a": 0.0, "b": 0.0, "c": 0.0}
    steps = 4000
    for step in range(steps):
        found = rounding(3, {"a": 2.4, "b": 0.35, "c": 0.25}, step * 0.1)
        assert sum(found.values()) == 3
        for name, amount in found.items():
            given_[name] += amount
    assert given_["a"] / steps == pytest.approx(2.4, abs=0.05)
    assert given_["b"] / steps == pytest.approx(0.35, abs=0.05)
    assert given_["c"] / steps == pytest.approx(0.25, abs=0.05)


def test_one_slot_goes_round() -> None:
    rounding = Rounding(turn_s=1.0)
    had = {max(found, key=found.__getitem__) for step in range(60) if (found := rounding(1, _third(), step * 0.1))}
    assert had == {"a", "b", "c"}


def test_small_changes_of_the_wishes_move_nothing() -> None:
    rounding = Rounding(turn_s=1.0)
    first = rounding(10, {"a": 5.0, "b": 5.0}, 0.0)
    assert rounding(10, {"a": 5.3, "b": 4.7}, 0.1) == first
    assert rounding(10, {"a": 7.0, "b": 3.0}, 0.2) == {"a": 7, "b": 3}


def _third() -> dict[str, float]:
    return {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
