from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.quality.neighbours import ANCHORS, KnnSettings, estimate, metric, nearest, plain_metric
from tests.predictors.quality.labels import unit


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_nearest_agrees_with_sorting_everything(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    bank, queries = (plain_metric(8)(unit(rng.normal(size=(n, 8)))) for n in (25, 6))
    found = nearest(queries, bank, k)
    everything = np.sort(queries @ bank.T, axis=1)[:, ::-1]
    assert np.array_equal(found.similarity, everything[:, :k])
    assert np.array_equal(np.take_along_axis(queries @ bank.T, found.rows, axis=1), found.similarity)


def test_many_queries_go_in_blocks() -> None:
    rng = np.random.default_rng(0)
    bank, queries = (plain_metric(4)(unit(rng.normal(size=(n, 4)))) for n in (20, 1100))
    whole, alone = nearest(queries, bank, 3), nearest(queries[1050:1051], bank, 3)
    assert np.array_equal(whole.similarity[1050], alone.similarity[0])
    assert np.array_equal(whole.rows[1050], alone.rows[0])


def test_estimate_by_hand() -> None:
    bank = np.array([[1.0, 0.0], [0.6, 0.8]], dtype=np.float32)
    quality = np.array([[1.0], [0.0]], dtype=np.float32)
    prior = np.array([0.5], dtype=np.float32)
    found = nearest(np.array([[1.0, 0.0]], dtype=np.float32), bank, 2)
    got = estimate(found, quality, prior, KnnSettings(k=2, kappa=1.0, power=2.0), guard=-1.0)
    # Weights 1 and .36; (1 · 1 + .36 · 0 + 1 · .5) / (1 + .36 + 1).
    assert got[0, 0] == pytest.approx(1.5 / 2.36)


def test_an_unfamiliar_prompt_gets_the_prior() -> None:
    bank = unit(np.eye(2, 4) + 0.01)
    quality, prior = np.array([[1.0], [1.0]], dtype=np.float32), np.array([0.3], dtype=np.float32)
    found = nearest(np.array([[0.0, 0.0, 0.0, 1.0]], dtype=np.float32), bank, 2)
    assert estimate(found, quality, prior, KnnSettings(k=2), guard=0.5)[0, 0] == pytest.approx(0.3)
    assert estimate(found, quality, prior, KnnSettings(k=2, kappa=0.0), guard=-1.0)[0, 0] == pytest.approx(1.0)


def test_no_evidence_at_all_is_the_prior_without_a_division_by_zero() -> None:
    bank = np.array([[1.0, 0.0]], dtype=np.float32)
    found = nearest(np.array([[-1.0, 0.0]], dtype=np.float32), bank, 1)
    got = estimate(found, np.ones((1, 1), np.float32), np.array([0.2], np.float32), KnnSettings(k=1, kappa=0.0), -2.0)
    assert got[0, 0] == pytest.approx(0.2)


@given(st.integers(0, 10_000), st.floats(0, 50), st.floats(0, 4))
def test_estimates_stay_between_the_known_extremes(seed: int, kappa: float, power: float) -> None:
    rng = np.random.default_rng(seed)
    bank, queries = unit(rng.normal(size=(30, 5))), unit(rng.normal(size=(7, 5)))
    quality = rng.random((30, 2)).astype(np.float32)
    settings = KnnSettings(k=12, kappa=kappa, power=power)
    got = estimate(nearest(queries, bank, 12), quality, quality.mean(axis=0), settings, guard=-1.0)
    assert (got >= quality.min(axis=0) - 1e-5).all()
    assert (got <= quality.max(axis=0) + 1e-5).all()


def test_more_shrinkage_is_nearer_to_the_prior() -> None:
    rng = np.random.default_rng(1)
    bank, quality = unit(rng.normal(size=(30, 5))), (rng.random((30, 2)) < 0.5).astype(np.float32)
    prior, found = quality.mean(axis=0), nearest(bank[:4], bank, 5)
    away = [
        float(np.abs(estimate(found, quality, prior, KnnSettings(k=5, kappa=kappa), -1.0) - prior).sum())
        for kappa in (0.0, 1.0, 10.0, 1e6)
    ]
    assert away == sorted(away, reverse=True)
    assert away[-1] == pytest.approx(0.0, abs=1e-3)


def test_familiarity_is_the_mean_of_the_nearest_few() -> None:
    bank = unit(np.random.default_rng(2).normal(size=(40, 6)))
    found = nearest(bank[:3], bank, 20)
    assert np.allclose(found.familiarity, found.similarity[:, :ANCHORS].mean(axis=1))
    assert (found.without_first().familiarity < found.familiarity).all()


def test_the_plain_metric_only_rounds() -> None:
    rows = unit(np.random.default_rng(3).normal(size=(5, 6)))
    assert np.abs(plain_metric(6)(rows) - rows).max() <= 2**-11


@given(st.integers(0, 10_000))
def test_points_and_their_products_do_not_depend_on_the_batch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    compare = metric(0.1 * rng.normal(size=64), 3 * rng.normal(size=(64, 64)))
    rows = unit(rng.normal(size=(17, 64)))
    points = compare(rows)
    products = points @ points.T
    for i in range(17):
        assert np.array_equal(compare(rows[i : i + 1])[0], points[i])
        assert np.array_equal(points @ points[i], products[i])
    exact = points.astype(np.float64) @ points.astype(np.float64).T
    assert np.array_equal(products.astype(np.float64), exact)


def test_a_text_without_a_token_is_like_nothing() -> None:
    assert not metric(np.full(3, 0.5), np.eye(3))(np.zeros((1, 3), dtype=np.float32)).any()


@pytest.mark.parametrize("wrong", [{"k": 0}, {"kappa": -1.0}, {"power": -0.1}, {"guard": 1.0}, {"whiten": 2.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        KnnSettings(**wrong)  # type: ignore[arg-type]
