"""Profiles: what they compute, how they are stored, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from predictors import artifact
from predictors.latency.card import write_profile
from predictors.latency.ladder import START_8B
from predictors.latency.model import Profile, ProfileError

SHIPPED = Path(__file__).resolve().parents[3] / "models" / "profile"


def write(folder: Path, profile: Profile) -> Path:
    write_profile(folder, profile, version=1, created="2026-01-01T00:00:00", data=(), metrics={}, method="Made up.")
    return folder / "profile" / profile.name / "1"


def test_a_step_is_the_sum_of_its_parts() -> None:
    profile = replace(START_8B, a=1.0, b=0.1, c=0.01, d=0.001, graph_tokens=8, eager_floor_s=3.0)
    assert profile.step_seconds(0, 2, 50) == pytest.approx(1.0 + 0.02 + 0.05)
    assert profile.step_seconds(6, 2, 50) == pytest.approx(1.0 + 0.6 + 0.02 + 0.05)
    assert profile.step_seconds(7, 2, 50) == 3.0
    assert profile.step_seconds(0, 20, 50) == pytest.approx(1.25), "a step without prefill has captured graphs"


def test_accuracy_is_looked_up_by_level() -> None:
    profile = replace(START_8B, skill={"sorting": (0.9, 0.5)})
    assert [profile.accuracy("sorting", level) for level in (0, 1, 2, 9)] == [0.9, 0.9, 0.5, 0.5]
    assert profile.accuracy("poetry", 1) is None


def test_json_gives_the_same_profile_back() -> None:
    assert Profile.from_json(START_8B.to_json()) == START_8B


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"b": -1e-6}, "b must not be negative"),
        ({"a": 0.0}, "a must be at least"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1"),
        ({"max_num_batched_tokens": 10}, "max_num_batched_tokens must be >= max_num_seqs"),
        ({"kv_blocks": 10}, "must hold max_model_len"),
        ({"skill": {"logic": (1.5,)}}, "must be probabilities"),
        ({"verbosity": 0.0}, "verbosity must be positive"),
        ({"favourite_colour": "blue"}, "unknown fields: favourite_colour"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    document = {**json.loads(START_8B.to_json()), **changes}
    with pytest.raises(ProfileError, match=message):
        Profile.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "x"}'])
def test_what_is_no_profile_is_refused(text: str) -> None:
    with pytest.raises(ProfileError):
        Profile.from_json(text)


def test_an_artifact_is_loaded_only_whole(tmp_path: Path) -> None:
    path = write(tmp_path, START_8B)
    assert Profile.load(path) == START_8B
    (path / "profile.json").write_text(replace(START_8B, a=1.0).to_json())
    with pytest.raises(artifact.ArtifactTampered):
        Profile.load(path)
    with pytest.raises(artifact.ArtifactMissing):
        Profile.load(tmp_path / "elsewhere")


def test_an_artifact_with_another_document_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "1"
    artifact.write(
        path,
        kind="profile",
        name="odd",
        version=1,
        features=(),
        data=(),
        metrics={},
        files={"profile.json": b"{}"},
        created="2026-01-01T00:00:00",
    )
    with pytest.raises(artifact.ArtifactSchema, match=r"profile\.json"):
        Profile.load(path)


@pytest.mark.parametrize("name", ["h100-1b", "h100-8b", "h100-32b"])
def test_shipped_profiles_are_whole_and_say_what_they_are(name: str) -> None:
    profile = Profile.load(SHIPPED / name / "1")
    card = (SHIPPED / name / "1" / "card.md").read_text()
    assert profile.name == name
    assert "**assumption**" in card
    if name == "h100-32b":
        assert profile.scaled_from == "h100-8b"
        assert not profile.errors
        assert "not fitted" in card
    else:
        assert profile.scaled_from is None
        assert abs(profile.errors["e2e_mean"]) < 0.06
        assert abs(profile.errors["ttft_p50"]) < 0.15


def test_shipped_profiles_form_a_ladder() -> None:
    small, medium, large = (Profile.load(SHIPPED / n / "1") for n in ("h100-1b", "h100-8b", "h100-32b"))
    assert small.skill.keys() == medium.skill.keys() == large.skill.keys()
    for family, levels in small.skill.items():
        for level in range(1, len(levels) + 1):
            accuracies = [p.accuracy(family, level) or 0.0 for p in (small, medium, large)]
            assert accuracies == sorted(accuracies)
        for profile in (small, medium, large):
            assert list(profile.skill[family]) == sorted(profile.skill[family], reverse=True)
    steps = [p.step_seconds(0, 16, 16_000) for p in (small, medium, large)]
    assert steps == sorted(steps)


def test_reading_the_weights_hides_some_of_a_prompts_time() -> None:
    shape = replace(START_8B, a=6e-3, b=20e-6, c=0.0, d=0.0, overlap_s=4e-3, mixed_floor_s=7e-3, graph_tokens=512)
    assert shape.step_seconds(0, 8, 0) == pytest.approx(6e-3), "a step of decoding alone has nothing to hide"
    assert shape.step_seconds(100, 0, 0) == pytest.approx(7e-3), "the least that a prompt's step takes"
    assert shape.step_seconds(400, 0, 0) == pytest.approx(6e-3 + 8e-3 - 4e-3)
    assert shape.step_seconds(600, 0, 0) == pytest.approx(6e-3 + 12e-3 - 4e-3), (
        "beyond the graphs the other floor holds"
    )


def test_a_profile_written_before_a_field_was_known_is_read_with_its_default() -> None:
    raw = json.loads(START_8B.to_json())
    for name in ("overlap_s", "mixed_floor_s", "async_scheduling"):
        del raw[name]
    old = Profile.from_json(json.dumps(raw))
    assert (old.overlap_s, old.mixed_floor_s, old.async_scheduling) == (0.0, 0.0, False)
