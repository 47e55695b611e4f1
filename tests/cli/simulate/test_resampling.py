from __future__ import annotations

import math

import numpy as np
import pytest

from cli.simulate.resampling import Blocks, Resampled

RNG = np.random.default_rng(0)


def _column(values: object, seed: int = 0) -> Resampled:
    column = np.asarray(values, np.float64)
    return Resampled(column, Blocks(len(column), seed))


def test_values_are_exact_and_lie_within_their_intervals() -> None:
    values = RNG.lognormal(size=5_000)
    column = _column(values)
    for q in (0.5, 0.9, 0.99):
        found = column.quantile(q)
        assert found is not None
        assert found.value == pytest.approx(np.quantile(values, q))
        assert found.lo <= found.value <= found.hi
    mean = column.mean()
    assert mean is not None
    assert mean.value == pytest.approx(values.mean())


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    truth = {"mean": math.exp(0.5), "p50": 1.0, "p90": math.exp(1.2815515655446004)}
    hits = dict.fromkeys(truth, 0)
    for _ in range(200):
        values = RNG.lognormal(size=400)
        blocks = Blocks(400, int(RNG.integers(1 << 30)), resamples=300)
        column = Resampled(values, blocks)
        found = {"mean": column.mean(), "p50": column.quantile(0.5), "p90": column.quantile(0.9)}
        for name, interval in found.items():
            assert interval is not None
            hits[name] += interval.lo <= truth[name] <= interval.hi
    assert all(hit >= 170 for hit in hits.values()), hits


def test_a_ratio_on_the_same_requests_is_surer_than_its_parts() -> None:
    first = RNG.lognormal(sigma=2.0, size=2_000)
    blocks = Blocks(2_000, 1)
    one, half = Resampled(first, blocks), Resampled(0.5 * first, blocks)
    for ratio in (half.mean_ratio(one), half.quantile_ratio(one, 0.9)):
        assert ratio is not None
        assert (ratio.lo, ratio.value, ratio.hi) == pytest.approx((0.5, 0.5, 0.5))


def test_who_was_never_answered_counts_in_quantiles_and_not_in_means() -> None:
    values = [1.0, 2.0, 3.0, math.inf]
    column = _column(values)
    mean, middle = column.mean(), column.quantile(0.5)
    assert mean is not None
    assert mean.value == 2.0
    assert middle is not None
    assert middle.value == 2.5
    assert middle.hi == math.inf, "in some resamples most were not answered"
    assert column.quantile(0.99) is None
    lost = _column([math.inf, math.inf])
    assert lost.mean() is None
    assert lost.quantile(0.5) is None


def test_ratios_of_means_are_over_requests_that_both_answered() -> None:
    blocks = Blocks(4, 0)
    first = Resampled(np.array([1.0, 1.0, math.inf, 9.0]), blocks)
    other = Resampled(np.array([2.0, 2.0, 5.0, math.inf]), blocks)
    ratio = other.mean_ratio(first)
    assert ratio is not None
    assert ratio.value == 2.0
    assert other.quantile_ratio(first, 1.0) is None
    assert first.mean_ratio(Resampled(np.zeros(4), blocks)) is None, "nothing is many times nothing"


def test_one_request_has_an_interval_of_no_width() -> None:
    found = _column([3.0]).quantile(0.9)
    assert found is not None
    assert (found.lo, found.value, found.hi) == (3.0, 3.0, 3.0)
