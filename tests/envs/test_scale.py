from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controller.types import Result
from envs.episode import Randomisation
from envs.fleet import Ended
from envs.scale import ScaleEnv
from tests.envs.worlds import PROFILES, SCENARIO, recorder, source

START_S, SLEEP_S, WAKE_S = 8.0, 2.0, 1.0
MACHINES = {
    name: replace(profile, cold_start_s=START_S, sleep_s=SLEEP_S, wake_s=WAKE_S, usd_per_hour=3.6)
    for name, profile in PROFILES.items()
}
CALM = replace(SCENARIO, base_rate=2.0, burst_rate=2.0, bursts=(), duration_s=40.0)
SOURCE = replace(source(CALM), profiles=MACHINES)


def environment(**options: Any) -> ScaleEnv:
    """Three pools of up to two replicas, asked every two seconds."""
    return ScaleEnv(options.pop("source", SOURCE), kind="stable", interval_s=2.0, max_replicas=2, **options)


def seen(env: ScaleEnv, row: np.ndarray) -> dict[str, float]:
    """An observation by its names."""
    return dict(zip(env.names, row.tolist(), strict=True))


def play(env: ScaleEnv, *actions: list[int], seed: int = 0) -> list[dict[str, float]]:
    """What is seen after each of the actions."""
    env.reset(seed=seed)
    return [seen(env, env.step(np.array(action))[0]) for action in actions]


def test_a_replica_serves_after_its_cold_start() -> None:
    rows = play(environment(), *[[1, 0, 1, 0, 2, 0]] * 6)
    assert [row["large.coming"] for row in rows] == [0.5, 0.5, 0.5, 0.0, 0.0, 0.0]
    assert [row["large.ready"] for row in rows] == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0]
    assert [row["large.coming_s"] for row in rows[:4]] == [2.0, 4.0, 6.0, 0.0]


def test_a_sleeper_wakes_much_faster() -> None:
    env = environment()
    rows = play(env, *[[1, 0, 1, 0, 1, 1]] * 8, *[[1, 0, 1, 0, 2, 0]] * 2)
    assert rows[7]["large.asleep"] == 0.5, "started, then put to sleep"
    assert [row["large.ready"] for row in rows[7:]] == [0.5, 1.0, 1.0]


def test_a_replica_is_drained_before_it_is_stopped() -> None:
    busy = replace(CALM, base_rate=12.0, burst_rate=12.0)
    env = environment(source=replace(source(busy), profiles=MACHINES), tier=("static", {"pool": "large"}))
    env.reset(seed=0)
    ended: list[Ended] = []
    env._note = recorder(ended)  # type: ignore[method-assign]
    env.step(np.array([1, 0, 1, 0, 1, 0]))
    row = seen(env, env.step(np.array([1, 0, 1, 0, 0, 0]))[0])
    assert row["large.ready"] == 0.0
    for _ in range(4):
        row = seen(env, env.step(np.array([1, 0, 1, 0, 0, 0]))[0])
    assert row["large.draining"] == 0.0
    served = [end for end in ended if end.pool == "large"]
    assert served
    assert all(end.result is Result.COMPLETED for end in served), "what ran was not broken off"


def test_costs_by_hand() -> None:
    """Three replicas at 0.1 cents a second, then a fourth that starts, then three of which one sleeps."""
    env = environment(quality_usd=0.0, asleep_share=0.25)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.array([1, 0, 1, 0, 1, 0]))
    assert info["cost_usd"] == pytest.approx(3 * 2.0 * 0.001)
    assert reward == pytest.approx(-100 * info["cost_usd"])
    _, _, _, _, info = env.step(np.array([1, 0, 1, 0, 2, 0]))
    assert info["cost_usd"] == pytest.approx(4 * 2.0 * 0.001)
    _, _, _, _, info = env.step(np.array([1, 0, 1, 0, 1, 0]))
    assert info["cost_usd"] == pytest.approx(3 * 2.0 * 0.001), "one that has not come up is stopped at once"
    for _ in range(3):
        _, _, _, _, info = env.step(np.array([0, 1, 1, 0, 1, 0]))
    assert info["cost_usd"] == pytest.approx((2 + 0.25) * 2.0 * 0.001)


