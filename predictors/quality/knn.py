"""The kNN as an estimator: what it learns of a set of prompts. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from predictors.quality.model import Bank, Price
from predictors.quality.neighbours import ANCHORS, KnnSettings, Metric, estimate, metric, nearest, plain_metric
from predictors.quality.table import Labelled

Array = NDArray[np.float32]

KNOWN_QUANTILE: Final = 0.01
"""A prompt less familiar than this share of the known prompts are to each other is out of distribution."""
_SAMPLE: Final = 1000
"""Known prompts from which their familiarity with each other is measured, at most."""


class KnnEstimator:
    """Similarity-weighted mean over the nearest prompts, shrunken to the models' means; see :mod:`.neighbours`."""

    def __init__(self, settings: KnnSettings | None = None) -> None:
        self.settings = settings or KnnSettings()

    def fit(self, data: Labelled) -> Self:
        """Keep the prompts as the bank, and learn how familiar they are to each other."""
        self.metric_ = fit_metric(data.embeddings, self.settings.whiten)
        self.points_ = self.metric_(data.embeddings)
        self.quality_: Array = data.quality.astype(np.float16).astype(np.float32)
        self.prior_: Array = self.quality_.mean(axis=0)
        familiarity = own_familiarity(self.points_)
        self.guard_ = threshold(familiarity, self.settings.guard)
        self.known_ = threshold(familiarity, KNOWN_QUANTILE)
        return self

    def predict(self, embeddings: Array) -> Array:
        """Expected quality (n, M)."""
        found = nearest(self.metric_(embeddings), self.points_, max(self.settings.k, ANCHORS))
        return estimate(found, self.quality_, self.prior_, self.settings, max(self.guard_, self.known_))

    def bank(self, models: Sequence[str], prices: Sequence[Price]) -> Bank:
        """What was learned, as serving reads it."""
        return Bank(
            models=tuple(models),
            prices=tuple(prices),
            settings=self.settings,
            guard=self.guard_,
            known=self.known_,
            metric=self.metric_,
            points=self.points_,
            quality=self.quality_,
            prior=self.prior_,
        )


def fit_metric(embeddings: Array, whiten: float) -> Metric:
    """The metric of ``embeddings`` (n, d); see :class:`.neighbours.KnnSettings`.

    The spread (variance) along each axis is mixed with the mean spread, by d / (n + d): few prompts say little of it.
    """
    n, dimensions = embeddings.shape
    if whiten == 0.0:
        return plain_metric(dimensions)
    centre = embeddings.mean(axis=0, dtype=np.float64)
    spread, axes = np.linalg.eigh(np.cov(embeddings - centre, rowvar=False))
    unsure = dimensions / (n + dimensions)
    mixed = (1 - unsure) * np.maximum(spread, 0.0) + unsure * spread.mean()
    scale = np.sqrt(mixed / mixed[-1]) ** whiten
    return metric(centre, axes / scale)


def own_familiarity(points: Array) -> Array:
    """Familiarity of (at most 1,000, evenly taken) points with the others of the same set."""
    if len(points) == 1:
        return np.ones(1, dtype=np.float32)
    return nearest(points[evenly(len(points), _SAMPLE)], points, ANCHORS + 1).without_first().familiarity


def evenly(n: int, most: int) -> NDArray[np.intp]:
    """At most so many of ``n`` rows, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.intp))


def threshold(familiarity: Array, quantile: float) -> float:
    """The familiarity at a quantile; at 0 none is too small."""
    return float(np.quantile(familiarity, quantile)) if quantile > 0 else -1.0
