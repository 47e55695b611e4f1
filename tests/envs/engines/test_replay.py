"""Replays of measured loads in the simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from envs.engines.base import EngineRequest
from envs.engines.reference import ReferenceEngine
from envs.engines.replay import closed_loop, replay
from envs.engines.timing import to_seconds
from predictors.latency.measurements import CONSTANTS, ClosedLoop, Latencies, Measurements
from tests.envs.engines.profiles import profile


def load(arrival: list[float], prompt: list[int], output: list[int]) -> Measurements:
    nothing = np.full(len(arrival), np.nan)
    sizes = np.array(prompt, dtype=np.int64), np.array(output, dtype=np.int64)
    return Measurements("made", np.array(arrival), *sizes, Latencies(nothing, nothing, nothing), "")


def test_a_lone_request_sees_one_step_a_token() -> None:
    shape = profile(d=0.0)
    seen = replay(shape, load([3.0], [100], [5])).latencies
    assert seen.ttft[0] == pytest.approx(4e-3 + 5e-3 + 100 * 20e-6 + 50e-6)
    assert seen.itl[0] == pytest.approx(5e-3 + 30e-6)
    assert seen.e2e[0] == pytest.approx(seen.ttft[0] + 4 * seen.itl[0])


def test_answers_of_one_token_have_no_gap() -> None:
    assert np.isnan(replay(profile(), load([0.0], [10], [1])).latencies.itl[0])


def test_median_gaps_are_those_of_the_stepped_engine() -> None:
    shape = profile(token_overhead_s=0.0, max_num_seqs=64)
    rng = np.random.default_rng(5)
    arrival = np.sort(rng.uniform(0, 1.0, 30)).round(4)
    prompt, output = rng.integers(5, 60, 30), rng.integers(2, 40, 30)
    seen = replay(shape, load(list(arrival), list(prompt), list(output))).latencies
    engine = ReferenceEngine(shape)
    for i in range(30):
        engine.submit(EngineRequest(str(i), int(prompt[i]), int(output[i]), arrival=float(arrival[i])))
    engine.advance(100.0)
    ends = np.array([to_seconds(ps) for ps in engine.step_ends])
    for i in range(30):
        mine = ends[(ends >= arrival[i] + seen.ttft[i] - 1e-9) & (ends <= arrival[i] + seen.e2e[i] + 1e-9)]
        assert len(mine) == output[i]
        assert seen.itl[i] == pytest.approx(np.median(np.diff(mine)), abs=1e-9)


def test_latencies_are_their_slopes_times_the_constants() -> None:
    """While the schedule stays the same, latencies are linear: the slopes explain all of them."""
    shape = profile(
        max_num_seqs=64,
        graph_tokens=40,
        eager_floor_s=6e-3,
        overlap_s=0.3e-3,
        mixed_floor_s=5.6e-3,
        async_scheduling=True,
        wide_s=90e-6,
        wide_batch=3,
        graph_step=4,
        token_overhead_s=1e-6,
    )
    rng = np.random.default_rng(6)
    arrival = np.sort(rng.uniform(0, 1.0, 40))
    seen = replay(shape, load(list(arrival), list(rng.integers(5, 60, 40)), list(rng.integers(2, 40, 40))))
    constants = np.array([getattr(shape, name) for name in CONSTANTS])
    assert seen.slopes.ttft @ constants == pytest.approx(seen.latencies.ttft, abs=1e-7)
    assert seen.slopes.e2e @ constants == pytest.approx(seen.latencies.e2e, abs=1e-7)
    assert seen.slopes.itl @ constants == pytest.approx(seen.latencies.itl, abs=1e-4)


def test_a_closed_loop_is_replayed_one_request_after_the_other() -> None:
    shape = profile(d=0.0)
    waves = replace(load([0.0] * 6, [64] * 6, [10] * 6), concurrency=2)
    seen = replay(shape, waves)
    ends = seen.arrival + seen.latencies.e2e
    assert list(seen.arrival[:2]) == [0.0, 0.0]
    assert seen.arrival[2:4] == pytest.approx(ends[:2])
    assert seen.arrival[4:] == pytest.approx(ends[2:4])


def test_a_closed_loops_client_takes_its_time_as_it_was_seen_to() -> None:
    shape = profile(d=0.0)
    measured = Latencies(np.full(3, 0.1), np.full(3, 0.5), np.full(3, 0.01))
    slow = replace(load([0.0, 0.52, 1.05], [64] * 3, [10] * 3), concurrency=1, measured=measured)
    seen = replay(shape, slow)
    ends = seen.arrival + seen.latencies.e2e
    assert seen.arrival[1:] - ends[:-1] == pytest.approx([0.02, 0.03], abs=1e-9)


@pytest.mark.parametrize("name", CONSTANTS)
def test_throughput_slopes_are_those_of_a_small_change(name: str) -> None:
    floors = {"eager_floor_s": 20e-3} if name == "eager_floor_s" else {"mixed_floor_s": 20e-3}
    floors = {} if name == "overlap_s" else floors
    wide = {"wide_s": 90e-6, "wide_batch": 1} if name == "wide_s" else {}
    shape = profile(graph_tokens=20 if name == "eager_floor_s" else 512, overlap_s=0.3e-3, **floors, **wide)
    loop = ClosedLoop(3 if wide else 1, 64, 10, 15 if wide else 5, 0.0)
    change = getattr(shape, name) * 1e-4
    more = closed_loop(replace(shape, **{name: getattr(shape, name) + change}), loop).tokens_per_s
    now = closed_loop(shape, loop)
    assert now.slopes[CONSTANTS.index(name)] == pytest.approx((more - now.tokens_per_s) / change, rel=0.05, abs=1e-3)


def test_a_closed_loop_of_one_is_one_request_after_the_other() -> None:
    shape = profile(d=0.0)
    per_request = 4e-3 + 5e-3 + 64 * 20e-6 + 9 * (5e-3 + 30e-6) + 50e-6
    assert closed_loop(shape, ClosedLoop(1, 64, 10, 5, 0.0)).tokens_per_s == pytest.approx(10 / per_request, rel=1e-6)


def test_more_in_flight_gives_more_throughput() -> None:
    rates = [closed_loop(profile(), ClosedLoop(n, 64, 32, 4 * n, 0.0)).tokens_per_s for n in (1, 4, 8)]
    assert rates == sorted(rates)
    assert rates[2] > 3 * rates[0]


def test_a_request_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="request 0 of made does not fit"):
        replay(profile(), load([0.0], [3000], [5]))
