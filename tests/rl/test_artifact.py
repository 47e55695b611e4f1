from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.dqn.policies import QNetwork

from controller.observation import Codec
from controller.onnx_layers import read
from controller.policy import load_policy
from envs.episode import Randomisation
from predictors.artifact import ArtifactExists, ArtifactTampered, DataSource, load_manifest, verify
from predictors.types import Interval
from rl.artifact import TrainingRecord, write_policy
from rl.network import NormalisedInput
from rl.play import play, policy_tier
from rl.train import Checkpoint, NetworkPolicy, TrainArguments, Trained
from tests.envs.worlds import SCENARIO, source

CODEC = Codec(3)


def _trained() -> Trained:
    torch.manual_seed(0)
    space = spaces.Box(CODEC.low, CODEC.high, dtype=np.float32)
    samples = np.random.default_rng(0).uniform(0, 1, (300, CODEC.size)).astype(np.float32)
    front = NormalisedInput(space, samples.mean(axis=0), samples.std(axis=0))
    network = QNetwork(space, spaces.Discrete(3), front, CODEC.size, [16, 16])
    ranges = np.stack([CODEC.low, np.minimum(CODEC.high, 1e3)], axis=1)
    best = Checkpoint(200, 0.8)
    return Trained(network, best, (Checkpoint(100, 0.7), best), ranges, samples)


def _record(**metrics: Interval | None) -> TrainingRecord:
    data = (DataSource("envs/tasks.py", "Apache-2.0", "0" * 64, 300),)
    return TrainingRecord(
        TrainArguments(), SCENARIO, {"profile/test": "ab" * 32}, data, metrics, "2026-01-01T00:00:00+00:00"
    )


def test_what_is_written_is_what_serving_loads(tmp_path: Path) -> None:
    trained = _trained()
    manifest = write_policy(tmp_path, trained, _record(availability_bursty=Interval(0.9, 0.8, 0.95)), 1)
    assert manifest.ref == "policy/best-effort/1"
    policy = load_policy(tmp_path / manifest.ref)
    assert read((tmp_path / manifest.ref / "policy.onnx").read_bytes(), CODEC.size) is not None, "not by onnxruntime"
    ours = NetworkPolicy(trained.network)
    everything = np.ones(3, bool)
    for observation in trained.samples[:100]:
        loaded = policy.policy(observation, everything)
        assert loaded.scores == pytest.approx(ours(observation, everything).scores, abs=1e-4)
        assert policy.outside(observation, np.ones(CODEC.size, bool)) is None
    assert manifest.features == CODEC.names
    assert manifest.metrics["availability_bursty"] == Interval(0.9, 0.8, 0.95)


def test_the_loaded_policy_decides_in_the_control_plane(tmp_path: Path) -> None:
    trained = _trained()
    manifest = write_policy(tmp_path, trained, _record(), 1)
    policy = load_policy(tmp_path / manifest.ref)
    episode = source().draw(0)
    fleet = episode.fleet(policy_tier(policy))
    fleet.replay(episode.requests)
    counters = fleet.control.counters()
    assert counters["tier", "best_effort", "scored"] == len(episode.requests)
    served = play(episode, policy_tier(NetworkPolicy(trained.network))).served
    assert play(episode, policy_tier(policy)).served == served


def test_settings_hold_all_that_is_needed_to_train_again(tmp_path: Path) -> None:
    manifest = write_policy(tmp_path, _trained(), _record(), 1)
    settings = json.loads(json.dumps(dict(load_manifest(tmp_path / manifest.ref).settings)))
    assert TrainArguments(**settings["arguments"]) == TrainArguments()
    assert settings["scenario"]["deadline_s"] == SCENARIO.deadline_s
    assert Randomisation(**settings["randomisation"]) == Randomisation.training()
    assert settings["best"] == {"steps": 200, "share_of_peak": 0.8}
    assert np.array(settings["ranges"]).shape == (CODEC.size, 2)


def test_the_card_says_what_it_is_and_what_it_assumes(tmp_path: Path) -> None:
    manifest = write_policy(tmp_path, _trained(), _record(share_of_peak_bursty=Interval(0.8, 0.7, 0.9)), 1)
    card = (tmp_path / manifest.ref / "card.md").read_text()
    for words in (
        "assumed",
        "simulated",
        "0.8000 [0.7000, 0.9000]",
        "| large |",
        "best, at 200",
        "profile/test",
        "15%",
    ):
        assert words in card


def test_versions_are_immutable_and_verified(tmp_path: Path) -> None:
    manifest = write_policy(tmp_path, _trained(), _record(), 1)
    with pytest.raises(ArtifactExists):
        write_policy(tmp_path, _trained(), _record(), 1)
    weights = tmp_path / manifest.ref / "policy.onnx"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactTampered, match=r"policy\.onnx"):
        verify(tmp_path / manifest.ref)
