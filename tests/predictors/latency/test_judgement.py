"""What may be called a good fit."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.latency.judgement import BARS, failures, judged, nested
from predictors.latency.measurements import Latencies, Measurements

SHAPE = np.linspace(1.0, 2.0, 50)


def load(name: str = "held") -> Measurements:
    sizes = np.full(50, 10, dtype=np.int64)
    return Measurements(name, np.linspace(0.0, 49.0, 50), sizes, sizes, Latencies(SHAPE, 4 * SHAPE, 0.1 * SHAPE), "")


def simulated(ttft: float = 1.0, e2e: float = 1.0, itl: float = 1.0) -> Latencies:
    return Latencies(ttft * SHAPE, 4 * e2e * SHAPE, 0.1 * itl * SHAPE)


@pytest.mark.parametrize("sign", [1, -1])
def test_each_statistic_has_its_bar_either_way(sign: int) -> None:
    assert failures([judged(load(), simulated(1 + sign * 0.14, 1 + sign * 0.049, 1 + sign * 0.069), seed=0)]) == []
    found = failures([judged(load(), simulated(1 + sign * 0.16, 1 + sign * 0.06, 1 + sign * 0.08), seed=0)])
    assert {failure.statistic for failure in found} == {"ttft_p50", "e2e_mean", "itl_p50"}


def test_failures_name_the_load_the_bar_and_what_to_do_the_worst_first() -> None:
    good, bad = judged(load(), simulated(), seed=0), judged(load("other"), simulated(e2e=1.2, ttft=1.21), seed=0)
    found = failures([good, bad])
    assert found[0].statistic == "e2e_mean"
    assert str(found[0]).startswith("other: e2e_mean is off by +20.0%, the bar is ±5%; add an open load")
    assert bad.strain == pytest.approx(4.0)
    assert good.strain == pytest.approx(0.0, abs=1e-9)


def test_errors_are_plain_numbers_by_latency_and_statistic() -> None:
    errors = nested(judged(load(), simulated(e2e=1.1), seed=0).errors)
    assert errors["e2e"] == pytest.approx({"mean": 0.1, "p50": 0.1, "p90": 0.1, "p99": 0.1})
    assert set(errors) == {"ttft", "itl", "e2e"}


def test_intervals_hold_the_error_and_are_drawn_from_the_seed() -> None:
    noise = np.random.default_rng(1).normal(1.0, 0.05, 50)
    seen = Latencies(SHAPE * noise, 4 * SHAPE * noise, 0.1 * SHAPE * noise)
    first, second = (judged(load(), seen, seed=4).errors["e2e_mean"] for _ in range(2))
    assert first == second
    assert first.lo < first.value < first.hi


def test_a_load_without_gaps_is_judged_by_what_it_has() -> None:
    nothing = np.full(50, np.nan)
    lone = Latencies(SHAPE, SHAPE, nothing)
    sizes = np.full(50, 1, dtype=np.int64)
    one = judged(Measurements("lone", np.linspace(0.0, 49.0, 50), sizes, sizes, lone, ""), lone, seed=0)
    assert not set(one.errors) & {"itl_p50", "itl_mean"}
    assert failures([one]) == []
    assert set(BARS) - set(one.errors) == {"itl_p50"}
