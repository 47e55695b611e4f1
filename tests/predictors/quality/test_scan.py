from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.store import ArtifactStore, shipped_models
from predictors.compiled import AVAILABLE
from predictors.embedding import DIMENSIONS
from predictors.quality.knn import KnnEstimator
from predictors.quality.model import KnnQuality
from predictors.quality.neighbours import KnnSettings
from predictors.quality.scan import _halved
from predictors.quality.table import Labelled
from tests.predictors.quality.labels import MODELS, PRICES, clusters, unit

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="without numba the other path is all there is")


def fitted(settings: KnnSettings, data: Labelled | None = None) -> KnnQuality:
    estimator = KnnEstimator(settings).fit(data or clusters())
    return KnnQuality(estimator.bank(MODELS, PRICES))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(10, 100),
    kappa=st.sampled_from([0.0, 0.3, 5.0]),
    power=st.sampled_from([0.0, 1.0, 2.0, 3.5]),
    whiten=st.sampled_from([0.0, 0.5, 1.0]),
    guard=st.sampled_from([0.0, 0.5]),
)
def test_one_prompt_at_a_time_gives_what_all_together_give(
    seed: int, k: int, kappa: float, power: float, whiten: float, guard: float
) -> None:
    model = fitted(KnnSettings(k, kappa, power, guard, whiten))
    assert model._scan.usable
    near = clusters(6, seed).embeddings
    far = unit(np.random.default_rng(seed).normal(size=(3, DIMENSIONS)))
    queries = np.vstack([near, far, -near[:1], np.zeros((1, DIMENSIONS), np.float32)])
    alone, together = model.predict(queries), model._together(queries)
    assert alone.quality == pytest.approx(together.quality, abs=1e-6)
    assert np.abs(alone.quality - together.quality).max() <= 2**-23
    assert np.array_equal(alone.familiarity, together.familiarity)
    assert np.array_equal(alone.in_distribution, together.in_distribution)
    assert (alone.quality.dtype, alone.familiarity.dtype) == (np.float32, np.float32)
    for query, quality, known in zip(queries, alone.quality, alone.in_distribution, strict=True):
        assert model.predict_one(query) == (quality.tolist(), known)


def test_the_shipped_bank_gives_the_same_bits() -> None:
    model = KnnQuality.load(ArtifactStore(shipped_models(), None).resolve("quality/llmrouter"))
    assert model._scan.usable
    rng = np.random.default_rng(0)
    near = model.bank.points[rng.choice(len(model.bank.points), 40)] + rng.normal(scale=0.03, size=(40, DIMENSIONS))
    queries = np.vstack([unit(near), np.eye(2, DIMENSIONS)]).astype(np.float32)
    alone, together = model.predict(queries), model._together(queries)
    assert np.abs(alone.quality - together.quality).max() <= 2**-23
    assert np.array_equal(alone.familiarity, together.familiarity)


@pytest.mark.parametrize("size", [1, 127, 128, 716, 2048])
def test_coarse_halves_and_rests_are_bounded(size: int) -> None:
    points = np.random.default_rng(size).integers(-size, size + 1, (50, DIMENSIONS)).astype(np.int16)
    points[0, :2] = size, -size
    coarse, scale, (rest, reach) = _halved(points)
    whole = (coarse.astype(np.int64) - 128) * scale
    assert (coarse.dtype, whole.shape) == (np.uint8, points.shape)
    assert np.abs(points - whole).max() <= scale * 0.5001
    assert np.linalg.norm(points - whole, axis=1).max() == pytest.approx(rest)
    assert np.linalg.norm(whole, axis=1).max() == pytest.approx(reach)


def test_neighbours_that_tie_for_the_last_place_are_left_to_the_others() -> None:
    data = clusters(60)
    twice = Labelled(*(np.concatenate([part, part]) for part in (
        data.embeddings, data.quality, data.costs, data.tasks, data.keys
    )))  # fmt: skip
    model = fitted(KnnSettings(k=11), twice)
    query = data.embeddings[0]
    assert model._scan.judge(query) is None
    assert np.array_equal(model.predict(query[None]).quality, model._together(query[None]).quality)


def test_a_bank_that_is_too_small_has_no_scan() -> None:
    model = fitted(KnnSettings(k=300))
    assert not model._scan.usable
    assert model.predict(clusters(3, 1).embeddings).quality.shape == (3, 3)
