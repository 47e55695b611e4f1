from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.observation import Codec
from controller.policy import PolicyFailed, load_policy
from predictors.artifact import ArtifactError, ArtifactMissing, ArtifactSchema, ArtifactTampered, manifest_sha256
from tests.controller.policies import by_quality, linear, write_policy

CODEC = Codec(3)


def test_a_trained_policy_takes_the_allowed_action_of_the_greatest_value(tmp_path: Path) -> None:
    trained = load_policy(write_policy(tmp_path / "1", CODEC, by_quality(CODEC)))
    assert trained.codec.names == CODEC.names
    assert trained.sha256 == manifest_sha256(tmp_path / "1")
    row = np.zeros(CODEC.size, np.float32)
    for slot, quality in enumerate((0.2, 0.9, 0.5)):
        row[CODEC.names.index(f"pool{slot}.quality")] = quality
    decision = trained.policy(row, np.array([True, True, True]))
    assert decision.action == 1
    assert decision.scores == pytest.approx((0.2, 0.9, 0.5))
    assert decision.propensity == 1.0
    assert trained.policy(row, np.array([True, False, True])).action == 2


def test_the_range_of_training_is_kept_with_a_margin_for_features_in_use(tmp_path: Path) -> None:
    ranges = [[0.0, 1.0]] * CODEC.size
    path = write_policy(tmp_path / "1", CODEC, by_quality(CODEC), settings={"ranges": ranges})
    trained = load_policy(path)
    used = np.ones(CODEC.size, np.bool_)
    row = np.full(CODEC.size, 1.05, np.float32)
    assert trained.outside(row, used) is None
    row[CODEC.names.index("slack_s")] = 1.5
    assert trained.outside(row, used) == "slack_s"
    used[CODEC.names.index("slack_s")] = False
    assert trained.outside(row, used) is None


def test_values_that_are_no_numbers_are_no_decision(tmp_path: Path) -> None:
    model = linear(CODEC, np.zeros((3, CODEC.size)).tolist(), [0.0, float("nan"), 0.0])
    trained = load_policy(write_policy(tmp_path / "1", CODEC, model))
    with pytest.raises(PolicyFailed):
        trained.policy(np.zeros(CODEC.size, np.float32), np.ones(3, np.bool_))


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    good = by_quality(CODEC)
    with pytest.raises(ArtifactMissing):
        load_policy(tmp_path / "nowhere")
    tampered = write_policy(tmp_path / "tampered", CODEC, good)
    (tampered / "policy.onnx").write_bytes(good + b" ")
    with pytest.raises(ArtifactTampered, match=r"policy\.onnx"):
        load_policy(tampered)
    cases = {
        "other-kind": {"kind": "length"},
        "other-features": {"features": ("a", "b")},
        "no-ranges": {"settings": {}},
        "short-ranges": {"settings": {"ranges": [[0, 1]]}},
        "not-onnx": {"files": {"policy.onnx": b"not a graph"}},
        "no-weights": {"files": {"other.onnx": good}},
        "too-few-values": {"files": {"policy.onnx": linear(CODEC, np.zeros((2, CODEC.size)).tolist(), [0.0, 0.0])}},
        "other-input": {"files": {"policy.onnx": by_quality(Codec(2))}},
    }
    for name, change in cases.items():
        with pytest.raises(ArtifactSchema):
            load_policy(write_policy(tmp_path / name, CODEC, good, **change))
    assert issubclass(ArtifactTampered, ArtifactError)
