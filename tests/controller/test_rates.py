from __future__ import annotations

import dataclasses

import pytest

from controller.rates import Arrivals, ServiceRate, busy_rate
from predictors.latency.model import Profile


def test_the_arrival_rate_settles_at_the_true_rate_and_dies_away() -> None:
    arrivals = Arrivals(2.0, 30.0)
    assert arrivals.rates(0.0) == (0.0, 0.0)
    for index in range(200):
        arrivals.observe(index * 0.1)
    fast, slow = arrivals.rates(19.9)
    assert fast == pytest.approx(10.0, rel=0.1)
    assert 0 < slow < fast, "the slow one takes its time"
    assert arrivals.rates(19.9 + 20.0)[0] < 0.01 < arrivals.rates(19.9 + 20.0)[1]


def test_an_idle_pool_does_not_look_slow() -> None:
    rate = ServiceRate(1000.0)
    for second in range(60):
        rate.done(10, 1, float(second))
    assert rate.value == 1000.0


def test_a_busy_pool_shows_its_true_rate_from_either_side() -> None:
    for start in (100.0, 5000.0):
        rate = ServiceRate(start)
        rate.waiting(True, 0.0)
        for step in range(1200):
            rate.done(70, 2, step * 0.1)
        assert rate.value == pytest.approx(350.0, rel=0.05), "700 a second on two workers"


def test_more_throughput_than_estimated_is_believed_without_a_queue() -> None:
    rate = ServiceRate(100.0)
    for step in range(600):
        rate.done(50, 1, step * 0.1)
    assert rate.value == pytest.approx(500.0, rel=0.05)


def test_a_rate_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        ServiceRate(0.0)


PROFILE = Profile(
    name="p", model="m", a=0.01, b=1e-5, c=1e-4, d=1e-8, request_overhead_s=0.0, token_overhead_s=0.0, max_num_seqs=64,
    max_num_batched_tokens=8192, kv_blocks=10_000, block_size=16, max_model_len=8192, cold_start_s=1.0, sleep_s=1.0,
    wake_s=1.0, usd_per_hour=1.0,
)  # fmt: skip


def test_the_busy_rate_of_a_profile_is_what_a_step_costs() -> None:
    assert busy_rate(PROFILE, 1, context=50) == pytest.approx(1 / (0.01 + 1e-4 + 1e-8 * 50))
    assert busy_rate(PROFILE, 32) > 10 * busy_rate(PROFILE, 1), "batching pays"
    assert busy_rate(PROFILE, 1000) == busy_rate(PROFILE, 64), "the engine takes no more than max_num_seqs"
    assert busy_rate(dataclasses.replace(PROFILE, a=0.02), 32) < busy_rate(PROFILE, 32)
