"""A small world for the tests of environments and policies: three profiles, a scenario, and a scorer that errs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from controller.types import Scores
from envs.answers import token_texts
from envs.episode import EpisodeSource, Randomisation
from envs.fleet import Ended
from envs.scenarios import Scenario, ScenarioPool
from envs.scored import ScoredPrompts
from envs.tasks import FAMILY_NAMES, Split, Task, generate
from predictors.latency.model import Profile
from predictors.types import Prompt

SKILL = {"small": (0.7, 0.5, 0.3, 0.1), "medium": (0.9, 0.8, 0.65, 0.4), "large": (0.98, 0.95, 0.9, 0.8)}
STEP_S = {"small": 0.002, "medium": 0.008, "large": 0.025}

SCENARIO = Scenario(
    name="small-world",
    pools=(
        ScenarioPool("small", "test-small", tier=0, max_inflight=16),
        ScenarioPool("medium", "test-medium", tier=1, max_inflight=12),
        ScenarioPool("large", "test-large", tier=2, max_inflight=8),
    ),
    base_rate=4.0,
    burst_rate=28.0,
    bursts=((4.0, 12.0),),
    duration_s=16.0,
    deadline_s=5.0,
)


def profile(pool: str, step_s: float | None = None) -> Profile:
    """A profile whose decode step takes ``step_s`` whatever the batch."""
    return Profile(
        name=f"test-{pool}",
        model=f"model-{pool}",
        a=STEP_S[pool] if step_s is None else step_s,
        b=1e-5,
        c=0.0,
        d=0.0,
        request_overhead_s=0.0,
        token_overhead_s=0.0,
        max_num_seqs=64,
        max_num_batched_tokens=2048,
        kv_blocks=4096,
        block_size=16,
        max_model_len=4096,
        cold_start_s=60.0,
        sleep_s=5.0,
        wake_s=1.0,
        usd_per_hour=1.0,
        skill=dict.fromkeys(FAMILY_NAMES, SKILL[pool]),
    )


PROFILES = {pool: profile(pool) for pool in SKILL}


class NoisyScorer:
    """Predictions that are off by a seeded error: about ±20 % in length, ±0.1 in quality."""

    def __init__(self, tasks: Sequence[Task], seed: int = 0) -> None:
        self._tasks = {task.prompt: task for task in tasks}
        self._seed = seed

    def score(self, prompts: Sequence[Prompt]) -> list[Scores]:
        """One row a prompt."""
        rng = np.random.default_rng(self._seed)
        return [self._one(self._tasks[prompt.text], rng) for prompt in prompts]

    def _one(self, task: Task, rng: np.random.Generator) -> Scores:
        length = len(token_texts(task.worked)) * float(rng.lognormal(0.0, 0.2))
        errors = dict(zip(SKILL, rng.normal(0.0, 0.1, len(SKILL)), strict=True))
        quality = {pool: float(np.clip(levels[task.level - 1] + errors[pool], 0, 1)) for pool, levels in SKILL.items()}
        return Scores(length_rank=length, output_tokens=length, quality=quality)


def prompts(count: int = 300, seed: int = 0) -> ScoredPrompts:
    """A bank of scored tasks."""
    tasks = generate(seed, count, Split.TRAIN)
    return ScoredPrompts.build(tasks, PROFILES, NoisyScorer(tasks, seed))


def source(
    scenario: Scenario = SCENARIO, randomisation: Randomisation | None = None, count: int = 300
) -> EpisodeSource:
    """Episodes of the small world."""
    return EpisodeSource(scenario, PROFILES, prompts(count), randomisation or Randomisation())


def recorder(into: list[Ended]) -> Callable[[list[Ended], float], None]:
    """Takes the place of an environment's ``_note``: keeps what has ended."""

    def note(ended: list[Ended], reward: float) -> None:
        into.extend(ended)

    return note
