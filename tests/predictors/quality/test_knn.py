from __future__ import annotations

import numpy as np
import pytest

from predictors.quality.knn import KnnEstimator, evenly, fit_metric, own_familiarity, threshold
from predictors.quality.neighbours import KnnSettings
from tests.predictors.quality.labels import clusters


def test_it_learns_the_clusters() -> None:
    knn, new = KnnEstimator(KnnSettings(k=20)).fit(clusters()), clusters(seed=1)
    assert np.abs(knn.predict(new.embeddings) - new.quality).mean() < 0.2


def test_the_constructor_only_stores() -> None:
    assert set(vars(KnnEstimator())) == {"settings"}


def test_a_guard_gives_the_prior_to_as_many_prompts_as_it_says() -> None:
    guarded = KnnEstimator(KnnSettings(k=20, guard=0.5)).fit(clusters(600))
    predicted = guarded.predict(clusters(600, seed=1).embeddings)
    assert np.isclose(predicted, guarded.prior_).all(axis=1).mean() == pytest.approx(0.5, abs=0.12)


def test_full_whitening_makes_all_axes_count_the_same() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(4000, 6)) * [5, 3, 2, 1, 0.7, 0.5] + 4.0).astype(np.float32)
    metric = fit_metric(rows, 1.0)
    rotated = (rows - metric.centre) @ metric.axes
    spread = rotated.std(axis=0)
    assert spread.max() / spread.min() == pytest.approx(1.0, abs=0.05)
    assert np.abs(np.corrcoef(rotated, rowvar=False) - np.eye(6)).max() < 0.01


def test_half_whitening_lies_between() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(4000, 3)) * [9, 3, 1]).astype(np.float32)
    half = fit_metric(rows, 0.5)
    spread = np.sort(((rows - half.centre) @ half.axes).std(axis=0))
    assert spread[-1] / spread[0] == pytest.approx(3.0, rel=0.05)


def test_few_prompts_do_not_blow_up_the_axes_they_do_not_span() -> None:
    rows = clusters(40).embeddings
    axes = fit_metric(rows, 1.0).axes
    lengths = np.linalg.norm(axes, axis=0)
    assert lengths.max() / lengths.min() < 10.0


def test_familiarity_leaves_the_prompt_itself_out() -> None:
    apart = np.eye(30, dtype=np.float32)
    assert own_familiarity(apart).max() == 0.0
    assert own_familiarity(apart[:1]).tolist() == [1.0]


def test_evenly_takes_the_ends() -> None:
    assert evenly(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly(3, 10).tolist() == [0, 1, 2]


def test_a_quantile_of_nothing_refuses_nothing() -> None:
    assert threshold(np.array([0.2, 0.4], np.float32), 0.0) == -1.0
    assert threshold(np.array([0.2, 0.4], np.float32), 0.5) == pytest.approx(0.3)
