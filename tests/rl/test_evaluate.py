from __future__ import annotations

from dataclasses import replace

import pytest

from envs.scenarios import WorkloadKind
from rl.baselines import FeasibleBest
from rl.evaluate import Contender, contenders, evaluate, evaluation_episodes, points
from rl.play import named_tier
from rl.train import validation_episodes
from rl.tune import Tuned
from tests.envs.worlds import PROFILES, SCENARIO, source

SOURCE = source(replace(SCENARIO, duration_s=8.0, bursts=((2.0, 6.0),)))
TUNED = Tuned({"wait_s": 1.0}, {"small": 0.5, "medium": 0.5}, 0.5, {})


def test_every_policy_meets_every_workload() -> None:
    policies = contenders(SOURCE, TUNED, {"shipped": FeasibleBest.of(SCENARIO, PROFILES)})  # type: ignore[dict-item]
    names = [(c.policy, c.setting) for c in policies]
    assert names == [
        ("static_small", None),
        ("static_medium", None),
        ("static_large", None),
        ("static_mix", None),
        ("threshold", None),
        ("feasible_best", None),
        ("learned", "shipped"),
    ]
    calls: list[None] = []
    rows = list(evaluate(SOURCE, policies, 2, progress=lambda: calls.append(None)))
    assert len(calls) == points(policies) == len(rows) == 7 * 3
    assert [(r.policy, r.setting, r.workload) for r in rows[:7]] == [(*name, "stable") for name in names]
    by = {(row.policy, row.workload): row.metrics for row in rows}
    # The stand-in for the learned policy is feasible_best itself, so both rows must agree in everything.
    for kind in WorkloadKind:
        assert by["learned", kind.value] == by["feasible_best", kind.value]
        for baseline in ("threshold", "static_mix", "feasible_best"):
            for name in ("availability", "share_of_peak"):
                found = by[baseline, kind.value][f"{name}_over_{baseline}"]
                assert found is not None
                assert (found.value, found.lo, found.hi) == (0.0, 0.0, 0.0)


def test_differences_are_those_of_the_means() -> None:
    policies = [
        Contender("static_large", named_tier("static", {"pool": "large"})),
        Contender("threshold", named_tier("threshold", {"wait_s": 1.0})),
    ]
    large, threshold, *_ = evaluate(SOURCE, policies, 2)
    found = large.metrics["share_of_peak_over_threshold"]
    ours, theirs = large.metrics["share_of_peak"], threshold.metrics["share_of_peak"]
    assert found is not None
    assert ours is not None
    assert theirs is not None
    assert found.value == pytest.approx(ours.value - theirs.value)


def test_evaluation_never_meets_a_validation_seed() -> None:
    ours = {episode.seed for kind in WorkloadKind for episode in evaluation_episodes(SOURCE, kind, 3)}
    theirs = {episode.seed for episode in validation_episodes(SOURCE, 3)}
    assert not ours & theirs
