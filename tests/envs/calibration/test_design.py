"""The designed loads fit any server, and no two open ones are alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.calibration.design import OPEN_PARTS, Scale, closed_loads, open_load
from envs.calibration.loads import OpenLoad, Sizes
from predictors.latency.campaign import Role

BIG = Scale(max_num_seqs=256, max_model_len=8192)


@given(st.integers(1, 512), st.integers(64, 32_768))
def test_no_load_asks_for_more_than_the_server_holds(seats: int, length: int) -> None:
    scale = Scale(seats, length)
    for load in closed_loads(scale, 10.0):
        assert load.concurrency <= seats
        assert load.sizes.output_tokens >= 1
        assert 1 <= load.sizes.prompt_tokens <= length - load.sizes.output_tokens
    for part in OPEN_PARTS:
        made = open_load(part, 5.0, 60.0, scale, seed=1)
        assert all(1 <= s.prompt_tokens <= length - s.output_tokens for s in made.sizes)


def test_closed_loads_have_names_of_their_own_and_begin_with_the_telling_ones() -> None:
    loads = closed_loads(BIG, 10.0)
    assert len({load.name for load in loads}) == len(loads)
    assert [load.concurrency for load in loads[:5]] == [1, 8, 32, 128, 256]
    assert {15, 16, 17} <= {load.concurrency for load in loads}


def test_held_out_loads_are_other_rates_and_a_burst() -> None:
    made = [open_load(part, 20.0, 600.0, BIG, seed=0) for part in OPEN_PARTS]
    rates = [len(load.at) / load.at[-1] for load in made]
    assert len({round(rate, 1) for rate in rates}) == len(rates)
    assert [load.role for load in made].count(Role.HOLDOUT) == 3
    burst = made[-1]
    at_once = np.unique(burst.at, return_counts=True)[1].max()
    assert at_once >= 0.4 * min(len(burst.at), 2 * BIG.max_num_seqs)
    assert list(burst.at) == sorted(burst.at)


def test_a_load_is_drawn_from_its_seed() -> None:
    first, second, other = (open_load(OPEN_PARTS[0], 5.0, 60.0, BIG, seed=seed) for seed in (1, 1, 2))
    assert first == second != other


def test_a_trace_gives_the_sizes() -> None:
    trace = [Sizes(100 + i, 10 + i) for i in range(500)]
    assert open_load(OPEN_PARTS[0], 2.0, 60.0, BIG, seed=0, trace=trace).sizes[:3] == tuple(trace[:3])


def test_times_and_sizes_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="2 times for 1 requests"):
        OpenLoad("odd", (0.0, 1.0), (Sizes(1, 1),), Role.FIT)
