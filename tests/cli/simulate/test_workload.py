from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from cli.simulate.workload import Workload, rank_by_length
from envs.tasks import Split, generate
from envs.workloads import Arrival, Lengths

ARRIVALS = [
    Arrival(5.0, lengths=Lengths(1100, 7, (11, 12)), tenant="a"),
    Arrival(6.0, lengths=Lengths(90, 50), tenant="b", max_tokens=20, deadline_s=3.0),
    Arrival(9.0, lengths=Lengths(600, 1, (11,)), tenant="a"),
]


def test_columns_hold_what_arrivals_say() -> None:
    workload = Workload.of(ARRIVALS, deadline_s=8.0)
    assert workload.at.tolist() == [0.0, 1.0, 4.0]
    assert workload.prompt_tokens.tolist() == [1100, 90, 600]
    assert workload.output_tokens.tolist() == [7, 20, 1], "an answer ends at the client's limit"
    assert workload.max_tokens.tolist() == [0, 20, 0]
    assert workload.deadline_s.tolist() == [8.0, 3.0, 8.0]
    assert [workload.tenants[tenant] for tenant in workload.tenant] == ["a", "b", "a"]
    assert [workload.prefix_of(i) for i in range(3)] == [(11, 12), (), (11,)]
    assert workload.prefix_block == 512
    assert math.isinf(Workload.of(ARRIVALS).deadline_s[0])


def test_chains_run_on_into_answers_and_it_is_known_how_much_is_the_prompts() -> None:
    workload = Workload.of([Arrival(0.0, lengths=Lengths(1100, 600, (11, 12, 13))), *ARRIVALS])
    assert workload.prefix_of(0) == (11, 12, 13)
    assert workload.prompt_hashes.tolist() == [2, 2, 0, 1]
    assert workload.within(1000).prompt_hashes.tolist() == [0, 1]
    assert Workload.of(ARRIVALS[1:2]).prompt_hashes.tolist() == [0]


def test_scaling_moves_arrivals_alone() -> None:
    workload = Workload.of(ARRIVALS, deadline_s=8.0)
    assert workload.stretched(0.5).at.tolist() == [0.0, 0.5, 2.0]
    faster = workload.at_rate(4.0)
    assert faster.span_s == pytest.approx(0.5)
    assert faster.deadline_s.tolist() == workload.deadline_s.tolist()
    with pytest.raises(ValueError, match="two arrivals"):
        Workload.of(ARRIVALS[:1]).at_rate(1.0)


def test_what_fits_no_context_can_be_left_out() -> None:
    kept = Workload.of(ARRIVALS).within(1000)
    assert kept.prompt_tokens.tolist() == [90, 600]
    assert kept.at.tolist() == [0.0, 3.0]
    assert [kept.prefix_of(i) for i in range(2)] == [(), (11,)]
    assert len(Workload.of(ARRIVALS).within(10)) == 0


def test_what_cannot_be_replayed() -> None:
    (task,) = generate(0, 1, Split.TEST)
    with pytest.raises(ValueError, match="no lengths"):
        Workload.of([Arrival(0.0, task=task)])
    with pytest.raises(ValueError, match="comes after"):
        Workload.of(reversed(ARRIVALS))
    with pytest.raises(ValueError, match="512 and of 16"):
        Workload.of([*ARRIVALS, Arrival(10.0, lengths=Lengths(600, 1, (1,), 16))])


@pytest.mark.parametrize("tau", [0.0, 0.2, 0.4, 0.7, 1.0])
def test_ranks_have_the_tau_that_was_asked_for(tau: float) -> None:
    lengths = np.random.default_rng(1).lognormal(5.0, 1.0, 3_000).astype(np.int64)
    ranks = rank_by_length(lengths, tau, seed=0)
    assert kendalltau(ranks.values, lengths).statistic == pytest.approx(tau, abs=0.03)
    assert ranks.tau == pytest.approx(tau, abs=0.03)


def test_ranks_are_seeded_and_know_no_order_where_there_is_none() -> None:
    lengths = np.arange(1, 50)
    same = [rank_by_length(lengths, 0.4, seed).values.tolist() for seed in (1, 1, 2)]
    assert same[0] == same[1] != same[2]
    assert rank_by_length(np.full(10, 5), 0.4, 0).tau is None


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=40))
def test_an_oracle_never_ranks_a_longer_answer_before_a_shorter_one(lengths: list[int]) -> None:
    values = rank_by_length(np.array(lengths, np.int64), 1.0, 0).values
    order = np.argsort(values, kind="stable")
    assert np.array(lengths)[order].tolist() == sorted(lengths)
