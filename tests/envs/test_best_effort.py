from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import envs.registration  # noqa: F401 - registers the environment
from controller.objectives import deadline_reward, share_of_peak
from envs.best_effort import BestEffortEnv, QualityForm, nearest_allowed
from envs.episode import Randomisation
from envs.fleet import Ended
from envs.scenarios import WorkloadKind
from rl.play import named_tier, play
from tests.envs.worlds import PROFILES, SCENARIO, recorder, source

SOURCE = source()
WIDE = replace(Randomisation.wide(), crashes_per_hour=300.0, stragglers_per_hour=600.0)
"""Several mishaps an episode."""
SHORT = source(replace(SCENARIO, duration_s=4.0, bursts=((1.0, 3.0),)), Randomisation.training())


def _run(
    env: BestEffortEnv, seed: int, action: int | None = None
) -> tuple[list[float], list[dict[str, Any]], list[Any]]:
    """Rewards, infos and observations of an episode under one action, or under a fixed random play."""
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=seed)
    rewards, infos, observations, ended = [], [], [observation], False
    while not ended:
        chosen = int(rng.integers(3)) if action is None else action
        observation, reward, ended, _, info = env.step(chosen)
        rewards.append(reward)
        infos.append(info)
        observations.append(observation)
    return rewards, infos, observations


def test_is_registered_and_passes_both_checkers() -> None:
    env = gymnasium.make("headway/BestEffort-v0", source=SHORT)
    check_env(env.unwrapped, skip_render_check=True)
    check_env_sb3(env.unwrapped)
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    assert env.action_space.n == 3


def test_the_same_seed_gives_the_same_episode() -> None:
    first, second = (_run(BestEffortEnv(SHORT), 5) for _ in range(2))
    assert first[0] == second[0]
    assert first[1] == second[1]
    assert np.array_equal(first[2], second[2])
    assert _run(BestEffortEnv(SHORT), 6)[0] != first[0]


def test_arrivals_do_not_depend_on_actions() -> None:
    worlds = []
    for action in (0, 2):
        env = BestEffortEnv(SHORT)
        _run(env, 3, action)
        worlds.append([(r.at, r.ticket, r.output_tokens) for r in env.episode.requests])
    assert worlds[0] == worlds[1]


@pytest.mark.parametrize("kind", list(WorkloadKind))
@pytest.mark.parametrize(("action", "pool"), [(0, "small"), (2, "large")])
def test_a_constant_action_is_the_static_policy(kind: WorkloadKind, action: int, pool: str) -> None:
    env = BestEffortEnv(SOURCE, kind=kind, orders=("fcfs",))
    rewards, infos, _ = _run(env, 11, action)
    static = play(env.episode, named_tier("static", {"pool": pool}))
    served = share_of_peak(static.served)
    assert sum(rewards) / sum(request.peak for request in static.served) == pytest.approx(served)
    assert len(infos) == len(env.episode.requests)


def test_every_decision_is_credited_once_and_the_credits_are_the_reward() -> None:
    rewards, infos, _ = _run(BestEffortEnv(SOURCE), 2)
    assert [info["decision"] for info in infos] == list(range(len(infos)))
    credited = [decision for info in infos for decision, _ in info["ended"]]
    assert sorted(credited) == list(range(len(infos)))
    for reward, info in zip(rewards, infos, strict=True):
        assert reward == pytest.approx(sum(worth for _, worth in info["ended"]))


@pytest.mark.parametrize("kappa", [None, 0.5])
def test_rewards_are_what_became_of_every_request(kappa: float | None) -> None:
    """Also where workers crash and are slow, readings get lost, and answers grow."""
    env = BestEffortEnv(source(SCENARIO, WIDE), kappa=kappa, render_mode="rgb_array")
    ended: list[Ended] = []
    env._note = recorder(ended)  # type: ignore[method-assign]
    for seed in range(3):
        ended.clear()
        rewards, _, _ = _run(env, seed)
        assert sorted(end.request.index for end in ended) == list(range(len(env.episode.requests)))
        quality, pools, deadline = env.episode.quality, env.episode.prompts.pools, env.episode.scenario.deadline_s
        worths = [
            deadline_reward(float(quality[end.request.index, pools.index(end.pool)]), end.latency, deadline, kappa)
            for end in ended
            if end.pool is not None
        ]
        assert sum(rewards) == pytest.approx(sum(worths))


