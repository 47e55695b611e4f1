"""The fitter finds back the constants of an engine whose measurements it is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from envs.engines.replay import closed_loop, replay
from predictors.latency.ladder import START_8B
from predictors.latency.measurements import CONSTANTS, ClosedLoop, Latencies, Measurements, signed_errors
from predictors.latency.train import ProfileFitter

TRUE = replace(START_8B, a=8e-3, b=18e-6, c=40e-6, d=50e-9, request_overhead_s=6e-3, token_overhead_s=0.2e-3)


def made_load(rate: float, count: int, seed: int) -> Measurements:
    rng = np.random.default_rng(seed)
    nothing = Latencies(*(np.zeros(count),) * 3)
    arrival = np.cumsum(rng.exponential(1 / rate, count))
    sizes = rng.integers(50, 2000, count), rng.integers(5, 150, count)
    return Measurements("made", arrival, *sizes, nothing, "")


def measured(load: Measurements) -> Measurements:
    return replace(load, measured=replay(TRUE, load).latencies)


def test_a_known_engine_is_found_back() -> None:
    loops = tuple(
        replace(loop, tokens_per_s=closed_loop(TRUE, loop).tokens_per_s)
        for loop in (ClosedLoop(1, 512, 32, 2, 0.0), ClosedLoop(64, 512, 32, 128, 0.0))
    )
    load = measured(made_load(6.0, 150, 1))
    fitter = ProfileFitter(START_8B, replay, closed_loop, starts=1).fit(load, loops)
    held_out = measured(made_load(12.0, 120, 2))
    errors = signed_errors(fitter.predict(held_out), held_out.measured)
    assert all(abs(error) < (0.12 if name.startswith("ttft") else 0.04) for name, error in errors.items())
    assert fitter.profile_.a == pytest.approx(TRUE.a, rel=0.03)
    assert fitter.profile_.b == pytest.approx(TRUE.b, rel=0.15)


def test_only_the_constants_change() -> None:
    load = measured(made_load(6.0, 10, 1))
    fitted = ProfileFitter(START_8B, replay, closed_loop, rounds=2, starts=1).fit(load).profile_
    assert fitted != START_8B
    assert replace(fitted, **{name: getattr(START_8B, name) for name in CONSTANTS}) == START_8B
    assert fitted.eager_floor_s == 0.0, "a guess of zero stays zero"


def test_the_same_seed_gives_the_same_profile() -> None:
    load = measured(made_load(6.0, 10, 1))
    first, second = (
        ProfileFitter(START_8B, replay, closed_loop, rounds=3, starts=2, seed=7).fit(load) for _ in range(2)
    )
    assert (first.profile_, first.cost_) == (second.profile_, second.cost_)