@pytest.mark.parametrize("miss_usd", [0.0, 0.01])
def test_rewards_are_what_was_answered_in_time_less_the_costs(miss_usd: float) -> None:
    busy = replace(CALM, base_rate=15.0, burst_rate=15.0, deadline_s=2.0)
    env = environment(source=replace(source(busy), profiles=MACHINES), quality_usd=0.002, miss_usd=miss_usd)
    env.reset(seed=1)
    ended: list[Ended] = []
    env._note = recorder(ended)  # type: ignore[method-assign]
    rewards, infos, over = [], [], False
    rng = np.random.default_rng(0)
    while not over:
        action = rng.integers(0, 3, 6)
        _, reward, terminated, over, info = env.step(action)
        assert not terminated
        rewards.append(reward)
        infos.append(info)
    assert sorted(end.request.index for end in ended) == list(range(len(env.episode.requests)))
    pools = env.episode.prompts.pools
    value = sum(
        0.002 * float(env.episode.quality[end.request.index, pools.index(end.pool)])
        for end in ended
        if end.in_time and end.pool is not None
    )
    missed = sum(not end.in_time for end in ended)
    assert missed > 0
    cost = sum(info["cost_usd"] for info in infos)
    assert sum(rewards) == pytest.approx(100 * (value - missed * miss_usd - cost))


def test_nobody_serves_while_everything_is_off() -> None:
    env = environment()
    env.reset(seed=0)
    for _ in range(5):
        row, _, _, _, info = env.step(np.zeros(6, np.int64))
    shown = seen(env, row)
    assert shown["refused"] == 1.0
    assert shown["in_time"] == 0.0
    assert info["value_usd"] == 0.0
    assert info["cost_usd"] == 0.0


def test_requests_wait_for_a_replica_that_is_coming() -> None:
    env = environment(source=replace(SOURCE, scenario=replace(CALM, deadline_s=30.0)))
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros(6, np.int64))
    values = [env.step(np.array([0, 0, 0, 0, 2, 0]))[4]["value_usd"] for _ in range(6)]
    assert values[0] == values[1] == 0.0
    assert sum(values) > 0


def test_a_crash_is_found_out_and_mended() -> None:
    by = Randomisation(crashes_per_hour=600.0)
    env = environment(source=replace(SOURCE, randomisation=by, scenario=replace(CALM, duration_s=60.0)))
    down, ready = [], []
    for seed in range(3):
        env.reset(seed=seed)
        over = False
        while not over:
            row, _, _, over, _ = env.step(np.array([1, 0, 1, 0, 1, 0]))
            shown = seen(env, row)
            down.append(sum(shown[f"{pool}.down"] for pool in env.pools))
            ready.append(sum(shown[f"{pool}.ready"] for pool in env.pools))
    assert max(down) > 0
    assert min(ready) < 1.5
    assert max(ready) == 1.5


def test_sleepers_beyond_the_most_are_cut() -> None:
    env = environment()
    rows = play(env, *[[2, 2, 1, 0, 1, 0]] * 6)
    assert rows[-1]["small.ready"] == 1.0
    assert rows[-1]["small.asleep"] == 0.0


def test_it_is_cut_off_rather_than_ended() -> None:
    env = environment()
    env.reset(seed=0)
    flags = [env.step(np.array([1, 0, 1, 0, 1, 0]))[2:4] for _ in range(20)]
    assert flags == [(False, False)] * 19 + [(False, True)]


@pytest.mark.parametrize(("name", "value"), [("interval_s", 0.0), ("max_replicas", 0)])
def test_impossible_options_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name.partition("_")[0] if name == "interval_s" else "replica"):
        ScaleEnv(SOURCE, **{name: value})  # type: ignore[arg-type]