def test_reward_by_hand_on_a_tiny_workload() -> None:
    """Two requests on an idle fleet: both are answered in time by the small pool, and too late by the large one."""
    tiny = replace(SCENARIO, base_rate=1.0, burst_rate=1.0, bursts=(), duration_s=2.5, deadline_s=0.3)
    env = BestEffortEnv(source(tiny), kind="stable")
    seed = next(s for s in range(100) if _sizes(env, s) == 2)
    rewards, infos, _ = _run(env, seed, action=0)
    quality = env.episode.quality
    expected = []
    for row, request in enumerate(env.episode.requests):
        own = PROFILES["small"].step_seconds(request.prompt_tokens, 0, 0)
        latency = own + (request.output_tokens["small"] - 1) * PROFILES["small"].a
        expected.append(float(quality[row, 0]) if latency <= 0.3 else 0.0)
    assert sum(rewards) == pytest.approx(sum(expected))
    assert infos[-1]["ended"]
    late, *_ = _run(env, seed, action=2)
    fast_enough = [r.output_tokens["large"] * PROFILES["large"].a < 0.29 for r in env.episode.requests]
    assert sum(late) == pytest.approx(float(quality[:, 2] @ fast_enough))


def _sizes(env: BestEffortEnv, seed: int) -> int:
    env.reset(seed=seed)
    return len(env.episode.requests)


def test_a_soft_deadline_pays_at_least_what_the_hard_one_does() -> None:
    hard, soft = (_run(BestEffortEnv(SOURCE, kind="bursty", kappa=k), 4, 2)[0] for k in (None, 1.0))
    assert sum(soft) > sum(hard)


def test_sampled_quality_pays_ones_and_zeros() -> None:
    env = BestEffortEnv(SOURCE, quality=QualityForm.SAMPLED)
    _, infos, _ = _run(env, 1, 0)
    worths = [worth for info in infos for _, worth in info["ended"]]
    assert set(worths) == {0.0, 1.0}
    assert np.mean(worths) == pytest.approx(env.episode.quality[:, 0].mean(), abs=0.1)


def test_the_observation_is_what_the_stage_saw() -> None:
    env = BestEffortEnv(SHORT, record_share=1.0)
    _, _, observations = _run(env, 9)
    records = {r.ticket: r for r in env._control.drain_records()}
    seen = [
        choice.features
        for request in env.episode.requests
        for choice in records[request.ticket.id].choices
        if choice.stage == "tier"
    ]
    assert np.allclose(np.array(seen), np.array(observations[: len(seen)]))


def test_the_observation_holds_predictions_not_the_truth() -> None:
    env = BestEffortEnv(SOURCE)
    observation, _ = env.reset(seed=0)
    scores = env.episode.requests[0].scores
    assert scores is not None
    assert scores.quality is not None
    assert observation[[0, 5, 10]] == pytest.approx([scores.quality[p] for p in ("small", "medium", "large")])
    names = dict(zip(env.codec.names, observation.tolist(), strict=True))
    assert names["output_tokens"] == pytest.approx(np.log1p(scores.output_tokens or 0.0), rel=1e-5)
    assert names["slack_s"] == pytest.approx(SCENARIO.deadline_s)


def test_overload_is_seen_and_paid_for() -> None:
    env = BestEffortEnv(SOURCE, kind="bursty", orders=("fcfs",))
    rewards, _, observations = _run(env, 0, 2)
    assert np.array(observations)[:, env.codec.names.index("pool2.queued")].max() > 1.0
    medium, *_ = _run(env, 0, 1)
    assert sum(medium) > 1.5 * sum(rewards)


def test_masked_actions_fall_to_the_nearest_tier() -> None:
    tall = replace(PROFILES["large"], max_model_len=512, kv_blocks=64)
    wide = replace(SOURCE, profiles={**PROFILES, "large": tall})
    env = BestEffortEnv(wide)
    env.reset(seed=0)
    masks = []
    ended = False
    while not ended:
        mask = env.action_masks()
        masks.append(mask.tolist())
        _, _, ended, _, info = env.step(2)
        assert info["pool"] == (2 if mask[2] else 1)
        assert info["masked"] == (not mask[2])
    assert [True, True, False] in masks


@pytest.mark.parametrize(
    ("action", "mask", "chosen"),
    [
        (2, (True, True, False), 1),
        (1, (True, False, True), 0),
        (0, (False, False, True), 2),
        (1, (True, True, True), 1),
    ],
)
def test_nearest_allowed(action: int, mask: tuple[bool, ...], chosen: int) -> None:
    assert nearest_allowed(action, np.array(mask)) == chosen


def test_a_kind_may_be_asked_for_once() -> None:
    env = BestEffortEnv(SHORT, kind="stable")
    assert env.reset(seed=0)[1]["kind"] == "stable"
    assert env.reset(seed=0, options={"kind": "bursty"})[1]["kind"] == "bursty"


def test_what_is_recorded_changes_no_episode() -> None:
    silent, written = (_run(BestEffortEnv(SHORT, record_share=share), 9) for share in (0.0, 1.0))
    assert silent[0] == written[0]
    assert silent[1] == written[1]
    assert np.array_equal(silent[2], written[2])
