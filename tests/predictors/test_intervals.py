from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.intervals import bootstrap, bootstrap_mean, wilson


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_between_0_and_1(case: tuple[int, int]) -> None:
    successes, n = case
    interval = wilson(successes, n)
    assert 0.0 <= interval.lo <= interval.value <= interval.hi <= 1.0
    assert interval.value == successes / n


def test_wilson_against_a_published_value() -> None:
    interval = wilson(81, 263)
    assert (interval.lo, interval.hi) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (2, 1), (-1, 3)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, n)


def test_bootstrap_of_a_mean_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = sum(
        interval.lo <= 1.0 <= interval.hi
        for interval in (bootstrap_mean(rng.normal(1.0, 2.0, 80), seed, 300) for seed in range(200))
    )
    assert 178 <= covered <= 199, "about 190 of 200"


def test_the_same_seed_gives_the_same_interval_however_it_is_chunked() -> None:
    values = np.random.default_rng(1).normal(size=200_000)
    assert bootstrap_mean(values, 3, resamples=50) == bootstrap_mean(values, 3, resamples=50)
    assert bootstrap_mean(values, 3, resamples=50) != bootstrap_mean(values, 4, resamples=50)


def test_rows_are_resampled_together() -> None:
    x = np.arange(50.0)
    interval = bootstrap(lambda a, b: float((a - b).mean()), x, x - 2.0, seed=0, resamples=100)
    assert (interval.lo, interval.value, interval.hi) == (2.0, 2.0, 2.0)


def test_undefined_resamples_are_left_out() -> None:
    def ratio(values: np.ndarray) -> float:
        return float(values.mean()) if values.any() else float("nan")

    interval = bootstrap(ratio, np.array([0.0, 0.0, 1.0]), seed=0, resamples=200)
    assert np.isfinite([interval.lo, interval.hi]).all()


def test_an_always_undefined_statistic_has_no_width() -> None:
    interval = bootstrap(lambda _: float("nan"), np.arange(3.0), seed=0, resamples=10)
    assert np.isnan([interval.value, interval.lo, interval.hi]).all()


def test_nothing_to_resample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        bootstrap_mean([], 0)
    with pytest.raises(ValueError, match="at least one row"):
        bootstrap(lambda: 0.0, seed=0)
    with pytest.raises(ValueError, match="same length"):
        bootstrap(lambda a, b: 0.0, np.arange(2), np.arange(3), seed=0)
