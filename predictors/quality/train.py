"""Learning the quality of each model's answers: the estimators and the export (training half).

Every estimator stores its settings on construction, learns in ``fit`` (attributes that end in ``_``) and is pure in
``predict``: embeddings (n, 256) in, expected quality (n, M) out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from predictors import artifact
from predictors.artifact import Manifest
from predictors.quality.card import Facts, card
from predictors.quality.evaluation import QualityEstimator
from predictors.quality.knn import KnnEstimator
from predictors.quality.model import FEATURES, KIND, Price, encode
from predictors.quality.splits import Split
from predictors.quality.table import Labelled
from predictors.quality.tuning import PLAIN, SHRUNKEN, Grid, Objective, TunedKnn

Array = NDArray[np.float32]


class PriorQuality:
    """Each model's mean quality, whatever the prompt: as a router, the zero router of the *training* prompts."""

    def fit(self, data: Labelled) -> Self:
        """Learn the means."""
        self.prior_: Array = data.quality.mean(axis=0)
        return self

    def predict(self, embeddings: Array) -> Array:
        """The means (n, M), a row a prompt."""
        means: Array = np.tile(self.prior_, (len(embeddings), 1))
        return means


class RidgeQuality:
    """Linear in the embedding; the penalty by generalised cross-validation inside the training prompts."""

    def __init__(self, alphas: Sequence[float] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)) -> None:
        self.alphas = tuple(alphas)

    def fit(self, data: Labelled) -> Self:
        """Learn one weight vector a model."""
        self.model_ = RidgeCV(alphas=list(self.alphas)).fit(data.embeddings.astype(np.float64), data.quality)
        return self

    def predict(self, embeddings: Array) -> Array:
        """Expected quality (n, M), clipped to [0, 1]."""
        linear = embeddings.astype(np.float64) @ self.model_.coef_.T + self.model_.intercept_
        predicted: Array = np.clip(linear, 0.0, 1.0).astype(np.float32)
        return predicted


def default_estimator() -> TunedKnn:
    """The estimator that ships for open traffic: guarded against tasks it has never seen."""
    return TunedKnn()


def known_tasks_estimator() -> TunedKnn:
    """The estimator that ships where only new prompts of known tasks come: the task suite and its simulated ladder."""
    return TunedKnn(Grid(whiten=(0.0, 0.5, 1.0)), (Split.IN_DOMAIN,), Objective.CALIBRATION)


ESTIMATORS: Final[Mapping[str, Callable[[], QualityEstimator]]] = MappingProxyType(
    {
        "zero_policy": PriorQuality,
        "ridge": RidgeQuality,
        "knn": lambda: TunedKnn(PLAIN, (Split.IN_DOMAIN,)),
        "shrink_knn": lambda: TunedKnn(SHRUNKEN, (Split.IN_DOMAIN,)),
        "default": default_estimator,
    }
)
"""Routers that route by predicted quality. ``default`` is the one that ships."""


def export(
    models: Path,
    knn: KnnEstimator,
    facts: Facts,
    columns: tuple[Sequence[str], Sequence[Price]],
    *,
    created: str,
    held_out: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Manifest:
    """Write a fitted kNN as ``models/quality/NAME/VERSION``; ``columns`` are its models and their prices.

    Raises:
        ArtifactError: the version exists already, or the arguments make no manifest.
    """
    bank = knn.bank(*columns)
    return artifact.write(
        models / KIND / facts.name / str(facts.version),
        kind=KIND,
        name=facts.name,
        version=facts.version,
        features=FEATURES,
        data=facts.data,
        metrics=facts.metrics,
        files={**encode(bank), "card.md": card(bank, facts).encode()},
        created=created,
        held_out=held_out,
        settings={**settings, "estimator": asdict(knn.settings)},
    )
