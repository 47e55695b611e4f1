"""First profiles, read off measurements of an engine whose constants are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from envs.engines.replay import replay
from predictors.latency.campaign import Limits
from predictors.latency.guess import bearable_rate, guess, guesses
from predictors.latency.ladder import START_8B
from predictors.latency.measurements import Latencies, Measurements

TRUE = replace(START_8B, a=8e-3, b=18e-6, c=40e-6, d=50e-9, request_overhead_s=6e-3, token_overhead_s=50e-6)


def measured(arrival: list[float], prompt: list[int], output: list[int], concurrency: int | None) -> Measurements:
    nothing = Latencies(*(np.full(len(arrival), np.nan),) * 3)
    sizes = np.array(prompt, dtype=np.int64), np.array(output, dtype=np.int64)
    load = Measurements("made", np.array(arrival), *sizes, nothing, "", concurrency)
    seen = replay(TRUE, load)
    return replace(load, arrival=seen.arrival, measured=seen.latencies)


def closed(concurrency: int, prompt: int, output: int) -> Measurements:
    count = 2 * concurrency
    return measured([0.0] * count, [prompt] * count, [output] * count, concurrency)


def test_closed_loops_give_the_constants_at_once() -> None:
    sizes = ((1, 100, 60), (1, 2000, 60), (8, 500, 80), (32, 500, 80), (32, 2000, 80), (64, 200, 80))
    found = guess("x", "m", [closed(*one) for one in sizes])
    for name in ("a", "b", "c", "d"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.25)


def test_an_open_loop_alone_is_enough_to_begin_with() -> None:
    rng = np.random.default_rng(3)
    load = measured(
        list(np.cumsum(rng.exponential(0.2, 120))),
        list(rng.integers(50, 2000, 120)),
        list(rng.integers(20, 300, 120)),
        None,
    )
    found = guess("x", "m", [load])
    assert found.a == pytest.approx(TRUE.a, rel=0.15)
    assert found.b == pytest.approx(TRUE.b, rel=0.5)
    assert found.max_model_len >= int((load.prompt_tokens + load.output_tokens).max())
    assert all(min(one.b, one.c, one.d, one.request_overhead_s) > 0.0 for one in guesses("x", "m", [load]))


def test_limits_that_are_known_are_kept() -> None:
    known = Limits(max_num_seqs=128, max_num_batched_tokens=2048, kv_blocks=9000, block_size=32, max_model_len=16_384)
    found = guess("x", "m", [closed(1, 100, 20)], known)
    assert Limits(**{name: getattr(found, name) for name in Limits.__dataclass_fields__}) == known


def test_answers_of_one_token_tell_nothing_of_decoding() -> None:
    with pytest.raises(ValueError, match="no request has an inter-token time"):
        guess("x", "m", [closed(2, 100, 1)])


def test_a_bearable_rate_is_that_of_a_full_engine() -> None:
    rate = bearable_rate(TRUE, 500.0, 100.0)
    count = int(rate * 60)
    overload, ease = (
        measured(list(np.arange(count) / (share * rate)), [500] * count, [100] * count, None) for share in (1.3, 0.5)
    )
    assert ease.measured.e2e[-1] < 2 * ease.measured.e2e[0]
    assert overload.measured.e2e[-1] > 3 * overload.measured.e2e[0]
