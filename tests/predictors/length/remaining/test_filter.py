"""The countdown: beliefs stay beliefs, counting down is conditioning, and what is pooled lies between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from predictors.length.remaining.filter import (
    BINS,
    EDGES,
    LIMIT,
    bin_of,
    capped,
    expectation,
    lasting,
    pooled,
    quantile,
    shifted,
)

Floats = NDArray[np.float64]
BELIEFS = arrays(np.float64, BINS, elements=st.floats(1e-6, 1.0)).map(lambda values: values / values.sum())


def is_belief(belief: Floats) -> bool:
    return bool((belief >= 0).all() and belief.sum() == pytest.approx(1.0))


def test_bins_cover_every_length() -> None:
    assert EDGES[0] == 0.0
    assert EDGES[-1] == pytest.approx(LIMIT)
    assert (np.diff(EDGES) > 0).all()
    assert bin_of(np.array([1.0, 8.0, 9.0, 1e9])).tolist() == [0, 0, 1, BINS - 1]


@given(BELIEFS, st.floats(0.0, 2 * LIMIT))
def test_counting_down_keeps_a_belief_and_never_promises_more_time_than_the_limit(
    belief: Floats, tokens: float
) -> None:
    after = shifted(belief, tokens)
    assert is_belief(after)
    assert 0.0 < expectation(after) <= LIMIT


@given(BELIEFS)
def test_counting_down_by_nothing_changes_nothing(belief: Floats) -> None:
    assert np.allclose(shifted(belief, 0.0), belief)


def test_counting_down_is_conditioning_on_having_come_so_far() -> None:
    uniform = np.diff(EDGES) / LIMIT
    assert expectation(shifted(uniform, LIMIT / 2)) == pytest.approx(LIMIT / 4, rel=0.02)
    assert quantile(shifted(uniform, LIMIT / 2), 0.9) == pytest.approx(0.9 * LIMIT / 2, rel=0.01)


def test_a_stream_that_outlives_every_belief_has_about_as_much_left_as_it_surprised_by() -> None:
    certain = np.eye(BINS)[0]
    after = shifted(certain, 100.0)
    assert is_belief(after)
    assert 80.0 < expectation(after) < 130.0


@given(st.floats(1.0, 1000.0))
def test_lasting_has_the_mean_it_was_asked_for(mean: float) -> None:
    assert is_belief(lasting(mean))
    assert expectation(lasting(mean)) == pytest.approx(mean, rel=0.15, abs=4.0)


@given(BELIEFS, BELIEFS)
def test_pooling_is_between_memory_and_the_present(belief: Floats, other: Floats) -> None:
    assert np.allclose(pooled(belief, np.log(other), 0.0, 1.0), other)
    assert np.allclose(pooled(belief, np.log(other), 1.0, 0.0), belief)
    assert np.allclose(pooled(belief, np.log(belief), 0.5, 0.5), belief)
    product = belief * other
    assert np.allclose(pooled(belief, np.log(other), 1.0, 1.0), product / product.sum())


@given(BELIEFS, st.floats(1.0, LIMIT))
def test_a_limit_caps(belief: Floats, most: float) -> None:
    within = capped(belief, most)
    assert is_belief(within)
    assert expectation(within) <= expectation(belief) + 1e-6
    assert quantile(within, 0.99) <= EDGES[bin_of(np.array([most]))[0] + 1] + 1e-6


@given(BELIEFS, st.floats(0.01, 0.98))
def test_quantiles_rise(belief: Floats, share: float) -> None:
    assert 0.0 <= quantile(belief, share) <= quantile(belief, share + 0.01) <= LIMIT + 1e-6
