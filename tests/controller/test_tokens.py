from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.tokens import OutputEstimator, PromptCounter
from controller.types import Ticket


def test_an_exact_count_is_taken_as_it_is() -> None:
    assert PromptCounter(4.0).count(Ticket("t", "m", prompt_chars=10_000, prompt_tokens=7)) == 7


def test_the_ratio_follows_what_workers_report() -> None:
    counter = PromptCounter(4.0)
    prompt = Ticket("t", "m", prompt_chars=1000)
    assert counter.count(prompt) == 250
    for _ in range(400):
        counter.observe(chars=300, tokens=150)
    assert counter.count(prompt) == pytest.approx(500, rel=0.05)


@given(st.lists(st.tuples(st.integers(-5, 10_000), st.integers(-5, 10_000))))
def test_no_report_makes_an_estimate_impossible(reports: list[tuple[int, int]]) -> None:
    counter = PromptCounter(4.0)
    for chars, tokens in reports:
        counter.observe(chars, tokens)
    assert counter.count(Ticket("t", "m", prompt_chars=100)) >= 0
    assert counter.chars_per_token > 0


def test_expected_output_is_limited_by_the_client() -> None:
    estimator = OutputEstimator(256.0)
    assert estimator.expect(None, None) == 256
    assert estimator.expect(None, 50) == 50
    assert estimator.expect(10.0, 50) == 10
    assert estimator.expect(0.0, 50) == 1


def test_a_pool_that_says_more_than_predicted_is_expected_to() -> None:
    estimator = OutputEstimator(100.0)
    for _ in range(500):
        estimator.observe(predicted=100.0, actual=200)
    assert estimator.expect(100.0, None) == pytest.approx(200, rel=0.05)
    assert estimator.mean == pytest.approx(200, rel=0.05)


@pytest.mark.parametrize("wrong", [0.0, -1.0])
def test_priors_must_be_positive(wrong: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        PromptCounter(wrong)
    with pytest.raises(ValueError, match="positive"):
        OutputEstimator(wrong)
