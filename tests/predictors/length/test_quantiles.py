from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.length.per_model import PerModelMap
from predictors.length.quantiles import fit_curves, limited_tail


def answers(count: int, seed: int = 0, spread: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Ranks, and lengths whose logarithms are normal around a line of them."""
    rng = np.random.default_rng(seed)
    ranks = rng.random(count)
    return ranks, np.exp(4.0 + 2.0 * ranks + spread * rng.standard_normal(count))


def test_the_quantile_covers_nine_of_ten_new_answers_at_every_rank() -> None:
    ranks, tokens = answers(1500)
    curves = fit_curves(ranks, tokens, np.arange(1500), 8)
    fresh, truth = answers(20_000, seed=1)
    _, high, _ = curves.at(fresh)
    assert (truth <= high).mean() == pytest.approx(0.9, abs=0.02)
    for low in (0.1, 0.4, 0.7):
        there = (fresh >= low) & (fresh < low + 0.2)
        assert (truth <= high)[there].mean() == pytest.approx(0.9, abs=0.05)


def test_mean_and_tail_are_those_of_the_answers() -> None:
    ranks, tokens = answers(20_000)
    mean, high, tail = fit_curves(ranks, tokens, np.arange(20_000), 16).at(np.array([0.5]))
    near = tokens[np.abs(ranks - 0.5) < 0.03]
    assert mean[0] == pytest.approx(near.mean(), rel=0.06)
    assert high[0] == pytest.approx(np.quantile(near, 0.9), rel=0.08)
    assert tail[0] == pytest.approx(near[near >= np.quantile(near, 0.9)].mean(), rel=0.1)


def test_the_limited_tail_is_the_mean_of_limited_answers() -> None:
    high, tail = np.array([100.0]), np.array([150.0])
    beyond = high + np.random.default_rng(0).exponential(50.0, 200_000)
    for limit in (50.0, 110.0, 180.0, 1e9):
        found = limited_tail(high, tail, np.array([limit]))[0]
        assert found == pytest.approx(np.minimum(beyond, limit).mean(), rel=0.01)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 1e5)), min_size=1, max_size=80),
    pieces=st.integers(1, 12),
    limit=st.integers(1, 10_000),
)
def test_any_answers_give_curves_in_order(pairs: list[tuple[float, float]], pieces: int, limit: int) -> None:
    ranks, tokens = np.array(pairs).T
    curves = fit_curves(ranks, tokens, np.arange(len(ranks)), pieces)
    at = np.linspace(-6, 6, 50)
    mean, high, tail = curves.at(at)
    assert all((np.diff(values) >= -1e-9 * values[1:]).all() for values in (mean, high, tail))
    assert (mean <= high * (1 + 1e-9)).all()
    assert (high <= tail * (1 + 1e-9)).all()
    assert all((values <= limit).all() for values in curves.at(at, np.full(50, float(limit))))


def test_a_map_learns_its_own_model_online() -> None:
    found = PerModelMap(memory=600)
    assert found.predict(np.array([0.5])) is None
    for rank, tokens in zip(*answers(900), strict=True):
        found.observe(float(rank), float(tokens))
    fresh, truth = answers(5000, seed=2)
    predicted = found.predict(fresh)
    assert predicted is not None
    assert len(found) == 600
    assert (truth <= predicted[1]).mean() == pytest.approx(0.9, abs=0.04)
    assert np.mean(predicted[0]) == pytest.approx(truth.mean(), rel=0.1)


def test_a_map_forgets_what_the_model_was_like() -> None:
    found = PerModelMap(memory=300)
    ranks, tokens = answers(300)
    found.fit(ranks, tokens)
    before = found.predict(np.array([0.5]))
    for rank, length in zip(ranks, 5.0 * tokens, strict=True):
        found.observe(float(rank), float(length))
    after = found.predict(np.array([0.5]))
    assert before is not None
    assert after is not None
    assert after[0][0] > 4.0 * before[0][0]


def test_an_exported_map_goes_on_the_same() -> None:
    one = PerModelMap(memory=200).fit(*answers(150))
    other = PerModelMap.load(one.export())
    for rank, tokens in zip(*answers(120, seed=3), strict=True):
        one.observe(float(rank), float(tokens))
        other.observe(float(rank), float(tokens))
    assert one.export() == other.export()
    left, right = one.predict(np.linspace(0, 1, 9), [5] * 9), other.predict(np.linspace(0, 1, 9), [5] * 9)
    assert left is not None
    assert right is not None
    assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))
    assert left[0].max() <= 5


@pytest.mark.parametrize("encoded", [b"", b"{}", b"[]", b'{"memory": 0, "pieces": 1}'])
def test_what_is_no_map_is_refused(encoded: bytes) -> None:
    with pytest.raises(ValueError, match="not a map"):
        PerModelMap.load(encoded)


@pytest.mark.parametrize(("rank", "tokens"), [(float("nan"), 1.0), (0.0, -1.0), (0.0, float("inf"))])
def test_answers_that_cannot_be_are_refused(rank: float, tokens: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        PerModelMap().observe(rank, tokens)
    with pytest.raises(ValueError, match="finite"):
        PerModelMap().fit(np.array([rank]), np.array([tokens]))
