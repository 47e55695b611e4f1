from __future__ import annotations

from dataclasses import replace

import pytest

from envs.scenarios import WorkloadKind
from rl import tune as tuning
from rl.play import named_tier
from rl.tune import objective, points, static_mixes, thresholds, tune
from tests.envs.worlds import SCENARIO, source


def test_the_grids_hold_what_they_should() -> None:
    mixes = list(static_mixes(SCENARIO))
    assert all(sum(mix.values()) == pytest.approx(1.0) for mix in mixes)
    assert {"small": 1.0} in mixes
    assert {"small": 0.25, "medium": 0.25, "large": 0.5} in mixes
    assert all(set(options["waits_s"]) == {"medium", "large"} for options in thresholds(SCENARIO))


def test_the_best_of_the_grid_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_WAITS_S", (0.5, 2.0))
    monkeypatch.setattr(tuning, "_REOPEN", (0.9,))
    monkeypatch.setattr(tuning, "_SHARES", 1)
    monkeypatch.setattr(tuning, "_MARGINS", (0.01, 0.5))
    short = replace(SCENARIO, duration_s=6.0, bursts=((1.0, 4.0),))
    episodes = [source(short).draw(0, WorkloadKind.BURSTY)]
    calls: list[None] = []
    found = tune(episodes, progress=lambda: calls.append(None))
    assert len(calls) == points(short) == 4 + 3 + 2
    assert found.margin == 0.5
    each = {pool: objective(episodes, named_tier("static", {"pool": pool})) for pool in ("small", "medium", "large")}
    assert found.reached["static_mix"] == pytest.approx(max(each.values()))
    assert found.mix == {max(each, key=lambda pool: each[pool]): 1.0}
    by_hand = [objective(episodes, named_tier("threshold", options)) for options in thresholds(short)]
    assert found.reached["threshold"] == pytest.approx(max(by_hand))
