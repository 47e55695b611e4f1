"""Rates that change over time: the arrivals follow them, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, takewhile
from typing import Protocol

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.workloads import Diurnal, Ramp, Sinusoid, Step


class Curve(Protocol):
    def rate_at(self, at: float) -> float: ...
    def times(self, rng: np.random.Generator) -> Iterator[float]: ...


CURVES = [
    Ramp(5.0, 60.0, 200.0),
    Ramp(60.0, 5.0, 200.0),
    Step(((0.0, 20.0), (50.0, 0.0), (120.0, 80.0), (180.0, 30.0))),
    Sinusoid(40.0, depth=0.9, period=150.0, shift=20.0),
    Diurnal((10.0, 0.0, 90.0, 40.0), period=100.0),
    Diurnal((10.0, 0.0, 90.0, 40.0), period=100.0, start=37.0),
]


def until(process: Curve, end: float, seed: int = 3) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    times = process.times(np.random.default_rng(seed))
    return np.asarray(list(takewhile(lambda at: at < end, times)))


@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_arrivals_follow_the_rate_in_every_stretch(curve: Curve) -> None:
    width, end = 12.5, 300.0
    counts = np.histogram(until(curve, end), bins=np.arange(0.0, end + width, width))[0]
    for left, seen in zip(np.arange(0.0, end, width), counts, strict=True):
        wanted = sum(curve.rate_at(at) for at in np.linspace(left, left + width, 400, endpoint=False)) * width / 400
        assert abs(seen - wanted) <= 4.5 * np.sqrt(wanted) + 2


@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_gaps_are_exponential_on_the_clock_of_the_cumulated_rate(curve: Curve) -> None:
    grid = np.linspace(0.0, 300.0, 60_001)
    rates = np.asarray([curve.rate_at(at) for at in grid])
    cumulated = np.concatenate([[0.0], np.cumsum((rates[1:] + rates[:-1]) / 2 * np.diff(grid))])
    gaps = np.sort(np.diff(np.interp(until(curve, 300.0), grid, cumulated)))
    distance = np.abs(np.arange(1, len(gaps) + 1) / len(gaps) - (1 - np.exp(-gaps))).max()
    assert distance < 1.63 / np.sqrt(len(gaps)), "Kolmogorov and Smirnov at 1 %"


def test_the_curves_pass_through_the_points_they_are_made_of() -> None:
    assert [Ramp(2.0, 8.0, 10.0).rate_at(at) for at in (0.0, 5.0, 10.0, 99.0)] == [2.0, 5.0, 8.0, 8.0]
    assert [Step(((0.0, 5.0), (60.0, 20.0))).rate_at(at) for at in (0.0, 59.9, 60.0)] == [5.0, 5.0, 20.0]
    wave = Sinusoid(10.0, depth=0.5, period=40.0)
    assert [wave.rate_at(at) for at in (0.0, 10.0, 30.0)] == pytest.approx([10.0, 15.0, 5.0])
    day = Diurnal.between(2.0, 10.0, peak_hour=14.0)
    assert [day.rate_at(3600.0 * hour) for hour in (14, 2, 38)] == pytest.approx([10.0, 2.0, 10.0])
    assert Diurnal.between(2.0, 10.0, start=3600.0 * 14).rate_at(0.0) == pytest.approx(10.0)


@given(
    rates=st.lists(st.floats(0, 20), min_size=2, max_size=6).filter(lambda r: max(r) > 1),
    start=st.floats(0, 500),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_days_ascend_whatever_their_shape_and_hour(rates: list[float], start: float, seed: int) -> None:
    times = until(Diurnal(tuple(rates), period=50.0, start=start), 100.0, seed)
    assert all(a <= b for a, b in pairwise(times))
    assert all(at >= 0 for at in times)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ramp(-1.0, 2.0, 3.0),
        lambda: Ramp(1.0, 0.0, 3.0),
        lambda: Step(()),
        lambda: Step(((1.0, 5.0),)),
        lambda: Step(((0.0, 5.0), (3.0, 0.0))),
        lambda: Step(((0.0, 5.0), (0.0, 2.0))),
        lambda: Sinusoid(1.0, depth=1.5),
        lambda: Diurnal((1.0,)),
        lambda: Diurnal((0.0, 0.0)),
    ],
)
def test_senseless_settings_are_refused(make: object) -> None:
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]
