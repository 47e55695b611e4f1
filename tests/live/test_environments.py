"""Every environment over two real vLLM servers, and an agent that learns there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import httpx
import numpy as np
import pytest
from stable_baselines3 import PPO

from controller.scoring import Scorer
from controller.store import ArtifactStore, shipped_models
from envs.engines.vllm_process import VllmProcess
from envs.episode import EpisodeSource
from envs.ladder.shapes import CONTEXT
from envs.registration import BEST_EFFORT, ORDER, ROUTE
from envs.scale import ScaleEnv
from envs.scenarios import Scenario, ScenarioPool
from envs.scored import ScoredPrompts
from envs.sources import LENGTH
from envs.tasks import FAMILY_NAMES, Split, generate
from envs.worlds import LiveBounds
from predictors.embedding import Embedder
from predictors.latency.model import Profile
from predictors.length.model import FastLength
from predictors.quality.model import KnnQuality
from tests.live.fleet import MODEL, UPPER, metrics

SEATS = 4
"""Requests that the control plane keeps in flight at each server."""
STEPS = 200
BOUNDS = LiveBounds(seconds=4.0, requests=12, finish_s=8.0)
SCENARIO = Scenario(
    name="two-real-servers",
    pools=(
        ScenarioPool(MODEL, MODEL, tier=0, max_inflight=SEATS),
        ScenarioPool(UPPER, UPPER, tier=1, max_inflight=SEATS),
    ),
    base_rate=4.0,
    burst_rate=8.0,
    bursts=((1.0, 3.0),),
    duration_s=6.0,
    deadline_s=6.0,
    max_tokens=128,
)
"""Six seconds, some thirty requests."""
PROFILE = Profile(
    name=MODEL, model=MODEL, a=0.01, b=1e-5, c=1e-4, d=0.0, request_overhead_s=0.005, token_overhead_s=1e-5,
    max_num_seqs=2, max_num_batched_tokens=CONTEXT, kv_blocks=4096, block_size=16, max_model_len=CONTEXT,
    cold_start_s=60.0, sleep_s=1.0, wake_s=1.0, usd_per_hour=0.1, skill=dict.fromkeys(FAMILY_NAMES, (0.6, 0.4)),
)  # fmt: skip
"""What the control plane believes of the servers; what they do, they really do."""


@pytest.fixture(scope="module")
def source() -> EpisodeSource:
    """Tasks that no predictor has seen, as the shipped predictors score them."""
    store = ArtifactStore(shipped_models(), None)
    columns = {MODEL: "small", UPPER: "medium"}
    quality = KnnQuality.load(store.resolve("quality/suite"))
    scorer = Scorer(Embedder(), FastLength.load(store.resolve(LENGTH)), quality, columns)
    profiles = {MODEL: PROFILE, UPPER: replace(PROFILE, name=UPPER, model=UPPER, a=0.02, usd_per_hour=0.2)}
    return EpisodeSource(SCENARIO, profiles, ScoredPrompts.build(generate(3, 200, Split.TEST), profiles, scorer))


@pytest.fixture(scope="module")
def two(workers: list[VllmProcess], upper: VllmProcess) -> list[VllmProcess]:
    """A server of each model."""
    return [workers[0], upper]


@pytest.fixture
def urls(two: list[VllmProcess]) -> dict[str, list[str]]:
    """Pool → its server."""
    return {MODEL: [two[0].url], UPPER: [two[1].url]}


def play(env: gymnasium.Env[Any, Any]) -> list[dict[str, Any]]:
    """One episode under random actions: the infos."""
    env.action_space.seed(0)
    env.reset(seed=0)
    infos, over = [], False
    while not over:
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        assert np.isfinite(float(reward))
        infos.append(info)
        over = terminated or truncated
    env.close()
    return infos


def assert_idle(servers: Sequence[VllmProcess]) -> None:
    """An episode leaves nothing behind."""

    async def main() -> list[float]:
        async with httpx.AsyncClient() as client:
            gauges = [await metrics(client, server.url) for server in servers]
            return [float(found.running + found.waiting) for found in gauges]

    assert asyncio.run(main()) == [0.0] * len(servers)


def test_best_effort(source: EpisodeSource, urls: dict[str, list[str]], two: list[VllmProcess]) -> None:
    infos = play(gymnasium.make(BEST_EFFORT, source=source, engine="live", urls=urls, bounds=BOUNDS))
    assert len(infos) == BOUNDS.requests
    worths = [worth for info in infos for _, worth in info["ended"]]
    assert len(worths) == BOUNDS.requests
    assert set(worths) <= {0.0, 1.0}
    assert sum(worths) > 0, "some answers are right, and in time"
    assert {info["pool"] for info in infos} == {0, 1}
    assert_idle(two)


def test_order(source: EpisodeSource, urls: dict[str, list[str]], two: list[VllmProcess]) -> None:
    infos = play(gymnasium.make(ORDER, source=source, engine="live", urls=urls, bounds=BOUNDS))
    worths = [worth for info in infos for _, worth in info["ended"]]
    assert len(worths) == len(infos) == BOUNDS.requests
    assert any(worth > -1.0 for worth in worths)
    assert_idle(two)


def test_scale(source: EpisodeSource, urls: dict[str, list[str]], two: list[VllmProcess]) -> None:
    env = ScaleEnv(source, engine="live", urls=urls, bounds=BOUNDS, interval_s=1.0, max_replicas=1)
    infos = play(env)
    assert len(infos) == 4
    assert sum(info["ended"] for info in infos) == sum(info["arrived"] for info in infos) <= BOUNDS.requests
    assert_idle(two)


def test_route(source: EpisodeSource, urls: dict[str, list[str]], two: list[VllmProcess]) -> None:
    infos = play(gymnasium.make(ROUTE, source=source, prompts=8, engine="live", urls=urls, bounds=BOUNDS))
    assert {info["quality"] for info in infos} <= {0.0, 1.0}
    assert all(info["usd"] > 0 for info in infos)
    assert_idle(two)


def test_an_agent_learns(source: EpisodeSource, urls: dict[str, list[str]], two: list[VllmProcess]) -> None:
    crowded = replace(source, scenario=replace(SCENARIO, base_rate=20.0, burst_rate=30.0, deadline_s=2.0))
    bounds = LiveBounds(seconds=6.0, requests=100, finish_s=3.0)
    env = gymnasium.make(BEST_EFFORT, source=crowded, engine="live", urls=urls, bounds=bounds)
    agent = PPO("MlpPolicy", env, n_steps=50, batch_size=50, n_epochs=2, seed=0, device="cpu")
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.learn(STEPS)
    assert agent.num_timesteps == STEPS
    assert any(not value.equal(before[name]) for name, value in agent.policy.state_dict().items())
    env.close()
    assert_idle(two)
