from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.buckets import Bucket

EIGHTHS = st.integers(0, 800).map(lambda n: n / 8)
"""Times and amounts whose sums floating point holds exactly."""


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[float, float]]:
    """(time, amount), times not falling."""
    times = sorted(draw(st.lists(EIGHTHS, max_size=40)))
    return [(at, draw(st.integers(1, 80)) / 8) for at in times]


@given(st.sampled_from([0.5, 1.0, 2.0, 8.0]), st.sampled_from([10.0, 12.5, 64.0]), histories())
def test_no_more_than_its_capacity_and_what_flowed_in_is_ever_taken(
    rate: float, capacity: float, history: list[tuple[float, float]]
) -> None:
    bucket = Bucket(rate, capacity, 0.0)
    taken: list[tuple[float, float]] = []
    for at, amount in history:
        if not bucket.wait(amount, at):
            bucket.take(amount, at)
            taken.append((at, amount))
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            inside = sum(amount for _, amount in taken[first : last + 1])
            assert inside <= capacity + rate * (taken[last][0] - taken[first][0])


@given(st.sampled_from([0.5, 1.0, 2.0, 8.0]), histories())
def test_a_debt_is_paid_back_before_anything_else_is_taken(rate: float, history: list[tuple[float, float]]) -> None:
    """Settled for twice as much as was asked for: over all, still no more than flowed in, and one last amount."""
    bucket = Bucket(rate, 16.0, 0.0)
    took = 0.0
    for at, amount in history:
        if not bucket.wait(amount, at):
            bucket.take(amount, at)
            bucket.take(amount, at)
            took += 2 * amount
            assert took - 2 * amount <= 16.0 + rate * at


@given(st.floats(0.01, 100), st.floats(0.1, 1000), st.floats(0, 1000), st.floats(0.01, 1000), st.floats(0.01, 1.0))
def test_who_comes_back_after_the_wait_is_served(
    rate: float, capacity: float, spent: float, amount: float, share: float
) -> None:
    bucket = Bucket(rate, capacity, 5.0, share)
    bucket.take(spent, 5.0)
    wait = bucket.wait(amount, 5.0)
    if wait > 1e-3:
        assert bucket.wait(amount, 5.0 + wait / 2) > 0, "not earlier than need be"
    assert bucket.wait(amount, 5.0 + wait * (1 + 1e-9)) == 0


def test_what_is_given_back_can_be_taken_again_but_does_not_overflow() -> None:
    bucket = Bucket(1.0, 10.0, 0.0)
    bucket.take(4.0, 0.0)
    bucket.take(-4.0, 0.0)
    assert bucket.level(0.0) == 10.0
    bucket.take(-4.0, 0.0)
    assert bucket.level(0.0) == 10.0


def test_time_that_goes_back_adds_nothing() -> None:
    bucket = Bucket(1.0, 10.0, 100.0)
    bucket.take(10.0, 100.0)
    assert bucket.level(50.0) == 0.0
    assert bucket.level(101.0) == 1.0


def test_an_amount_larger_than_the_bucket_waits_for_a_full_one_and_is_paid_back() -> None:
    bucket = Bucket(1.0, 10.0, 0.0)
    assert bucket.wait(25.0, 0.0) == 0
    bucket.take(25.0, 0.0)
    assert bucket.level(0.0) == -15.0
    assert bucket.wait(1.0, 0.0) == pytest.approx(16.0, abs=1e-3)
    assert bucket.full_in(0.0) == 25.0


@given(st.lists(st.integers(0, 8).map(lambda n: n / 8), min_size=1, max_size=20))
def test_two_buckets_whose_shares_add_up_to_one_admit_no_more_than_one(shares: list[float]) -> None:
    """However the share moves between them from second to second."""
    rate, capacity = 4.0, 16.0
    left, right = Bucket(rate, capacity, 0.0, 1.0), Bucket(rate, capacity, 0.0, 0.0)
    taken = 0.0
    for second, share in enumerate(shares):
        left.lease(share, float(second))
        right.lease(1.0 - share, float(second))
        for bucket in (left, right):
            while not bucket.wait(1.0, float(second)):
                bucket.take(1.0, float(second))
                taken += 1.0
        assert taken <= capacity + rate * second + 1.0, "one may have been larger than the share of the bucket"


def test_without_a_share_nothing_is_admitted() -> None:
    bucket = Bucket(1.0, 10.0, 0.0, 0.0)
    assert bucket.wait(1.0, 1000.0) == math.inf


def test_a_smaller_capacity_holds_at_once() -> None:
    bucket = Bucket(1.0, 10.0, 0.0)
    bucket.resize(2.0, 4.0, 0.0)
    assert (bucket.level(0.0), bucket.level(9.0)) == (4.0, 4.0)
    bucket.take(4.0, 9.0)
    assert bucket.level(10.0) == 2.0
