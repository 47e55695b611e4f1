"""What a request is taken to cost: mean and tail, at most its limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.order.cost import TYPICAL_TAIL, expected_cost
from controller.protocols import OrderContext
from controller.types import Scores
from tests.controller.planes import ticket


def context(
    expected: int, predicted: float | None = None, tail: float | None = None, limit: int | None = None
) -> OrderContext:
    scores = None if predicted is None else Scores(output_tokens=predicted, output_tail=tail)
    return OrderContext(ticket("t", max_tokens=limit), 0.0, scores, 10, expected)


def test_mean_and_tail_as_the_pool_corrects_them() -> None:
    assert expected_cost(context(200, 200.0, 700.0), 0.3) == pytest.approx(200 + 0.3 * 700)
    assert expected_cost(context(400, 200.0, 700.0), 0.3) == pytest.approx(400 + 0.3 * 1400), "this pool is verbose"


def test_without_a_tail_it_is_typical_and_without_a_prediction_too() -> None:
    scored, unscored = context(200, 200.0), context(200)
    assert expected_cost(scored, 0.3) == expected_cost(unscored, 0.3) == pytest.approx(200 + 0.3 * TYPICAL_TAIL * 200)
    assert expected_cost(context(200), 0.0) == 200


def test_of_two_with_one_mean_the_one_that_may_run_away_is_dearer_unless_both_are_cut() -> None:
    calm, wild = (expected_cost(context(200, 200.0, tail), 0.3) for tail in (250.0, 1500.0))
    assert calm < wild
    calm, wild = (expected_cost(context(200, 200.0, tail, 220), 0.0) for tail in (250.0, 1500.0))
    assert wild < calm, "a limit cuts off the most where the mean comes from a tail"


@given(
    st.floats(1, 1e4),
    st.none() | st.floats(0.1, 20),
    st.none() | st.integers(1, 10_000),
    st.floats(0, 2),
    st.floats(0.1, 5),
)
def test_it_is_positive_finite_and_within_what_the_limit_allows(
    mean: float, tails: float | None, limit: int | None, weight: float, verbosity: float
) -> None:
    expected = max(1, round(mean * verbosity if limit is None else min(mean * verbosity, limit)))
    cost = expected_cost(context(expected, mean, None if tails is None else tails * mean, limit), weight)
    assert cost > 0
    if limit is not None:
        assert cost <= (1 + weight) * limit * (1 + 1e-9)


@given(st.floats(1, 1e4), st.floats(1, 20), st.integers(1, 10_000), st.floats(0, 2))
def test_a_limit_never_makes_it_dearer(mean: float, tails: float, limit: int, weight: float) -> None:
    free = expected_cost(context(max(1, round(mean)), mean, tails * mean), weight)
    cut = expected_cost(context(max(1, round(min(mean, limit))), mean, tails * mean, limit), weight)
    assert cut <= free * (1 + 1e-9) + 1e-6
