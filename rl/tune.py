"""Tuning the baselines on validation episodes, so that a learned policy is compared with good ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.objectives import share_of_peak
from envs.episode import Episode, StageFactory
from envs.scenarios import Scenario
from rl.baselines import FeasibleBest
from rl.play import named_tier, play, policy_tier

__all__ = ["Tuned", "objective", "points", "static_mixes", "thresholds", "tune"]

_WAITS_S = (1.0, 1.5, 2.0, 2.5, 3.0)
_REOPEN = (0.7, 0.9)
_MARGINS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
_SHARES = 4
"""Weights of a static mix are multiples of one over this."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best options of each baseline, and what they reached on validation (mean share of peak)."""

    threshold: Mapping[str, Any]
    mix: Mapping[str, float]
    margin: float
    reached: Mapping[str, float]


def objective(episodes: Sequence[Episode], stages: StageFactory) -> float:
    """Mean share of peak over episodes: the figure that is tuned and trained for."""
    return float(np.mean([share_of_peak(play(episode, stages).served) or 0.0 for episode in episodes]))


def tune(episodes: Sequence[Episode], order: str = "fcfs", progress: Callable[[], None] = lambda: None) -> Tuned:
    """Search the grids of all baselines over ``episodes`` (of one scenario); ``progress`` is called at each point."""
    scenario, profiles = episodes[0].scenario, episodes[0].profiles

    def best(candidates: Sequence[Any], stages: Callable[[Any], StageFactory]) -> tuple[Any, float]:
        scores = []
        for candidate in candidates:
            scores.append(objective(episodes, stages(candidate)))
            progress()
        place = int(np.argmax(scores))
        return candidates[place], scores[place]

    threshold, by_threshold = best(list(thresholds(scenario)), lambda options: named_tier("threshold", options, order))
    mix, by_mix = best(list(static_mixes(scenario)), lambda weights: named_tier("static", {"weights": weights}, order))
    margin, by_margin = best(
        list(_MARGINS), lambda share: policy_tier(FeasibleBest.of(scenario, profiles, share), order)
    )
    reached = {"threshold": by_threshold, "static_mix": by_mix, "feasible_best": by_margin}
    return Tuned(threshold, mix, margin, reached)


def points(scenario: Scenario) -> int:
    """How many times :func:`tune` calls its ``progress``."""
    return len(list(thresholds(scenario))) + len(list(static_mixes(scenario))) + len(_MARGINS)


def thresholds(scenario: Scenario) -> Iterator[dict[str, Any]]:
    """Every combination of the limits of the pools above the lowest (which has no lower one to flee to)."""
    above = [pool.name for pool in scenario.pools[1:]]
    for reopen in _REOPEN:
        for waits in itertools.product(_WAITS_S, repeat=len(above)):
            yield {"wait_s": 1.0, "waits_s": dict(zip(above, waits, strict=True)), "reopen": reopen}


def static_mixes(scenario: Scenario) -> Iterator[dict[str, float]]:
    """Every mix of pools in steps, single pools included."""
    names = [pool.name for pool in scenario.pools]
    for parts in itertools.product(range(_SHARES + 1), repeat=len(names)):
        if sum(parts) == _SHARES:
            yield {name: part / _SHARES for name, part in zip(names, parts, strict=True) if part}
