from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predictors import artifact
from predictors.artifact import (
    ArtifactError,
    ArtifactExists,
    ArtifactMissing,
    ArtifactSchema,
    ArtifactTampered,
    DataSource,
)
from predictors.types import Interval

FILES = {"weights.npz": b"\x00\x01\x02", "card.md": b"# a card\n"}


def written(path: Path, **changes: Any) -> artifact.Manifest:
    arguments: dict[str, Any] = {
        "kind": "length",
        "name": "fast",
        "version": 1,
        "features": ("words", "lines"),
        "data": (DataSource("arena", "Apache-2.0", "ab" * 32, 10),),
        "metrics": {"tau_b": Interval(0.3, 0.2, 0.4), "mae": None},
        "files": FILES,
        "created": "2026-01-01T00:00:00+00:00",
        "held_out": {"arena": {"groups": ["x"]}},
        "settings": {"seed": 0},
    }
    return artifact.write(path, **(arguments | changes))


def edited(path: Path, **changes: Any) -> None:
    document = json.loads((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_text(json.dumps(document | changes))


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    manifest = written(tmp_path / "1")
    assert artifact.load_manifest(tmp_path / "1") == manifest
    assert artifact.verify(tmp_path / "1") == manifest
    assert manifest.metrics == {"tau_b": Interval(0.3, 0.2, 0.4), "mae": None}
    assert manifest.ref == "length/fast/1"
    assert artifact.load(tmp_path / "1", kind="length", features=["words", "lines"]).files == FILES


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    written(tmp_path / "a")
    written(tmp_path / "b", metrics={"mae": None, "tau_b": Interval(0.3, 0.2, 0.4)})
    assert artifact.manifest_sha256(tmp_path / "a") == artifact.manifest_sha256(tmp_path / "b")


def test_versions_are_immutable_unless_overwritten(tmp_path: Path) -> None:
    written(tmp_path / "1")
    with pytest.raises(ArtifactExists, match="immutable"):
        written(tmp_path / "1", files={"weights.npz": b"other"})
    assert artifact.load(tmp_path / "1", kind="length").files == FILES
    written(tmp_path / "1", files={"weights.npz": b"other"}, overwrite=True)
    assert artifact.load(tmp_path / "1", kind="length").files == {"weights.npz": b"other"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"], "nothing is left beside it"


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    written(tmp_path / "1")
    (tmp_path / "1" / "weights.npz").write_bytes(b"\x00\x01\x03")
    for read in (artifact.verify, lambda path: artifact.load(path, kind="length")):
        with pytest.raises(ArtifactTampered, match=r"weights\.npz"):
            read(tmp_path / "1")


def test_a_removed_file_is_named(tmp_path: Path) -> None:
    written(tmp_path / "1")
    (tmp_path / "1" / "card.md").unlink()
    for read in (artifact.verify, lambda path: artifact.load(path, kind="length")):
        with pytest.raises(ArtifactTampered, match=r"card\.md"):
            read(tmp_path / "1")


def test_no_artifact_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match="manifest"):
        artifact.verify(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 99}, "schema 99"),
        ({"features": ["words"]}, "feature_hash"),
        ({"files": {"../escape": "0" * 64}}, "escape"),
        ({"files": {"weights.npz": "beef"}}, "SHA-256"),
        ({"files": {"manifest.json": "0" * 64}}, r"manifest\.json"),
        ({"kind": "Length!"}, "lower case"),
        ({"version": 0}, "version"),
        ({"version": "one"}, "not a manifest"),
        ({"metrics": {"tau_b": {"value": 1.0}}}, "not a manifest"),
        ({"data": "arena"}, "not a manifest"),
    ],
)
def test_a_malformed_manifest_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    written(tmp_path / "1")
    edited(tmp_path / "1", **changes)
    with pytest.raises(ArtifactSchema, match=said):
        artifact.load_manifest(tmp_path / "1")


def test_what_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\x00")
    with pytest.raises(ArtifactSchema, match="not a manifest"):
        artifact.load_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("[1]")
    with pytest.raises(ArtifactSchema, match="not a manifest"):
        artifact.load_manifest(tmp_path)


def test_another_kind_or_schema_than_asked_for_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "1")
    with pytest.raises(ArtifactSchema, match="'quality'"):
        artifact.load(tmp_path / "1", kind="quality")
    with pytest.raises(ArtifactSchema, match="other features"):
        artifact.load(tmp_path / "1", kind="length", features=["lines", "words"])


def test_bad_arguments_write_nothing(tmp_path: Path) -> None:
    for changes in (
        {"files": {"../escape": b""}},
        {"metrics": {"tau_b": Interval(float("nan"), 0.0, 1.0)}},
        {"settings": {"when": object()}},
    ):
        with pytest.raises(ArtifactSchema):
            written(tmp_path / "1", **changes)
    assert list(tmp_path.iterdir()) == []


def test_asking_for_a_file_that_is_not_there(tmp_path: Path) -> None:
    written(tmp_path / "1")
    with pytest.raises(ArtifactSchema, match=r"ranker\.txt"):
        artifact.load(tmp_path / "1", kind="length").read("ranker.txt")


def test_next_version_counts_on(tmp_path: Path) -> None:
    assert artifact.next_version(tmp_path, "length", "fast") == 1
    for version in (1, 2, 10):
        written(tmp_path / "length" / "fast" / str(version), version=version)
    (tmp_path / "length" / "fast" / "notes").mkdir()
    assert artifact.next_version(tmp_path, "length", "fast") == 11


def test_every_error_is_an_artifact_error() -> None:
    assert all(
        issubclass(e, ArtifactError) for e in (ArtifactMissing, ArtifactTampered, ArtifactSchema, ArtifactExists)
    )
