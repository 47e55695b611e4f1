"""Judging best-effort policies: every policy on the same episodes, every kind of workload, with intervals.

Evaluation episodes have seeds, and prompts of the suite's test split, that neither training nor tuning has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from controller.policy import TrainedPolicy
from envs.episode import Episode, EpisodeSource, StageFactory
from envs.scenarios import WorkloadKind
from predictors.types import Interval
from rl.baselines import FeasibleBest
from rl.measures import figures, intervals, paired
from rl.play import named_tier, play, policy_tier
from rl.tune import Tuned

__all__ = ["Contender", "Judged", "contenders", "evaluate", "evaluation_episodes", "points"]

_EVALUATION_SEEDS = 2_000_000
_PAIRED = ("availability", "share_of_peak")
_BASELINES = ("threshold", "static_mix", "feasible_best")


@dataclass(frozen=True)
class Contender:
    """A policy under its name in the table; ``setting`` tells a learned policy's variants apart."""

    policy: str
    stages: StageFactory
    setting: str | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """One policy's figures on one kind of workload."""

    policy: str
    setting: str | None
    workload: str
    metrics: Mapping[str, Interval | None]


def evaluation_episodes(source: EpisodeSource, kind: WorkloadKind, count: int) -> list[Episode]:
    """Fixed episodes of one kind."""
    return [source.draw(_EVALUATION_SEEDS + i, kind) for i in range(count)]


def contenders(
    source: EpisodeSource, tuned: Tuned, learned: Mapping[str, TrainedPolicy], order: str = "fcfs"
) -> list[Contender]:
    """Each static tier, the best static mix, the tuned heuristics, and the learned policies by their setting."""
    scenario, profiles = source.scenario, source.profiles
    static = [
        Contender(f"static_{pool.name}", named_tier("static", {"pool": pool.name}, order)) for pool in scenario.pools
    ]
    return [
        *static,
        Contender("static_mix", named_tier("static", {"weights": tuned.mix}, order)),
        Contender("threshold", named_tier("threshold", tuned.threshold, order)),
        Contender("feasible_best", policy_tier(FeasibleBest.of(scenario, profiles, tuned.margin), order)),
        *(Contender("learned", policy_tier(policy, order), setting) for setting, policy in learned.items()),
    ]


def evaluate(
    source: EpisodeSource,
    policies: Sequence[Contender],
    episodes: int,
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Judged]:
    """One row a policy and kind of workload; ``progress`` is called after each.

    Intervals are over episodes. ``NAME_over_BASELINE`` is the mean difference to a baseline on the same episodes.
    """
    for kind in WorkloadKind:
        drawn = evaluation_episodes(source, kind, episodes)
        rows: list[list[dict[str, float]]] = []
        for contender in policies:
            rows.append([figures(play(episode, contender.stages)) for episode in drawn])
            progress()
        baselines = {c.policy: row for c, row in zip(policies, rows, strict=True) if c.policy in _BASELINES}
        for contender, row in zip(policies, rows, strict=True):
            metrics = intervals(row, seed) | _differences(row, baselines, seed)
            yield Judged(contender.policy, contender.setting, kind.value, metrics)


def points(policies: Sequence[Contender]) -> int:
    """How many times :func:`evaluate` calls its ``progress``."""
    return len(policies) * len(WorkloadKind)


def _differences(
    row: Sequence[Mapping[str, float]], baselines: Mapping[str, Sequence[Mapping[str, float]]], seed: int
) -> dict[str, Interval | None]:
    return {
        f"{name}_over_{baseline}": paired(row, theirs, name, seed)
        for baseline, theirs in baselines.items()
        for name in _PAIRED
    }
