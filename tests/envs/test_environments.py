"""What all environments have in common."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import A2C
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from stable_baselines3.common.env_util import make_vec_env

import envs.registration
from envs.episode import EpisodeSource, Randomisation
from envs.fleet import FleetRequest
from envs.registration import BEST_EFFORT, ENVIRONMENTS, ORDER, ROUTE, SCALE
from envs.scored import ScoredPrompts
from predictors.types import Prompt
from tests.envs.worlds import PROFILES, SCENARIO, NoisyScorer, prompts, source

SHORT = replace(SCENARIO, duration_s=4.0, bursts=((1.0, 3.0),), tenants={"a": 0.7, "b": 0.3})
SOURCE = source(SHORT)
WIDE = source(SHORT, Randomisation.wide())
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "best_effort": (BEST_EFFORT, {}),
    "scale": (SCALE, {"interval_s": 0.5, "max_replicas": 2}),
    "order": (ORDER, {}),
    "order_discrete": (ORDER, {"buckets": 4}),
    "route": (ROUTE, {"prompts": 20}),
}


Make = Callable[..., gymnasium.Env[Any, Any]]


@pytest.fixture(params=list(VARIANTS))
def make(request: pytest.FixtureRequest) -> Make:
    """Makes an environment of each kind over the small world."""
    name, options = VARIANTS[request.param]

    def made(world: EpisodeSource = SOURCE, **more: Any) -> gymnasium.Env[Any, Any]:
        return gymnasium.make(name, source=world, **options, **more)

    return made


def episode(
    env: gymnasium.Env[Any, Any], seed: int, act: Callable[[], Any] | None = None
) -> tuple[list[np.ndarray], list[float], list[dict[str, Any]]]:
    """Observations, rewards and infos; random actions from a fixed seed unless ``act`` says otherwise."""
    env.action_space.seed(7)
    observation, _ = env.reset(seed=seed)
    observations, rewards, infos, over = [observation], [], [], False
    while not over:
        observation, reward, terminated, truncated, info = env.step((act or env.action_space.sample)())
        observations.append(observation)
        rewards.append(float(reward))
        infos.append(info)
        over = terminated or truncated
    return observations, rewards, infos


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized Box action space")
@pytest.mark.parametrize("world", [SOURCE, WIDE], ids=["plain", "wide"])
def test_passes_both_checkers(make: Make, world: EpisodeSource) -> None:
    env = make(world, render_mode="rgb_array")
    check_env(env.unwrapped)
    check_env_sb3(env.unwrapped)


def test_a_seed_gives_the_same_episode_again(make: Make) -> None:
    first, second = (episode(make(WIDE), 3) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert first[1:] == second[1:]
    assert episode(make(WIDE), 4)[1] != first[1]


def test_observations_stay_inside_their_space(make: Make) -> None:
    env = make(WIDE)
    for seed in range(3):
        assert all(env.observation_space.contains(row) for row in episode(env, seed)[0])


@pytest.mark.parametrize("kind", ["best_effort", "scale", "order"])
def test_a_seed_gives_the_same_trace_whatever_the_actions(kind: str) -> None:
    name, options = VARIANTS[kind]
    traces = []
    for change in (0, 1):
        env = gymnasium.make(name, source=WIDE, **options)
        episode(env, 3, always(np.ones(env.action_space.shape or (), np.int64) * change))
        drawn = env.unwrapped.episode  # type: ignore[attr-defined]
        fates = [drawn.hardship.fate(worker.name) for worker in drawn.scenario.worker_specs()]
        traces.append((drawn.requests, drawn.profiles, drawn.clock, drawn.scenario, fates))
    assert traces[0] == traces[1]


def always(action: Any) -> Callable[[], Any]:
    """The same action each time."""
    return lambda: action


def test_prompts_of_a_route_do_not_depend_on_actions() -> None:
    env = gymnasium.make(ROUTE, source=SOURCE, prompts=20)
    cheap, dear = (episode(env, 5, always(action)) for action in (0, 2))
    assert np.array_equal(cheap[0], dear[0])
    assert [info["row"] for info in cheap[2]] == [info["row"] for info in dear[2]]


def _other_truth(world: EpisodeSource) -> EpisodeSource:
    """The same world, whose answers will turn out four times as long and hardly ever right."""
    bank = world.prompts
    hidden: ScoredPrompts = replace(
        bank,
        output_tokens=bank.output_tokens * 4,
        quality=bank.quality * 0.01,
        correct=np.zeros_like(bank.correct),
    )
    return replace(world, prompts=hidden)


def test_the_truth_is_not_seen_before_it_shows(make: Make) -> None:
    """What answers will be changes nothing that is seen at the start; only what has ended may show."""
    known = replace(SOURCE, prompts=replace(SOURCE.prompts, scores=tuple(_sure(SOURCE))))
    env, other = make(known), make(_other_truth(known))
    for seed in range(5):
        assert np.array_equal(env.reset(seed=seed)[0], other.reset(seed=seed)[0])


def _sure(world: EpisodeSource) -> list[Any]:
    """Scores that say everything, so that no mean of the truth has to stand in."""
    bank: ScoredPrompts = world.prompts
    return list(NoisyScorer(bank.tasks).score([Prompt(task.prompt) for task in bank.tasks]))


def test_arrivals_alone_never_show_the_truth() -> None:
    """With engines too slow to answer anything, a whole episode looks the same whatever the answers would be."""
    slow = {name: replace(profile, a=5.0) for name, profile in PROFILES.items()}
    world = replace(SOURCE, profiles=slow)
    pairs = zip(*(_seen(each) for each in (world, _other_truth(world))), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def _seen(world: EpisodeSource) -> list[np.ndarray]:
    env = gymnasium.make(BEST_EFFORT, source=world)
    observations, _, _ = episode(env, 2)
    return observations


def test_many_at_once(make: Make, request: pytest.FixtureRequest) -> None:
    name, options = VARIANTS[request.node.callspec.params["make"]]
    vector = gymnasium.make_vec(name, num_envs=3, source=SOURCE, **options)
    single = make()
    observations, _ = vector.reset(seed=4)
    for place in range(3):
        assert np.array_equal(observations[place], single.reset(seed=4 + place)[0])
    for _ in range(5):
        observations, rewards, _, _, _ = vector.step(vector.action_space.sample())
    assert observations.shape == (3, *(single.observation_space.shape or ()))
    assert rewards.shape == (3,)
    vector.close()


def test_agents_of_stable_baselines3_learn(make: Make) -> None:
    envs_at_once = make_vec_env(make, n_envs=2, seed=0)
    A2C("MlpPolicy", envs_at_once, n_steps=5, device="cpu").learn(40)
    envs_at_once.close()


def test_pictures_show_the_fleet(make: Make) -> None:
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    before: Any = env.render()
    for _ in range(7):
        env.step(env.action_space.sample())
    after: Any = env.render()
    for picture in (before, after):
        assert isinstance(picture, np.ndarray)
        assert picture.shape == (480, 800, 3)
        assert picture.dtype == np.uint8
    assert not np.array_equal(before, after)


def test_nothing_is_painted_unless_asked_for(make: Make) -> None:
    env = make().unwrapped
    env.reset(seed=0)
    assert env.render() is None
    kind: Any = type(env)
    with pytest.raises(ValueError, match="rgb_array"):
        kind(source=SOURCE, render_mode="human")


def test_every_environment_is_registered() -> None:
    assert set(ENVIRONMENTS) <= set(gymnasium.registry)
    assert envs.registration.ENVIRONMENTS[SCALE] == "envs.scale:ScaleEnv"


def test_requests_carry_what_is_asked() -> None:
    drawn = SOURCE.draw(0)
    request: FleetRequest = drawn.requests[0]
    assert request.prompt == prompts(300).tasks[drawn.rows[0]].prompt


def test_they_can_be_made_where_nothing_was_imported() -> None:
    code = f"import gymnasium; print(gymnasium.make('envs.registration:{ROUTE}', prompts=0))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "needs prompts" in found.stderr, "it was found, and refused what it was given"
