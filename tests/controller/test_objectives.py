from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.objectives import (
    Objective,
    Served,
    attainment,
    availability,
    deadline_reward,
    endless,
    goodput,
    goodput_per_gpu,
    jains_index,
    latency_quantile,
    mean_quality,
    normalised_latency,
    quantile,
    seconds_per_token,
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


def test_attainment_counts_those_without_an_answer() -> None:
    assert attainment([IN_TIME, LATE, LOST, LOST], Objective(ttft_s=1.0)) == 0.25
    assert attainment([], Objective()) is None


def test_limits_as_vllm_bench_serve_takes_them() -> None:
    assert Objective.parse(["ttft:500", "tpot:50", "e2el:2000"]) == Objective(0.5, 0.05, 2.0)
    assert Objective.parse([]) == Objective()


@pytest.mark.parametrize(
    ("limits", "wrong"),
    [
        (["itl:5"], "ttft, tpot, e2el"),
        (["ttft"], "number"),
        (["ttft:fast"], "number"),
        (["ttft:-1"], "number"),
        (["ttft:nan"], "number"),
        (["ttft:1", "ttft:2"], "twice"),
    ],
)
def test_limits_that_are_none(limits: list[str], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Objective.parse(limits)


def test_vllms_time_per_output_token() -> None:
    assert seconds_per_token(0.8, 9) == pytest.approx(0.1)
    assert seconds_per_token(0.8, 1) == seconds_per_token(0.8, 0) == 0.0


@given(
    st.lists(st.tuples(st.floats(0.01, 5.0), st.floats(0.01, 5.0), st.integers(1, 50)), max_size=20),
    st.integers(0, 10),
    st.tuples(*[st.floats(0.0, 10.0)] * 3),
    st.tuples(*[st.floats(0.0, 5.0)] * 3),
)
def test_looser_limits_never_lower_goodput_and_failures_never_raise_it(
    answers: list[tuple[float, float, int]],
    failures: int,
    limits: tuple[float, float, float],
    more: tuple[float, float, float],
) -> None:
    requests = [Served(ttft + rest, ttft=ttft, output_tokens=tokens) for ttft, rest, tokens in answers]
    tight = Objective(*limits)
    loose = Objective(*(limit + slack for limit, slack in zip(limits, more, strict=True)))
    assert goodput(requests, 10.0, tight) <= goodput(requests, 10.0, loose) <= len(requests) / 10.0
    failed = [*requests, *[Served(None)] * failures]
    assert goodput(failed, 10.0, tight) == goodput(requests, 10.0, tight)
    assert (attainment(failed, tight) or 0.0) <= (attainment(requests, tight) or 0.0)


def test_distserves_goodput_by_hand() -> None:
    attained = {1.0: 1.0, 2.0: 0.95, 3.0: 0.9, 4.0: 0.89, 5.0: None}
    assert goodput_per_gpu(attained, gpus=2) == 1.5
    assert goodput_per_gpu(attained, gpus=2, target=0.99) == 0.5
    assert goodput_per_gpu({4.0: 0.1}, gpus=1) == goodput_per_gpu({}, gpus=1) == 0.0
    for gpus, target in ((0, 0.9), (1, 0.0), (1, 1.1)):
        with pytest.raises(ValueError, match=r"GPUs|share"):
            goodput_per_gpu(attained, gpus, target)
    with pytest.raises(ValueError, match="rates"):
        goodput_per_gpu({-1.0: 1.0}, 1)


@given(st.dictionaries(st.floats(0, 100), st.floats(0, 1)), st.floats(0.1, 1), st.floats(0.1, 1))
def test_a_stricter_target_never_raises_goodput(attained: dict[float, float | None], one: float, other: float) -> None:
    assert goodput_per_gpu(attained, 1, max(one, other)) <= goodput_per_gpu(attained, 1, min(one, other))


def test_normalised_latency_by_hand() -> None:
    requests = [Served(2.0, output_tokens=4), Served(3.0, output_tokens=2), Served(1.0, output_tokens=1)]
    assert normalised_latency(requests) == pytest.approx((0.5 + 1.5 + 1.0) / 3)
    assert normalised_latency(requests, 0.5) == 1.0
    assert normalised_latency([Served(2.0, output_tokens=0)]) == 2.0, "no token counts as one"
    assert normalised_latency([]) is None
    assert normalised_latency([], 0.5) is None


def test_who_was_never_answered_waited_for_ever() -> None:
    requests = [IN_TIME, IN_TIME, LOST]
    assert latency_quantile(requests, 0.5) == 1.0
    assert latency_quantile(requests, 0.99) == math.inf
    assert normalised_latency(requests) == math.inf
    assert normalised_latency(requests, 0.5) == pytest.approx(1.0 / 9)
    assert normalised_latency([LOST, LOST], 0.5) == math.inf
    assert endless([1.0, None]) == [1.0, math.inf]


@given(st.lists(st.one_of(st.none(), st.floats(0.0, 1e3)), min_size=1, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_latency_quantiles_grow_with_q_and_with_failures(
    latencies: list[float | None], one: float, other: float
) -> None:
    requests = [Served(latency, output_tokens=1) for latency in latencies]
    low, high = latency_quantile(requests, min(one, other)), latency_quantile(requests, max(one, other))
    more = latency_quantile([*requests, LOST], one)
    least = latency_quantile(requests, one)
    assert None not in (low, high, more, least)
    assert low is not None
    assert high is not None
    assert low <= high or high == pytest.approx(low)
    assert more is not None
    assert least is not None
    assert more >= least or more == pytest.approx(least)


def test_jains_index_by_hand() -> None:
    assert jains_index([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jains_index([5.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jains_index([1.0, 2.0, 3.0]) == pytest.approx(36 / (3 * 14))
    assert jains_index([]) is None
    assert jains_index([0.0, 0.0]) is None
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="amounts"):
            jains_index([1.0, wrong])


@given(st.lists(st.just(0.0) | st.floats(1e-9, 1e9), min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_jains_index_lies_between_one_nth_and_one_and_knows_no_unit(amounts: list[float], unit: float) -> None:
    index = jains_index(amounts)
    if index is not None:
        assert 1 / len(amounts) - 1e-9 <= index <= 1 + 1e-9
        assert jains_index([amount * unit for amount in amounts]) == pytest.approx(index)
