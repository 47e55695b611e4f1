from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.simulate.gauges import Reading, Sampler


@given(st.floats(0.0, 1e6), st.integers(2, 64), st.integers(0, 1_000))
def test_never_more_than_the_bound_evenly_spaced_and_in_order(span: float, most: int, readings: int) -> None:
    sampler = Sampler(span, most)
    for index in range(readings):
        sampler.take(Reading(index, 0, 0.0, 0.0))
    at = sampler.gauges().at
    assert len(at) <= most
    assert len(at) >= min(readings, most // 2)
    if readings:
        assert at[0] == 0.0
    if len(at) > 2:
        np.testing.assert_allclose(np.diff(at), at[1] - at[0], rtol=1e-9)
        assert sampler.due == pytest.approx(at[-1] + at[1] - at[0])


def test_readings_keep_their_times() -> None:
    sampler = Sampler(0.0, most=8)
    for _ in range(100):
        sampler.take(Reading(round(sampler.due * 100), 2, 0.25, 0.5))
    gauges = sampler.gauges()
    np.testing.assert_allclose(gauges.waiting, gauges.at * 100)
    assert set(gauges.kv_mean) == {0.25}
    assert gauges.kv_most is not None
    assert set(gauges.kv_most) == {0.5}
    with pytest.raises(ValueError, match="at least 2"):
        Sampler(1.0, most=1)
