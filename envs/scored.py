"""Tasks scored beforehand, in batch: what predictors say of each prompt, and what the simulated ladder does with it.

Environments draw thousands of requests an episode; scoring them one by one would cost more than simulating them. The
predictions are those that the gateway's own scorer gives; the truth reaches engines and rewards only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from controller.types import PoolName, Scores
from envs.answers import TaskAnswerer, TaskBook, token_texts
from envs.tasks import Task
from predictors.latency.model import Profile
from predictors.types import Prompt

__all__ = ["PromptScorer", "ScoredPrompts"]


class PromptScorer(Protocol):
    """Says of each prompt what the learned predictors expect; :class:`controller.scoring.Scorer` is one."""

    def score(self, prompts: Sequence[Prompt]) -> Sequence[Scores]: ...


@dataclass(frozen=True, slots=True)
class ScoredPrompts:
    """n tasks, the scores of their prompts, and the truth for M pools (columns in the order of ``pools``)."""

    pools: tuple[PoolName, ...]
    tasks: tuple[Task, ...]
    scores: tuple[Scores, ...]
    prompt_tokens: npt.NDArray[np.int64]
    """(n,)"""
    output_tokens: npt.NDArray[np.int64]
    """(n, M): the length of each pool's answer."""
    quality: npt.NDArray[np.float64]
    """(n, M): the probability that a pool's answer is right, from its profile's skill table."""
    correct: npt.NDArray[np.bool_]
    """(n, M): whether its answer is right; one draw from ``quality``, the same in every process."""

    def __len__(self) -> int:
        return len(self.tasks)

    @classmethod
    def build(
        cls, tasks: Sequence[Task], profiles: Mapping[PoolName, Profile], scorer: PromptScorer, seed: int = 0
    ) -> ScoredPrompts:
        """Score ``tasks`` and let every pool's simulated model answer them.

        Answers are those that a simulated worker of the profile gives (:class:`envs.answers.TaskAnswerer`).
        """
        book = TaskBook(tasks)
        answerers = [TaskAnswerer(book, p.name, p.skill, p.verbosity, seed) for p in profiles.values()]
        lengths = [[max(1, len(token_texts(a.answer_to(task)))) for a in answerers] for task in tasks]
        return cls(
            pools=tuple(profiles),
            tasks=tuple(tasks),
            scores=tuple(scorer.score([Prompt(task.prompt) for task in tasks])),
            prompt_tokens=np.array([max(1, len(token_texts(task.prompt))) for task in tasks], dtype=np.int64),
            output_tokens=np.array(lengths, dtype=np.int64),
            quality=np.array([[a.chance(task) for a in answerers] for task in tasks]),
            correct=np.array([[a.is_right(task) for a in answerers] for task in tasks]),
        )
