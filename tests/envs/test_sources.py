from __future__ import annotations

import tomllib
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import envs.registration
from controller.errors import HeadwayError
from controller.store import ArtifactStore, shipped_models
from envs.scenarios import DEMO
from envs.sources import LENGTH, QUALITY, default_source
from envs.tasks import Split
from predictors.artifact import ArtifactError, load_manifest, manifest_sha256


def test_without_artifacts_it_says_which_is_missing(tmp_path: Path) -> None:
    with pytest.raises((HeadwayError, ArtifactError), match="h100-1b"):
        default_source(artifacts=ArtifactStore(tmp_path, None), prompts=10)


def test_the_shipped_predictors_score_the_prompts() -> None:
    store = ArtifactStore(shipped_models(), None)
    try:
        for ref in (LENGTH, QUALITY):
            store.resolve(ref)
    except (HeadwayError, ArtifactError) as error:
        pytest.skip(str(error))
    source = default_source(artifacts=store, prompts=200, split=Split.TEST)
    scored = source.prompts
    assert set(scored.pools) == {pool.name for pool in DEMO.pools}
    assert {task.split for task in scored.tasks} == {Split.TEST}
    known = [scores for scores in scored.scores if scores.quality is not None]
    assert len(known) > 100
    assert all(set(scores.quality or {}) == set(scored.pools) for scores in known)
    small = np.array([(scores.quality or {}).get("small", np.nan) for scores in scored.scores])
    assert np.corrcoef(small[~np.isnan(small)], scored.quality[~np.isnan(small), 0])[0, 1] > 0.2


def test_the_shipped_policy_learned_from_the_predictors_that_ship() -> None:
    """Another predictor's lengths are on another scale, and cost the policy availability: train it again with them, by
    ``headway train best-effort``."""
    store = ArtifactStore(shipped_models(), None)
    try:
        inputs = load_manifest(store.resolve("policy/best-effort")).settings["inputs"]
    except (HeadwayError, ArtifactError) as error:
        pytest.skip(str(error))
    assert {ref: manifest_sha256(store.resolve(ref)) for ref in inputs} == inputs


@pytest.mark.parametrize("name", list(envs.registration.ENVIRONMENTS))
def test_every_environment_can_be_made_by_name_alone(name: str) -> None:
    envs.registration.register()
    try:
        env = gymnasium.make(name)
    except (HeadwayError, ArtifactError) as error:
        pytest.skip(str(error))
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    env.step(env.action_space.sample())


def test_the_entry_point_names_the_function_that_registers() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["gymnasium.envs"]["headway"] == "envs.registration:register"
    assert callable(envs.registration.register)
