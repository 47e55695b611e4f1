from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.fairness.counters import Counters

STEPS = st.tuples(
    st.sampled_from(["arrive", "leave", "charge", "refund", "adopt"]), st.sampled_from("abcde"), st.integers(1, 50)
)


@given(st.lists(STEPS, max_size=80))
@settings(max_examples=300)
def test_the_least_is_the_least_whatever_was_charged_or_given_back(steps: list[tuple[str, str, int]]) -> None:
    counters = Counters(1000)
    values: dict[str, float] = {}
    waiting: set[str] = set()
    for step, group, amount in steps:
        if step == "arrive" and group not in waiting:
            counters.arrived(group, float(amount))
            values[group] = max(values.get(group, 0.0), float(amount))
            waiting.add(group)
        elif step == "leave" and group in waiting:
            counters.emptied(group)
            waiting.discard(group)
        elif step in ("charge", "refund"):
            service = float(amount if step == "charge" else -amount)
            counters.charge(group, service)
            values[group] = values.get(group, 0.0) + service
        elif step == "adopt":
            counters.adopt({group: amount * 3.0}, 0.0)
            values[group] = max(values.get(group, 0.0), amount * 3.0)
        if waiting:
            assert counters.least() == min((values[one], one) for one in waiting)
            assert {one.name for one in counters.standing()} <= waiting


def test_memory_stays_bounded_whatever_is_given_back() -> None:
    counters = Counters(1000)
    for group in "ab":
        counters.arrived(group, 0.0)
    for _ in range(5_000):
        counters.charge("a", 10.0)
        counters.charge("a", -5.0)
    assert len(counters._heap) < 50
    assert counters.least() == (0.0, "b")


@given(st.lists(st.integers(-50, 50), max_size=60))
def test_where_counters_are_shared_they_never_shrink_and_pay_back_with_the_next(changes: list[int]) -> None:
    counters = Counters(1000, shared=True)
    before = owed = 0.0
    for change in changes:
        counters.charge("a", float(change))
        owed += change
        now = counters.served()["a"].charged
        assert now >= before
        assert now >= owed
        before = now
    counters.charge("a", 10_000.0)
    assert counters.served()["a"].charged >= owed + 10_000
