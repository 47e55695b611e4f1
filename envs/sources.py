"""Episodes from what ships: the scenario's profiles, and its prompts as the shipped predictors score them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from controller.protocols import ArtifactResolver
from controller.scoring import Scorer
from controller.store import ArtifactStore, home_in, shipped_models
from controller.types import PoolName
from envs.episode import EpisodeSource, Randomisation
from envs.scenarios import DEMO, Scenario
from envs.scored import ScoredPrompts
from envs.tasks import Split, generate
from predictors.embedding import Embedder
from predictors.latency.model import Profile
from predictors.length.model import FastLength
from predictors.quality.model import KnnQuality

__all__ = ["LENGTH", "QUALITY", "default_source", "ladder_scorer", "scenario_profiles"]

LENGTH = "length/fast"
QUALITY = "quality/ladder"


def scenario_profiles(scenario: Scenario, artifacts: ArtifactResolver) -> dict[PoolName, Profile]:
    """Each pool's engine profile; raises what ``resolve`` and ``Profile.load`` raise where one is missing."""
    return {pool.name: Profile.load(artifacts.resolve(f"profile/{pool.profile}")) for pool in scenario.pools}


def ladder_scorer(scenario: Scenario, artifacts: ArtifactResolver) -> Scorer:
    """The gateway's own scorer with the shipped predictors; a pool's quality is that of its profile's column."""
    length, quality = FastLength.load(artifacts.resolve(LENGTH)), KnnQuality.load(artifacts.resolve(QUALITY))
    return Scorer(Embedder(), length, quality, {pool.name: pool.profile for pool in scenario.pools})


def default_source(
    scenario: Scenario = DEMO,
    *,
    split: Split | str = Split.VALIDATION,
    seed: int = 0,
    prompts: int = 2000,
    randomisation: Randomisation | None = None,
    artifacts: ArtifactResolver | None = None,
    environ: Mapping[str, str] | None = None,
) -> EpisodeSource:
    """Episodes of ``scenario`` over ``prompts`` tasks of a split's stream; the prompts are scored here, once.

    The training split is what the quality predictor learned from, on which it would look better than it is.

    Raises:
        HeadwayError, ArtifactError: a profile or predictor is missing or cannot be used.
    """
    found = artifacts or ArtifactStore(shipped_models(), home_in(os.environ if environ is None else environ))
    profiles = scenario_profiles(scenario, found)
    tasks = generate(seed, prompts, split)
    scored = ScoredPrompts.build(tasks, profiles, ladder_scorer(scenario, found))
    return EpisodeSource(scenario, profiles, scored, randomisation or Randomisation())
