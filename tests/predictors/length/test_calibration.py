from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.store import ArtifactStore, shipped_models
from predictors.compiled import AVAILABLE
from predictors.length.calibration import Calibration, calibrated
from predictors.length.model import FastLength

KNOTS = st.lists(st.floats(-100, 100), min_size=2, max_size=12, unique=True).filter(
    lambda values: min(np.diff(sorted(values))) > 1e-3
)


@given(KNOTS, st.lists(st.floats(-300, 300), min_size=1, max_size=20))
def test_a_calibration_goes_through_its_knots_and_keeps_order_beyond_them(
    knots: list[float], points: list[float]
) -> None:
    score, rank = np.sort(np.array(knots)), np.cumsum(np.linspace(0.5, 2.0, len(knots)))
    calibration = Calibration.through(score, rank, rank)
    assert calibration.ranks(score) == pytest.approx(rank, abs=1e-6)
    assert (np.diff(calibration.ranks(np.sort(np.array(points)))) >= 0).all()
    assert calibration.ranks(np.array([score[0] - 1.0, score[-1] + 1.0])) == pytest.approx(
        [
            rank[0] - (rank[1] - rank[0]) / (score[1] - score[0]),
            rank[-1] + (rank[-1] - rank[-2]) / (score[-1] - score[-2]),
        ]
    )


def test_a_calibration_can_be_inverted() -> None:
    calibration = Calibration.through(
        np.array([-1.0, 0.0, 2.0]), np.array([0.1, 0.5, 0.9]), np.log([10.0, 20.0, 400.0])
    )
    ranks = np.linspace(-0.2, 1.3, 9)
    assert calibration.ranks_of_tokens(calibration.tokens(ranks)) == pytest.approx(ranks)
    assert calibration.tokens(calibration.ranks(np.array([0.0]))) == pytest.approx([20.0])


@pytest.fixture(scope="module")
def shipped() -> Calibration:
    return FastLength.load(ArtifactStore(shipped_models(), None).resolve("length/fast")).calibration


def one(calibration: Calibration, score: float, limit: float = np.inf) -> tuple[float, float]:
    return calibrated(
        score,
        limit,
        calibration.score,
        calibration.rank,
        calibration.log_tokens,
        calibration.log_high,
        calibration.log_tail,
    )[:2]


@pytest.mark.skipif(not AVAILABLE, reason="without numba the other path is all there is")
@given(score=st.floats(-50, 50))
def test_one_number_is_interpolated_as_numpy_does(shipped: Calibration, score: float) -> None:
    for at in (score, *shipped.score[1:-1].tolist()):
        rank, tokens = one(shipped, at)
        assert rank == shipped.ranks(np.array([at]))[0]
        assert tokens == pytest.approx(shipped.tokens(np.array([rank]))[0], rel=1e-12)


@pytest.mark.skipif(not AVAILABLE, reason="without numba the other path is all there is")
@given(score=st.floats(-3, 3), limit=st.integers(1, 2000))
def test_a_limit_of_tokens_is_kept_and_lowers_the_rank(shipped: Calibration, score: float, limit: int) -> None:
    free, bound = one(shipped, score), one(shipped, score, float(limit))
    if free[1] <= limit:
        assert bound == free
    else:
        assert bound[1] == limit
        assert bound[0] == pytest.approx(shipped.ranks_of_tokens(np.array([float(limit)]))[0], abs=1e-12)
