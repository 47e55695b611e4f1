from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from controller.best_effort import BestEffort
from controller.dense_policy import OUTSIDE, DensePolicy
from controller.observation import Codec
from controller.onnx_layers import read
from controller.policy import TrainedPolicy, load_policy
from controller.store import ArtifactStore, shipped_models
from controller.tier import Threshold, ThresholdOptions
from controller.types import Scores
from tests.controller.planes import LADDER, plane, submit
from tests.controller.policies import linear, write_policy

CODEC = Codec(3)


@pytest.fixture(scope="module")
def shipped() -> TrainedPolicy:
    models = shipped_models()
    assert models is not None
    path = ArtifactStore(models, None).resolve("policy/best-effort")
    layers = read((path / "policy.onnx").read_bytes(), CODEC.size)
    assert layers is not None, "it is made of dense layers"
    return replace(load_policy(path), layers=layers)


@pytest.fixture(scope="module")
def dense(shipped: TrainedPolicy) -> DensePolicy:
    assert shipped.layers is not None
    return DensePolicy(shipped.layers, CODEC, CODEC.low, CODEC.high)


_WIDE = st.floats(-1e3, 1e5) | st.floats(-2.0, 2.0) | st.just(float("inf"))


@given(
    arrays.arrays(np.float64, CODEC.size, elements=_WIDE),
    st.lists(st.booleans(), min_size=3, max_size=3).filter(any),
)
def test_it_decides_as_onnxruntime_does(
    shipped: TrainedPolicy, dense: DensePolicy, values: np.ndarray, allowed: list[bool]
) -> None:
    observation = np.minimum(np.maximum(values.astype(np.float32), CODEC.low), CODEC.high)
    theirs = shipped.policy(observation, np.array(allowed))
    action, seen, scores = dense.decide(values.tolist(), allowed, 3)
    assert seen == observation.tolist()
    tolerance = 1e-5 * max(1.0, *map(abs, theirs.scores))
    assert scores == pytest.approx(theirs.scores, abs=tolerance)
    best = max(score for score, may in zip(theirs.scores, allowed, strict=True) if may)
    assert allowed[action]
    assert theirs.scores[action] >= best - 2 * tolerance
    if sorted(theirs.scores)[-1] - sorted(theirs.scores)[-2] > 2 * tolerance and all(allowed):
        assert action == theirs.action


@given(arrays.arrays(np.float32, CODEC.size, elements=st.floats(-20, 1e4, width=32)), st.integers(1, 3))
def test_it_knows_what_lies_outside_the_range_of_training(
    shipped: TrainedPolicy, values: np.ndarray, pools: int
) -> None:
    assert shipped.layers is not None
    policy = DensePolicy(shipped.layers, CODEC, shipped.low, shipped.high)
    used = np.ones(CODEC.size, np.bool_)
    used[CODEC.unused(pools)] = False
    observation = np.minimum(np.maximum(values, CODEC.low), CODEC.high)
    action, seen, _ = policy.decide(values.tolist(), [True] * 3, pools)
    assert (action == OUTSIDE) == (shipped.outside(observation, used) is not None)
    assert seen == observation.tolist()


@given(
    st.booleans(),
    st.floats(0.0, 1.0),
    st.floats(0.0, 5e3),
    st.integers(0, 7000),
    st.none() | st.floats(0.5, 1e3),
    st.integers(0, 20),
)
def test_a_record_says_the_same_whichever_way_it_was_decided(
    shipped: TrainedPolicy,
    bounded: bool,
    quality: float,
    output: float,
    prompt: int,
    deadline: float | None,
    load: int,
) -> None:
    control = plane({"tier": "router"}, pools=LADDER, workers=2, max_inflight=4)
    scores = Scores(0.0, output, {"small": 0.5, "medium": quality, "large": 0.9})
    for index in range(load):
        submit(control, f"s{index}", 0.0, scores, prompt_tokens=prompt)
    control.dispatch(0.0)
    submit(control, "a", 0.1, prompt_tokens=prompt, deadline=deadline)
    context = control.tier_context("a", scores, 0.1)
    assert context is not None
    assert shipped.layers is not None
    trained = shipped if bounded else replace(shipped, low=CODEC.low, high=CODEC.high)
    one, other = (
        BestEffort(policy, Threshold(ThresholdOptions())).choose(context)
        for policy in (trained, replace(trained, layers=None))
    )
    values = [alternative.score for alternative in other.alternatives]
    assert [alternative.score for alternative in one.alternatives] == pytest.approx(values, rel=1e-4, abs=1e-4)
    assert replace(one, chosen="", alternatives=()) == replace(other, chosen="", alternatives=())
    assert bounded or one.by == "best_effort"
    *_, second, first = sorted(value or 0.0 for value in values)
    if one.by == "threshold" or first - second > 1e-3 * max(1.0, abs(first)):
        assert one.chosen == other.chosen


def test_a_value_that_is_not_finite_is_no_decision(tmp_path: Path) -> None:
    control = plane({"tier": "router"}, pools=LADDER)
    submit(control, "a", 0.0)
    context = control.tier_context("a", Scores(0.0, 1.0, {"small": 1.0}), 0.0)
    assert context is not None
    model = linear(CODEC, np.zeros((3, CODEC.size)).tolist(), [0.0, float("nan"), 0.0])
    trained = load_policy(write_policy(tmp_path / "1", CODEC, model))
    for policy in (trained, replace(trained, layers=None)):
        choice = BestEffort(policy, Threshold(ThresholdOptions())).choose(context)
        assert choice.fallback == "policy_failed: not_finite"


def test_bounds_that_are_changed_are_kept(shipped: TrainedPolicy) -> None:
    values = [1e3] * CODEC.size
    wide = replace(shipped, low=np.full(CODEC.size, -np.inf, np.float32), high=np.full(CODEC.size, np.inf, np.float32))
    for policy, outside in ((shipped, True), (wide, False)):
        dense = policy.dense()
        assert dense is not None
        assert (dense.decide(values, [True] * 3, 3)[0] == OUTSIDE) is outside
