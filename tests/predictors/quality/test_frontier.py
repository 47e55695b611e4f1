from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from predictors.quality.frontier import (
    LeftRule,
    Sweep,
    aiq,
    apgr,
    choose,
    cpt,
    oracle,
    singles,
    strong_curve,
    sweep,
    upper_hull,
    willingness,
)

LEVELS = st.floats(0, 1, allow_nan=False, width=32)
POINTS = arrays(np.float64, st.tuples(st.integers(1, 12), st.just(2)), elements=LEVELS)


def test_hull_keeps_the_corners_that_a_mixture_cannot_reach() -> None:
    points = [(1.0, 0.2), (2.0, 0.5), (3.0, 0.55), (2.5, 0.3), (4.0, 0.8), (5.0, 0.7)]
    # (3, .55) lies under the segment from (2, .5) to (4, .8); (5, .7) is dearer and worse than (4, .8).
    assert upper_hull(points).tolist() == [[1.0, 0.2], [2.0, 0.5], [4.0, 0.8]]


def test_hull_of_equal_costs_is_the_best_of_them() -> None:
    assert upper_hull([(1.0, 0.2), (1.0, 0.6), (1.0, 0.4)]).tolist() == [[1.0, 0.6]]


def test_hull_drops_points_on_a_segment() -> None:
    assert upper_hull([(0.0, 0.0), (1.0, 0.5), (2.0, 1.0)]).tolist() == [[0.0, 0.0], [2.0, 1.0]]


def test_aiq_by_hand() -> None:
    # Over [1, 4]: from .2 to .6 (mean .4) for a unit of cost, then flat at .6 for two units.
    assert aiq([(1.0, 0.2), (2.0, 0.6)], 1.0, 4.0, LeftRule.ZERO) == pytest.approx((0.4 + 2 * 0.6) / 3)


def test_aiq_left_of_the_cheapest_point() -> None:
    points = [(2.0, 0.8)]
    assert aiq(points, 1.0, 3.0, LeftRule.ZERO) == pytest.approx(0.8 / 2)
    # Mixed with the null router the line from (0, 0) gives .4 at 1 and .8 at 2.
    assert aiq(points, 1.0, 3.0, LeftRule.NULL_ROUTER) == pytest.approx((0.6 + 0.8) / 2)


def test_aiq_cuts_a_hull_that_is_wider_than_the_range() -> None:
    assert aiq([(0.0, 0.0), (10.0, 1.0)], 2.0, 4.0) == pytest.approx(0.3)


def test_aiq_of_a_router_too_dear_for_the_range_is_nothing() -> None:
    assert aiq([(9.0, 1.0)], 1.0, 3.0, LeftRule.ZERO) == 0.0


def test_aiq_is_undefined_where_all_models_cost_the_same() -> None:
    assert np.isnan(aiq([(1.0, 0.5)], 1.0, 1.0))


@given(POINTS, POINTS)
def test_aiq_never_falls_when_points_are_added(few: np.ndarray, more: np.ndarray) -> None:
    for left in LeftRule:
        assert aiq(np.vstack([few, more]), 0.1, 0.9, left) >= aiq(few, 0.1, 0.9, left) - 1e-12


@given(POINTS)
def test_the_hull_is_over_every_point_and_rises_ever_more_slowly(points: np.ndarray) -> None:
    hull = upper_hull(points)
    inside = points[points[:, 0] >= hull[0, 0]]
    assert (np.interp(inside[:, 0], hull[:, 0], hull[:, 1]) >= inside[:, 1] - 1e-12).all()
    slopes = np.diff(hull[:, 1]) / np.diff(hull[:, 0])
    assert (slopes > 0).all()
    assert (np.diff(slopes) < 1e-9 * np.abs(slopes[:-1]) + 1e-12).all()


@given(POINTS, st.randoms())
def test_the_hull_does_not_depend_on_the_order_of_the_points(points: np.ndarray, random: object) -> None:
    shuffled = points.tolist()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert np.array_equal(upper_hull(shuffled), upper_hull(points))


