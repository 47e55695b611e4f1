from __future__ import annotations

from dataclasses import replace

from predictors.quality.card import card
from predictors.quality.knn import KnnEstimator
from predictors.quality.neighbours import KnnSettings
from tests.predictors.quality.labels import MODELS, PRICES, clusters
from tests.predictors.quality.test_train import FACTS


def test_the_card_names_models_data_limits_and_settings() -> None:
    bank = KnnEstimator(KnnSettings(k=10, guard=0.25)).fit(clusters()).bank(MODELS, PRICES)
    text = card(bank, FACTS)
    for word in (
        "# quality/test/3",
        *MODELS,
        "made up",
        "k = 10",
        "25% quantile",
        "two clusters",
        "`apgr` | undefined",
    ):
        assert word in text
    assert "25%" not in card(replace(bank, settings=KnnSettings(k=10)), FACTS)
