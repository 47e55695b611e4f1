"""Picoseconds and closed forms."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from envs.engines.kernel.timing import run_duration, run_length
from envs.engines.timing import StepTiming, to_ps, to_seconds
from tests.envs.engines.profiles import profile


@given(st.integers(0, 10**19))
def test_seconds_never_fall_short_of_their_picoseconds(ps: int) -> None:
    assert to_ps(to_seconds(ps)) >= ps


@given(st.integers(1, 10**11), st.integers(0, 10**8), st.integers(0, 10**15), st.integers(0, 10**6))
def test_the_run_length_is_the_most_that_fits(first: int, growth: int, limit: int, most: int) -> None:
    steps = run_length(first, growth, limit, most)
    assert run_duration(first, growth, steps) <= limit
    assert steps == most or run_duration(first, growth, steps + 1) > limit


@given(st.integers(1, 10**6), st.integers(0, 10**4), st.integers(0, 60))
def test_the_run_duration_is_the_sum_of_its_steps(first: int, growth: int, steps: int) -> None:
    assert run_duration(first, growth, steps) == sum(first + growth * i for i in range(steps))


@given(st.integers(0, 3000), st.integers(0, 256), st.integers(0, 10**6))
def test_steps_take_what_the_profile_says(prefill: int, decoding: int, context: int) -> None:
    floors = {"eager_floor_s": 9e-3, "mixed_floor_s": 6e-3}
    shape = profile(**floors, overlap_s=0.5e-3, graph_tokens=100, wide_s=9e-6, graph_step=8)
    steps = StepTiming.of(shape)
    assert abs(steps.step(prefill, decoding, context) - to_ps(shape.step_seconds(prefill, decoding, context))) <= 3
