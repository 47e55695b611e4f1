from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.objectives import (
    Objective,
    Served,
    availability,
    deadline_reward,
    goodput,
    mean_quality,
    quantile,
    served,
    share_of_peak,
)
from controller.types import Usage
from tests.controller.planes import plane, record_of, submit

IN_TIME = Served(latency=1.0, deadline=2.0, quality=0.8, peak=1.0, ttft=0.2, output_tokens=9)
LATE = Served(latency=3.0, deadline=2.0, quality=1.0, peak=1.0, ttft=0.2, output_tokens=9)
LOST = Served(latency=None, deadline=2.0, peak=0.5)


def test_late_and_lost_requests_stay_in_every_denominator() -> None:
    requests = [IN_TIME, LATE, LOST, LOST]
    assert availability(requests) == 0.25
    assert mean_quality(requests) == pytest.approx(1.8 / 4)
    assert share_of_peak(requests) == pytest.approx(0.8 / 3.0)
    assert share_of_peak(requests, kappa=1.0) == pytest.approx((0.8 + 0.5) / 3.0)
    assert goodput(requests, 2.0) == 0.5


def test_no_requests_have_no_share() -> None:
    assert availability([]) is None
    assert mean_quality([]) is None
    assert share_of_peak([]) is None
    assert share_of_peak([Served(1.0, peak=0.0)]) is None
    assert quantile([], 0.5) is None
    assert goodput([], 1.0) == 0.0


def test_goodput_needs_every_objective() -> None:
    assert IN_TIME.tpot == pytest.approx(0.1)
    assert goodput([IN_TIME], 1.0, Objective(ttft_s=0.2, tpot_s=0.11, e2e_s=1.0)) == 1.0
    for missed in (Objective(ttft_s=0.1), Objective(tpot_s=0.09), Objective(e2e_s=0.9)):
        assert goodput([IN_TIME], 1.0, missed) == 0.0
    assert goodput([Served(latency=1.0)], 1.0, Objective(ttft_s=9.0)) == 0.0, "an unknown time is not a met one"
    assert Served(latency=1.0, ttft=0.5, output_tokens=1).tpot == 0.0
    with pytest.raises(ValueError, match="run"):
        goodput([IN_TIME], 0.0)


@pytest.mark.parametrize(
    ("latency", "hard", "soft"),
    [(0.0, 0.8, 0.8), (4.0, 0.8, 0.8), (5.0, 0.0, 0.4), (6.0, 0.0, 0.0), (60.0, 0.0, 0.0), (None, 0.0, 0.0)],
)
def test_both_forms_of_reward_by_hand(latency: float | None, hard: float, soft: float) -> None:
    assert deadline_reward(0.8, latency, 4.0) == pytest.approx(hard)
    assert deadline_reward(0.8, latency, 4.0, kappa=0.5) == pytest.approx(soft)
    assert deadline_reward(0.8, latency, None) == (0.0 if latency is None else 0.8)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_are_numpys(values: list[float], q: float) -> None:
    assert quantile(values, q) == pytest.approx(float(np.quantile(values, q)), rel=1e-9, abs=1e-6)


def test_a_quantile_lies_between_0_and_1() -> None:
    with pytest.raises(ValueError, match="between"):
        quantile([1.0], 1.5)


def test_a_record_says_how_its_request_was_served() -> None:
    control = plane(max_inflight=4)
    for name in ("done", "gone"):
        submit(control, name, 10.0)
    control.dispatch(10.5)
    control.on_first_token("done", 11.0)
    control.on_finish("done", Usage(100, 5), 12.0)
    control.on_abort("gone", 13.0)
    assert served(record_of(control, "done"), 5.0, quality=1.0, peak=0.9) == Served(2.0, 5.0, 1.0, 0.9, 1.0, 5)
    assert served(record_of(control, "gone"), 5.0, quality=1.0) == Served(None, 5.0, 0.0, 1.0, None, 0)
