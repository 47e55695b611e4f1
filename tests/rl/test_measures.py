from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from controller.types import Result
from envs.episode import Episode
from envs.fleet import Ended
from predictors.types import Interval
from rl.measures import figures, intervals, paired, windows_above
from rl.play import Play
from tests.envs.worlds import SCENARIO, source

DRAWN = source(replace(SCENARIO, duration_s=20.0)).draw(0)


def _play(fates: list[tuple[float, Result, float]]) -> Play:
    """Requests at given times that end as given after so many seconds, all in the large pool."""
    requests = tuple(replace(DRAWN.requests[i], at=at, index=i) for i, (at, _, _) in enumerate(fates))
    episode: Episode = replace(DRAWN, requests=requests, rows=DRAWN.rows[: len(fates)])
    ended = [
        Ended(
            request,
            request.at + seconds,
            result,
            "large" if result is Result.COMPLETED else None,
            None,
            request.at + 0.5,
        )
        for request, (_, result, seconds) in zip(requests, fates, strict=True)
    ]
    return Play(episode, ended)


PLAY = _play(
    [
        (1.0, Result.COMPLETED, 1.0),
        (2.0, Result.COMPLETED, 9.0),  # late: the deadline is 5 s
        (3.0, Result.REJECTED, 0.0),
        (12.0, Result.COMPLETED, 2.0),
    ]
)


def test_figures_by_hand() -> None:
    found = figures(PLAY)
    quality = PLAY.episode.quality[:, 2]
    peak = PLAY.episode.quality.max(axis=1)
    assert found["requests"] == 4
    assert found["availability"] == pytest.approx(2 / 4)
    assert found["rejected"] == pytest.approx(1 / 4)
    assert found["quality"] == pytest.approx((quality[0] + quality[1] + quality[3]) / 4)
    assert found["share_of_peak"] == pytest.approx((quality[0] + quality[3]) / peak.sum())
    assert found["goodput_rps"] == pytest.approx(2 / 20)
    assert found["e2e_p50"] == pytest.approx(2.0)
    assert found["ttft_p50"] == pytest.approx(0.5)


def test_windows_by_hand() -> None:
    # The first ten seconds lose two of three requests; the second ten are served at their peak by the large pool.
    assert windows_above(PLAY, 0.96) == pytest.approx(0.5)
    assert windows_above(PLAY, 0.0) == 1.0
    assert windows_above(PLAY, 0.96, window_s=100.0) == 0.0


def test_nothing_served_leaves_latency_undefined() -> None:
    found = figures(_play([(1.0, Result.REJECTED, 0.0)]))
    assert found["share_of_peak"] == 0.0
    assert math.isnan(found["e2e_p50"])
    assert intervals([found], 0)["e2e_p50"] is None


def test_intervals_hold_the_mean() -> None:
    rows = [{"x": float(value)} for value in np.random.default_rng(0).normal(5, 1, 50)]
    found = intervals(rows, 0)["x"]
    assert isinstance(found, Interval)
    assert found.lo < 5 < found.hi
    assert found.hi - found.lo < 1


def test_paired_differences_are_narrower_than_the_figures() -> None:
    base = np.random.default_rng(0).normal(5, 1, 50)
    ours, theirs = [{"x": v + 0.1} for v in base], [{"x": float(v)} for v in base]
    found = paired(ours, theirs, "x", 0)
    assert found is not None
    assert (found.lo, found.hi) == pytest.approx((0.1, 0.1))
