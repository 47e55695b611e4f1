from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controller.best_effort import BestEffort
from controller.errors import UnknownArtifact
from controller.observation import Codec, Mask, Observation
from controller.pipeline import ControlPlane
from controller.policy import PolicyDecision, PolicyFailed, load_policy
from controller.protocols import Resources
from controller.settings import ControlSettings
from controller.store import ArtifactStore
from controller.tier import Threshold, ThresholdOptions
from controller.types import Choice, PoolSpec, Scores
from tests.controller.planes import LADDER, plane, record_of, sent, serve_all, stages, submit
from tests.controller.policies import by_quality, write_policy

SCORES = Scores(length_rank=0.1, output_tokens=50.0, quality={"small": 0.9, "medium": 0.3, "large": 0.5})


def driven(policy: Callable[[Observation, Mask], PolicyDecision], slots: int = 3) -> ControlPlane:
    stage = BestEffort(policy, Threshold(ThresholdOptions()), codec=Codec(slots))
    return plane(replace(stages({}), tier=stage), pools=LADDER, workers=1, max_inflight=8)


def tier_of(control: ControlPlane, name: str) -> Choice:
    return [choice for choice in record_of(control, name).choices if choice.stage == "tier"][-1]


def test_an_external_policy_drives_the_same_control_plane() -> None:
    seen: list[tuple[Observation, Mask]] = []

    def policy(observation: Observation, mask: Mask) -> PolicyDecision:
        seen.append((observation, mask))
        return PolicyDecision(1, (0.0, 2.0, 1.0), propensity=0.25)

    control = driven(policy)
    submit(control, "a", 0.0)
    context = control.tier_context("a", SCORES, 0.0)
    assert context is not None
    stage = control.stages.tier
    assert isinstance(stage, BestEffort)
    expected, mask = stage.observe(context)
    control.on_scores("a", SCORES, 0.0)
    serve_all(control, 0.0)
    assert len(seen) == 1
    assert np.array_equal(seen[0][0], expected)
    assert np.array_equal(seen[0][1], mask)
    choice = tier_of(control, "a")
    assert (choice.chosen, choice.by, choice.propensity, choice.fallback) == ("medium", "best_effort", 0.25, None)
    assert choice.features == pytest.approx(tuple(expected.tolist()))
    assert [alternative.score for alternative in choice.alternatives] == [0.0, 2.0, 1.0]
    assert control.counters()["tier", "best_effort", "scored"] == 1


def test_an_action_that_the_mask_forbids_is_a_programming_error() -> None:
    control = driven(lambda observation, mask: PolicyDecision(2, (0.0, 0.0, 0.0)))
    control.remove_worker("large-0", 0.0)
    submit(control, "a", 0.0)
    with pytest.raises(ValueError, match="mask"):
        control.on_scores("a", SCORES, 0.0)


def test_a_policy_that_fails_is_stood_in_for() -> None:
    def policy(observation: Observation, mask: Mask) -> PolicyDecision:
        raise PolicyFailed("not_finite")

    control = driven(policy)
    submit(control, "a", 0.0, SCORES)
    serve_all(control, 0.0)
    assert (tier_of(control, "a").by, tier_of(control, "a").fallback) == ("threshold", "policy_failed: not_finite")


def test_more_pools_than_the_policy_knows_are_left_to_the_fallback() -> None:
    control = driven(lambda observation, mask: PolicyDecision(0, (1.0, 0.0)), slots=2)
    submit(control, "a", 0.0, SCORES)
    serve_all(control, 0.0)
    assert tier_of(control, "a").fallback == "too_many_pools"


def shipped(tmp_path: Path, **changes: object) -> Resources:
    codec = Codec(3)
    write_policy(tmp_path / "policy" / "best-effort" / "1", codec, by_quality(codec), name="best-effort", **changes)
    return Resources(pools=LADDER, artifacts=ArtifactStore(tmp_path, None))


def from_store(resources: Resources) -> ControlPlane:
    return plane(stages({"tier": "best_effort"}, resources), pools=LADDER, max_inflight=8)


def test_a_trained_policy_decides_and_is_named_in_the_record(tmp_path: Path) -> None:
    resources = shipped(tmp_path)
    control = from_store(resources)
    submit(control, "a", 0.0, SCORES)
    serve_all(control, 0.0)
    choice = tier_of(control, "a")
    assert (choice.chosen, choice.by, choice.fallback) == ("small", "best_effort", None)
    assert choice.artifact == load_policy(tmp_path / "policy" / "best-effort" / "1").sha256


