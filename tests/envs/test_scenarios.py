from __future__ import annotations

from dataclasses import replace
from itertools import takewhile

import numpy as np
import pytest

from envs.scenarios import DEMO, QUEUE, WAVES, Modulated, Scenario, WorkloadKind
from tests.envs.worlds import PROFILES, SCENARIO


def _times(kind: WorkloadKind, seed: int, seconds: float = 400.0) -> np.ndarray:
    process = SCENARIO.arrivals(kind)
    return np.array(list(takewhile(lambda at: at < seconds, process.times(np.random.default_rng(seed)))))


def test_mean_rate_by_hand() -> None:
    assert SCENARIO.mean_rate == pytest.approx((8 * 4 + 8 * 28) / 16)


def test_stable_arrivals_come_at_the_mean_rate() -> None:
    times = _times(WorkloadKind.STABLE, 0)
    assert len(times) / 400 == pytest.approx(SCENARIO.mean_rate, rel=0.05)
    gaps = np.diff(times)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)


def test_bursts_are_where_the_scenario_says() -> None:
    times = np.concatenate([_times(WorkloadKind.BURSTY, seed, 16.0) for seed in range(20)])
    inside = ((times >= 4) & (times < 12)).mean()
    assert inside == pytest.approx(28 / 32, abs=0.02)


def test_unpredictable_arrivals_are_clumped_over_many_rates() -> None:
    times = _times(WorkloadKind.UNPREDICTABLE, 0, 2000.0)
    assert (np.diff(times) >= 0).all()
    counts = np.bincount((times // 2).astype(int), minlength=1000) / 2
    assert counts.var() > 5 * counts.mean() / 2  # far beyond Poisson, whose variance of a rate over 2 s is mean / 2
    assert counts.max() > 20
    assert (counts < 3).mean() > 0.1


def test_rates_must_ascend() -> None:
    with pytest.raises(ValueError, match="ascend"):
        Modulated(2.0, 1.0)


def test_specs_follow_profiles() -> None:
    specs = SCENARIO.pool_specs(PROFILES)
    assert [spec.tier for spec in specs] == [0, 1, 2]
    assert [spec.model for spec in specs] == ["model-small", "model-medium", "model-large"]
    assert specs[0].prior_quality == pytest.approx(0.4)
    assert [worker.name for worker in SCENARIO.worker_specs()] == ["small-0", "medium-0", "large-0"]
    assert SCENARIO.worker_specs({"large-0": "http://there"})[2].url == "http://there"
    assert SCENARIO.service_rates(PROFILES)["large"] == pytest.approx(8 / 0.025)


def test_the_demo_fits_what_is_said_of_it() -> None:
    assert [pool.name for pool in DEMO.pools] == ["small", "medium", "large"]
    assert DEMO.static_pool in {pool.name for pool in DEMO.pools}
    assert set(DEMO.threshold["waits_s"]) <= {pool.name for pool in DEMO.pools}
    assert DEMO.duration_s <= 50
    assert DEMO.bursts[-1][1] < DEMO.duration_s


@pytest.mark.parametrize("scenario", [DEMO, QUEUE, WAVES], ids=lambda scenario: scenario.name)
def test_what_ships_is_consistent(scenario: Scenario) -> None:
    names = {pool.name for pool in scenario.pools}
    assert scenario.static_pool in names
    assert set(scenario.threshold.get("waits_s", {})) <= names
    assert scenario.bursts[-1][1] < scenario.duration_s
    assert scenario.pool(scenario.static_pool).name == scenario.static_pool


def test_waves_last_longer_than_an_engine_takes_to_start() -> None:
    assert all(end - start > 128.0 for start, end in WAVES.bursts)


def test_workers_may_schedule_by_priority() -> None:
    pool = replace(SCENARIO.pools[0], priority_scheduling=True)
    assert pool.worker("small-0").priority_scheduling
    assert not SCENARIO.worker_specs()[0].priority_scheduling
