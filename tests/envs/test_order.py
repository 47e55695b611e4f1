from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from envs.fleet import Ended
from envs.order import FEATURES, OrderEnv
from envs.scenarios import ScenarioPool
from rl.play import named_tier, play
from tests.envs.worlds import PROFILES, SCENARIO, recorder, source

ONE = replace(
    SCENARIO,
    pools=(ScenarioPool("medium", "test-medium", tier=1, max_inflight=6),),
    deadline_s=30.0,
    tenants={"a": 0.8, "b": 0.2},
)
SOURCE = source(ONE)
QUANTILE = [name for name, _, _ in FEATURES].index("quantile")


def run(env: OrderEnv, act: Callable[[np.ndarray], float], seed: int = 0) -> tuple[list[float], list[Ended]]:
    """Rewards, and how everything ended."""
    ended: list[Ended] = []
    env._note = recorder(ended)  # type: ignore[method-assign]
    observation, _ = env.reset(seed=seed)
    rewards, over = [], False
    while not over:
        observation, reward, over, _, _ = env.step(np.array([act(observation)], np.float32))
        rewards.append(reward)
    return rewards, ended


def test_one_action_for_all_is_first_come_first_served() -> None:
    env = OrderEnv(SOURCE, kind="bursty")
    _, ended = run(env, lambda row: 0.4)
    plain = play(env.episode, named_tier("pinned", {}, order="fcfs"))
    assert sorted((end.request.index, end.at) for end in ended) == [(e.request.index, e.at) for e in plain.ended]


def test_the_quantile_as_action_is_the_stage_length_rank() -> None:
    """As it is where every request is scored before it is queued."""
    env = OrderEnv(SOURCE, kind="bursty", patience_s=60.0)
    rewards, ended = run(env, lambda row: float(row[QUANTILE]))
    always = replace(env.episode.settings(), score_always=True)
    ranked = named_tier("pinned", {}, order="length_rank", order_options={"ageing": "quantile"})
    stage = env.episode.fleet(ranked, always).replay(env.episode.requests)
    assert [(end.request.index, end.at) for end in ended] == [(end.request.index, end.at) for end in stage]
    others = [run(env, act)[0] for act in (lambda row: 0.5, lambda row: 1.0 - float(row[QUANTILE]))]
    assert sum(rewards) > sum(others[0]) > sum(others[1])


def test_rewards_are_normalised_latencies() -> None:
    env = OrderEnv(source(replace(ONE, deadline_s=3.0)), kind="bursty", worst_s=0.5)
    rewards, ended = run(env, lambda row: 0.5)
    expected = [-1.0 if end.latency is None else -min(1.0, end.latency / end.output_tokens / 0.5) for end in ended]
    assert sum(rewards) == pytest.approx(sum(expected))
    assert len(ended) == len(env.episode.requests)
    assert any(end.latency is None for end in ended), "those whose deadline passes in the queue are rejected"


@pytest.mark.parametrize("deadline_s", [3.0, 30.0])
def test_what_accrues_is_the_same_in_sum(deadline_s: float) -> None:
    world = source(replace(ONE, deadline_s=deadline_s))
    at_end, ended = run(OrderEnv(world, kind="bursty", worst_s=0.2, pay="ended"), lambda row: 0.5)
    as_it_goes, _ = run(OrderEnv(world, kind="bursty", worst_s=0.2), lambda row: 0.5)
    assert sum(as_it_goes) == pytest.approx(sum(at_end))
    assert as_it_goes != pytest.approx(at_end)
    assert any(end.latency is None for end in ended) == (deadline_s == 3.0)


def test_what_waits_is_charged_before_it_ends() -> None:
    slow = replace(SOURCE, profiles={"medium": replace(PROFILES["medium"], a=1.0)})
    env = OrderEnv(slow, kind="bursty")
    env.reset(seed=0)
    for _ in range(5):
        _, reward, _, _, info = env.step(np.array([0.5], np.float32))
        assert not info["ended"]
        assert reward < 0.0


def test_every_decision_is_credited_once() -> None:
    env = OrderEnv(SOURCE, kind="bursty", buckets=3, pay="ended")
    env.reset(seed=0)
    numbers, credited, over = [], [], False
    while not over:
        _, reward, over, _, info = env.step(1)
        numbers.append(info["decision"])
        credited += [decision for decision, _ in info["ended"]]
        assert reward == pytest.approx(sum(worth for _, worth in info["ended"]))
    assert numbers == list(range(len(env.episode.requests)))
    assert sorted(credited) == numbers


def test_buckets_are_shares_of_the_patience() -> None:
    env = OrderEnv(SOURCE, buckets=5, patience_s=40.0)
    for action in range(5):
        env.reset(seed=0)
        at = env.episode.requests[0].at
        assert env.step(action)[4]["key"] == pytest.approx(at + 10.0 * action)


def test_keys_bound_how_far_one_can_be_overtaken() -> None:
    env = OrderEnv(SOURCE, kind="bursty", patience_s=2.0)
    rng = np.random.default_rng(0)
    _, ended = run(env, lambda row: float(rng.random()))
    started = {end.request.index: end.first_token_at for end in ended if end.first_token_at is not None}
    at = [request.at for request in env.episode.requests]
    for late, begun in started.items():
        for early, begun_early in started.items():
            if at[early] + 2.0 < at[late]:
                assert begun >= begun_early - 0.1


def test_tenants_are_seen() -> None:
    env = OrderEnv(SOURCE, kind="bursty")
    names = [name for name, _, _ in FEATURES]
    observation, _ = env.reset(seed=0)
    rows, over = [], False
    while not over:
        rows.append((env._at_hand.ticket.tenant, observation[names.index("tenant_came")]))
        observation, _, over, _, _ = env.step(np.array([0.5], np.float32))
    assert {tenant for tenant, _ in rows} == {"a", "b"}
    last = {tenant: float(share) for tenant, share in rows}
    assert last["a"] == pytest.approx(0.8, abs=0.1)
    assert last["b"] == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize("options", [{"patience_s": 0.0}, {"worst_s": 0.0}, {"buckets": 1}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        OrderEnv(SOURCE, **options)  # type: ignore[arg-type]