def test_a_tie_goes_to_the_cheaper_model() -> None:
    quality, costs = np.array([[0.5, 0.9, 0.9]]), np.array([[1.0, 3.0, 2.0]])
    assert choose(quality, costs, np.inf).tolist() == [2]
    assert choose(quality, costs, 0.0).tolist() == [0]


def test_willingness_to_pay_decides_between_cheap_and_good() -> None:
    quality, costs = np.array([[0.5, 0.9]]), np.array([[1.0, 2.0]])
    # The dear model is worth it from (2 - 1) / (0.9 - 0.5) = 2.5 on.
    assert choose(quality, costs, 2.4).tolist() == [0]
    assert choose(quality, costs, 2.6).tolist() == [1]


@given(st.integers(0, 10_000))
def test_no_router_beats_the_oracle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    quality = (rng.random((30, 3)) < 0.5).astype(np.float64)
    costs = np.array([1.0, 2.0, 5.0]) * (0.5 + rng.random((30, 1)))
    lams, ends = willingness(costs), (float(costs.mean(axis=0).min()), float(costs.mean(axis=0).max()))
    best = oracle(quality, costs, lams).points()
    for predicted in (rng.random((30, 3)), np.tile(quality.mean(axis=0), (30, 1)), quality):
        routed = sweep(predicted, quality, costs, lams).points()
        assert aiq(best, *ends) >= aiq(routed, *ends) - 1e-9
        assert best[-1, 1] >= routed[-1, 1]
    assert aiq(best, *ends) >= aiq(singles(quality, costs).points(), *ends) - 1e-9


def test_the_oracle_does_not_pay_for_prompts_that_nobody_can_answer() -> None:
    quality, costs = np.array([[0.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    assert oracle(quality, costs, np.array([np.inf])).points().tolist() == [[1.0, 0.5]]


def test_singles_end_with_the_best_and_of_equals_the_cheapest() -> None:
    quality, costs = np.array([[0.9, 0.1, 0.9]]), np.array([[3.0, 1.0, 2.0]])
    assert singles(quality, costs).points().tolist() == [[1.0, 0.1], [3.0, 0.9], [2.0, 0.9]]


def test_points_can_count_prompts_several_times() -> None:
    got = Sweep(np.array([[1.0], [3.0]]), np.array([[0.0], [1.0]])).points(np.array([1.0, 3.0]))
    assert got.tolist() == [[2.5, 0.75]]


def test_strong_curve_and_its_areas_by_hand() -> None:
    weak, strong = [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]
    # Perfectly ranked, half of the calls recover the whole gap.
    perfect = strong_curve([4.0, 3.0, 2.0, 1.0], weak, strong)
    assert perfect.tolist() == [[0.0, 0.5], [0.25, 0.75], [0.5, 1.0], [0.75, 1.0], [1.0, 1.0]]
    assert apgr(perfect) == pytest.approx(0.75)
    assert cpt(perfect, 0.5) == pytest.approx(0.25)
    assert cpt(perfect, 0.8) == pytest.approx(0.4)


def test_equal_advantages_are_a_coin_flip() -> None:
    curve = strong_curve([1.0, 1.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0])
    assert apgr(curve) == pytest.approx(0.5)
    assert cpt(curve, 0.5) == pytest.approx(0.5)


def test_no_gap_between_the_two_models_leaves_the_metrics_undefined() -> None:
    curve = strong_curve([2.0, 1.0], [1.0, 0.0], [0.0, 1.0])
    assert np.isnan(apgr(curve))
    assert np.isnan(cpt(curve, 0.5))


def test_weights_on_the_strong_curve_repeat_prompts() -> None:
    weighted = strong_curve([2.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 3.0])
    repeated = strong_curve([2.0, 1.0, 1.0, 1.0], [0.0] * 4, [1.0, 0.0, 0.0, 0.0])
    assert np.allclose(weighted, repeated)
