"""Choosing the kNN's settings inside the training prompts. Numpy only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from predictors.quality.frontier import aiq, sweep, willingness
from predictors.quality.knn import KNOWN_QUANTILE, KnnEstimator, evenly, fit_metric, own_familiarity, threshold
from predictors.quality.neighbours import ANCHORS, KnnSettings, Neighbours, estimate, nearest
from predictors.quality.splits import Split, split
from predictors.quality.table import Labelled

Array = NDArray[np.float32]

_PROBES: Final = 2500
"""Held-out prompts per inner split, at most: it bounds the time of the search."""
_SALT: Final = 1
"""Keeps inner splits independent of the outer ones."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Settings to try: the product of these."""

    k: tuple[int, ...] = (50, 100, 200, 300)
    kappa: tuple[float, ...] = (0.3, 1.0, 5.0)
    power: tuple[float, ...] = (2.0,)
    guard: tuple[float, ...] = (0.0,)
    whiten: tuple[float, ...] = (0.0,)

    def __iter__(self) -> Iterator[KnnSettings]:
        for values in itertools.product(self.k, self.kappa, self.power, self.guard, self.whiten):
            yield KnnSettings(*values)


PLAIN: Final = Grid(k=(5, 10, 20, 40, 70, 100, 200), kappa=(0.0,), power=(0.0,))
"""The textbook's kNN: a uniform mean."""
SHRUNKEN: Final = Grid()
GUARDED: Final = Grid(guard=(0.5,))
"""Only prompts more familiar than half of the known ones are judged by their neighbours, the others by the mean.

The guard is not searched: an inner split shows too few new tasks to choose it by. It costs accuracy on known tasks and
saves it on new ones; at a half, leaving one task of the nine-model table out at a time, the router is as accurate as
the best single model, which no unguarded one is (``headway eval routing``, split ``leave_one_out``).
"""


class Objective(StrEnum):
    """What the settings are chosen for."""

    BUDGETS = "budgets"
    """Routing at any budget: AIQ plus the accuracy where money does not count."""
    CALIBRATION = "calibration"
    """Expected qualities that others weigh against load: a small Brier score."""


class TunedKnn:
    """A kNN whose settings are chosen inside the training prompts, by the objective's mean over ``worlds``.

    Each world is an inner split: new prompts of known tasks, or whole new tasks. With both, the settings are for a
    router that does not know which of the two it will meet.
    """

    def __init__(
        self,
        grid: Grid = GUARDED,
        worlds: Sequence[Split] = (Split.IN_DOMAIN, Split.LEAVE_ONE_OUT),
        objective: Objective = Objective.BUDGETS,
        folds: int = 5,
    ) -> None:
        self.grid = grid
        self.objective = objective
        self.worlds = tuple(worlds)
        self.folds = folds

    def fit(self, data: Labelled) -> Self:
        """Search, then fit the best settings on all of ``data``."""
        settings = tuple(self.grid)
        worlds = [world for world in self.worlds if len(np.unique(split(data, world, self.folds))) > 1]
        scores = np.mean([_search(data, world, settings, self.folds, self.objective) for world in worlds], axis=0)
        self.knn_ = KnnEstimator(settings[int(np.argmax(scores))]).fit(data)
        return self

    @property
    def settings_(self) -> KnnSettings:
        """The settings that won."""
        return self.knn_.settings

    def predict(self, embeddings: Array) -> Array:
        """Expected quality (n, M)."""
        return self.knn_.predict(embeddings)


@dataclass(frozen=True, slots=True)
class _Fold:
    """One inner fold in one metric, with the neighbours of its probes found once for all other settings."""

    found: Neighbours
    train: Labelled
    familiarity: Array

    def estimate(self, settings: KnnSettings) -> Array:
        """Expected quality of the probes."""
        guard = max(threshold(self.familiarity, q) for q in (settings.guard, KNOWN_QUANTILE))
        prior = self.train.quality.mean(axis=0)
        return estimate(self.found, self.train.quality, prior, settings, guard)


def _search(
    data: Labelled, world: Split, settings: Sequence[KnnSettings], folds: int, objective: Objective
) -> NDArray[np.float64]:
    """Score of every setting on the probes of one inner split; higher is better."""
    fold_of, probes = split(data, world, folds, _SALT), evenly(len(data), _PROBES)
    parts = [probes[fold_of[probes] == fold] for fold in np.unique(fold_of[probes])]
    held_out = data.take(np.concatenate(parts))
    trains = [data.take(fold_of != fold_of[part[0]]) for part in parts]
    scores = np.empty(len(settings))
    for whiten in {setting.whiten for setting in settings}:
        same = [i for i, setting in enumerate(settings) if setting.whiten == whiten]
        k = max(ANCHORS, *(settings[i].k for i in same))
        prepared = [_fold(data.embeddings[part], train, whiten, k) for part, train in zip(parts, trains, strict=True)]
        for i in same:
            predicted = np.concatenate([fold.estimate(settings[i]) for fold in prepared])
            scores[i] = _score(predicted, held_out, objective)
    return scores


def _fold(probes: Array, train: Labelled, whiten: float, k: int) -> _Fold:
    metric = fit_metric(train.embeddings, whiten)
    points = metric(train.embeddings)
    return _Fold(nearest(metric(probes), points, k), train, own_familiarity(points))


def _score(predicted: Array, held_out: Labelled, objective: Objective) -> float:
    if objective is Objective.CALIBRATION:
        return -float(np.mean((predicted - held_out.quality) ** 2))
    points = sweep(predicted, held_out.quality, held_out.costs, willingness(held_out.costs, steps=25)).points()
    single = held_out.costs.mean(axis=0)
    return aiq(points, float(single.min()), float(single.max())) + float(points[-1, 1])
