from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from predictors.artifact import ArtifactExists, DataSource
from predictors.quality.card import Facts
from predictors.quality.knn import KnnEstimator
from predictors.quality.model import KnnQuality
from predictors.quality.neighbours import KnnSettings
from predictors.quality.train import ESTIMATORS, PriorQuality, RidgeQuality, export
from predictors.types import Interval
from tests.predictors.quality.labels import MODELS, PRICES, clusters

FACTS = Facts(
    name="test",
    version=3,
    purpose="For a test.",
    data=[DataSource("made up", "Apache-2.0", "0" * 64, 240)],
    metrics={"aiq": Interval(0.5, 0.4, 0.6), "apgr": None},
    held_out="None.",
    costs="None.",
    limits=("It knows two clusters.",),
)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_every_estimator_learns_and_predicts_purely(name: str) -> None:
    data, new = clusters(120), clusters(15, seed=1).embeddings
    estimator = ESTIMATORS[name]()
    assert not [attribute for attribute in vars(estimator) if attribute.endswith("_")]
    assert estimator.fit(data) is estimator
    predicted = estimator.predict(new)
    assert predicted.shape == (15, 3)
    assert predicted.dtype == np.float32
    assert ((predicted >= 0) & (predicted <= 1)).all()
    assert np.array_equal(predicted, estimator.predict(new))


@pytest.mark.parametrize("name", ["ridge", "knn", "shrink_knn", "default"])
def test_what_looks_at_the_prompt_beats_the_mean(name: str) -> None:
    data, new = clusters(90), clusters(100, seed=1)
    errors = [
        float(((estimator.fit(data).predict(new.embeddings) - new.quality) ** 2).mean())
        for estimator in (ESTIMATORS[name](), PriorQuality())
    ]
    assert errors[0] < 0.7 * errors[1]


def test_ridge_keeps_to_probabilities() -> None:
    data = clusters(60, noise=0.1)
    assert RidgeQuality(alphas=(0.01,)).fit(data).predict(3 * data.embeddings).max() <= 1.0


def test_export_writes_what_serving_loads(tmp_path: Path) -> None:
    knn = KnnEstimator(KnnSettings(k=10)).fit(clusters())
    manifest = export(tmp_path, knn, FACTS, (MODELS, PRICES), created="now", held_out={"made up": 1}, settings={"a": 1})
    loaded = KnnQuality.load(tmp_path / manifest.ref)
    new = clusters(9, seed=4).embeddings
    assert np.array_equal(loaded.predict(new).quality, knn.predict(new))
    assert manifest.settings["estimator"]["k"] == 10
    assert manifest.held_out == {"made up": 1}
    card = (tmp_path / manifest.ref / "card.md").read_text()
    assert "0.5 [0.4, 0.6]" in card
    assert "Apache-2.0" in card
    with pytest.raises(ArtifactExists):
        export(tmp_path, knn, FACTS, (MODELS, PRICES), created="now", held_out={}, settings={})