def test_outside_the_range_of_training_the_threshold_decides(tmp_path: Path) -> None:
    codec = Codec(3)
    ranges = [[float(low), float(high)] for low, high in zip(codec.low, codec.high, strict=True)]
    ranges[codec.names.index("prompt_tokens")] = [0.0, 1.0]
    control = from_store(shipped(tmp_path, settings={"ranges": ranges}))
    submit(control, "a", 0.0, SCORES)
    serve_all(control, 0.0)
    assert (tier_of(control, "a").by, tier_of(control, "a").fallback) == ("threshold", "out_of_distribution")
    assert control.fallbacks()["tier", "best_effort", "out_of_distribution"] == 1


@pytest.mark.parametrize(
    ("scores", "why", "reason"),
    [(None, "error", "error"), (Scores(), "", "no_prediction")],
)
def test_without_scores_the_threshold_decides(scores: Scores | None, why: str, reason: str) -> None:
    control = driven(lambda observation, mask: PolicyDecision(0, (1.0, 0.0, 0.0)))
    submit(control, "a", 0.0)
    control.on_scores("a", scores, 0.0, why)
    serve_all(control, 0.0)
    assert (tier_of(control, "a").chosen, tier_of(control, "a").fallback) == ("large", reason)


def test_scores_that_never_come_are_given_up_by_the_clock() -> None:
    control = driven(lambda observation, mask: PolicyDecision(0, (1.0, 0.0, 0.0)))
    submit(control, "a", 0.0)
    control.dispatch(0.0)
    tick = control.tick(0.0)
    assert tick.next_at == control.settings.scoring_budget_s
    assert control.dispatch(0.004) == ()
    control.tick(tick.next_at)
    assert sent(control.dispatch(tick.next_at)) == ["a"]
    control.on_scores("a", SCORES, 0.006)
    control.on_finish("a", None, 1.0)
    assert tier_of(control, "a").fallback == "timeout"
    assert control.counters()["score", "quality", "fallback"] == 1
    assert control.counters()["score", "quality", "scored"] == 0


class Nowhere:
    def resolve(self, ref: str) -> Path:
        raise UnknownArtifact(f"no artifact is called {ref!r}")


def test_with_no_artifact_it_works_on_its_fallback_and_says_so() -> None:
    for resources in (Resources(), Resources(artifacts=Nowhere())):
        control = from_store(resources)
        answer = submit(control, "a", 0.0)
        assert not answer.wants_scores, "nothing to wait for"
        serve_all(control, 0.0)
        assert tier_of(control, "a").fallback == "no_artifact"
        assert control.counters()["tier", "best_effort", "fallback"] == 1
        stage = control.stages.tier
        assert isinstance(stage, BestEffort)
        assert stage.problem is not None


def test_a_tampered_artifact_is_refused_and_the_gateway_serves_on(tmp_path: Path) -> None:
    resources = shipped(tmp_path)
    weights = tmp_path / "policy" / "best-effort" / "1" / "policy.onnx"
    weights.write_bytes(weights.read_bytes()[:-1])
    control = from_store(resources)
    submit(control, "a", 0.0)
    assert serve_all(control, 0.0) == ["a"]
    assert tier_of(control, "a").fallback == "artifact_refused"
    stage = control.stages.tier
    assert isinstance(stage, BestEffort)
    assert stage.problem is not None
    assert "policy.onnx" in stage.problem.message


def test_one_pool_that_can_serve_is_nothing_to_decide() -> None:
    control = driven(lambda observation, mask: pytest.fail("asked without need"))
    control.remove_worker("large-0", 0.0)
    control.remove_worker("medium-0", 0.0)
    submit(control, "a", 0.0, SCORES)
    serve_all(control, 0.0)
    assert control.counters()["tier", "best_effort", "skipped"] == 1


def test_the_first_wait_is_priced_by_the_configured_service_rate() -> None:
    rates = ControlSettings(service_rates={"large": 10.0}, default_service_rate=1e6)
    control = plane(stages({"tier": "best_effort"}), pools=LADDER, max_inflight=8, settings=rates)
    assert isinstance(LADDER[2], PoolSpec)
    for name in ("a", "b"):
        submit(control, name, 0.0)
    assert [dispatch.pool for dispatch in control.dispatch(0.0)] == ["medium", "large"]


def test_a_look_beforehand_does_not_change_why_the_fallback_decided() -> None:
    control = driven(lambda observation, mask: PolicyDecision(0, (1.0, 0.0, 0.0)))
    submit(control, "a", 0.0)
    looked = control.tier_context("a", None, 0.0)
    assert looked is not None
    assert looked.why == "no_scores"
    control.on_scores("a", None, 0.0, why="timeout")
    serve_all(control, 0.0)
    assert tier_of(control, "a").fallback == "timeout"
