"""Every environment over simulated workers on real sockets: the rehearsal of what ``tests/live`` does with vLLM."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO

import envs.registration
from envs.best_effort import BestEffortEnv
from envs.order import OrderEnv
from envs.route import RouteEnv
from envs.scale import ScaleEnv
from envs.worlds import LiveBounds
from tests.envs.live_worlds import servers, source
from upstream.metrics import parse

SOURCE = source()
BOUNDS = LiveBounds(seconds=1.0, requests=15, finish_s=10.0)
Urls = Mapping[str, list[str]]


@pytest.fixture(scope="module")
def urls() -> Iterator[Urls]:
    with servers(SOURCE, each=2) as running:
        yield running


def play(env: gymnasium.Env[Any, Any], seed: int = 0) -> tuple[list[float], list[dict[str, Any]]]:
    """Rewards and infos of one episode under random actions."""
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    rewards, infos, over = [], [], False
    while not over:
        assert env.observation_space.contains(observation)
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        rewards.append(float(reward))
        infos.append(info)
        over = terminated or truncated
    return rewards, infos


def idle(urls: Urls) -> bool:
    """Whether no server has anything to do."""
    pages = [urllib.request.urlopen(f"{url}/metrics").read().decode() for own in urls.values() for url in own]
    return all(parse(page).running + parse(page).waiting == 0 for page in pages)


def test_best_effort(urls: Urls) -> None:
    env = BestEffortEnv(SOURCE, engine="live", urls=urls, bounds=BOUNDS, render_mode="rgb_array")
    rewards, infos = play(env)
    assert len(infos) == len(env.episode.requests) == BOUNDS.requests
    credited = [pair for info in infos for pair in info["ended"]]
    assert sorted(decision for decision, _ in credited) == list(range(len(infos)))
    assert {worth for _, worth in credited} == {0.0, 1.0}, "answers are checked: some are right, and some are wrong"
    assert sum(rewards) == pytest.approx(sum(worth for _, worth in credited))
    picture = env.render()
    assert picture is not None
    assert picture.shape == (480, 800, 3)
    env.close()
    assert idle(urls)


def test_scale(urls: Urls) -> None:
    env = ScaleEnv(SOURCE, engine="live", urls=urls, bounds=BOUNDS, interval_s=0.25, max_replicas=2, sleeps=True)
    env.reset(seed=1)
    seen, infos, over = [], [], False
    for action in ([1, 0, 1, 0], [2, 0, 0, 1], [0, 1, 2, 0], [1, 1, 1, 1]):
        row, _, _, over, info = env.step(np.array(action))
        seen.append(dict(zip(env.names, row.tolist(), strict=True)))
        infos.append(info)
    assert over
    assert [row["small.ready"] for row in seen[:2]] == [0.5, 1.0]
    assert sum(info["ended"] for info in infos) == len(env.episode.requests)
    assert all(info["cost_usd"] > 0 for info in infos)
    env.close()
    assert idle(urls)


def test_order(urls: Urls) -> None:
    env = OrderEnv(SOURCE, engine="live", urls=urls, bounds=BOUNDS)
    rewards, infos = play(env)
    assert len(infos) == BOUNDS.requests
    assert sum(len(info["ended"]) for info in infos) == BOUNDS.requests
    assert -BOUNDS.requests < sum(rewards) < 0
    env.close()
    assert idle(urls)


def test_route(urls: Urls) -> None:
    env = RouteEnv(SOURCE, prompts=8, engine="live", urls=urls, bounds=BOUNDS)
    rewards, infos = play(env)
    assert 1 <= len(infos) <= 8
    assert {info["quality"] for info in infos} <= {0.0, 1.0}
    for reward, info in zip(rewards, infos, strict=True):
        assert reward == pytest.approx(info["quality"] - env.lambda_usd * info["usd"])
        assert info["usd"] > 0
    env.close()
    assert idle(urls)


def test_an_episode_that_is_left_halfway_ends_clean(urls: Urls) -> None:
    env = BestEffortEnv(SOURCE, engine="live", urls=urls, bounds=LiveBounds(2.0, 40))
    env.reset(seed=0)
    for _ in range(10):
        env.step(1)
    env.reset(seed=1)
    env.step(0)
    env.close()
    assert idle(urls)


def test_agents_learn_there(urls: Urls) -> None:
    env = gymnasium.make(
        envs.registration.ORDER, source=SOURCE, engine="live", urls=urls, bounds=LiveBounds(1.0, 20, 5.0)
    )
    PPO("MlpPolicy", env, n_steps=20, batch_size=20, n_epochs=1, device="cpu").learn(20)
    env.close()
    env = gymnasium.make(envs.registration.BEST_EFFORT, source=SOURCE, engine="live", urls=urls, bounds=BOUNDS)
    DQN("MlpPolicy", env, learning_starts=5, buffer_size=100, device="cpu").learn(20)
    env.close()
    assert idle(urls)


def test_live_needs_servers_of_every_pool() -> None:
    with pytest.raises(ValueError, match="urls="):
        BestEffortEnv(SOURCE, engine="live")
    with pytest.raises(ValueError, match="engine='live'"):
        BestEffortEnv(SOURCE, urls={"small": ["http://there"]})
    env = BestEffortEnv(SOURCE, engine="live", urls={"small": ["http://there"]})
    with pytest.raises(ValueError, match="medium"):
        env.reset(seed=0)
