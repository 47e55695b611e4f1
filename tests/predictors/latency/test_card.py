"""A profile's card says what was measured and what was assumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictors import artifact
from predictors.latency.card import card, write_profile
from predictors.latency.ladder import START_8B, scaled_32b
from predictors.types import Interval


def test_a_fitted_profile_shows_its_errors() -> None:
    text = card(START_8B, (), {"e2e_mean": Interval(0.023, 0.02, 0.031)}, "Fitted to x.")
    assert "fitted to measured runs. Fitted to x." in text
    assert "| e2e_mean | +2.3% | +2.0% … +3.1% |" in text


def test_a_scaled_profile_does_not_pass_for_a_fit() -> None:
    text = card(scaled_32b(START_8B), (), {}, "Scaled.")
    assert "scaled from `h100-8b`, not fitted" in text
    assert "nothing was measured" in text


def test_versions_are_immutable(tmp_path: Path) -> None:
    def write() -> None:
        write_profile(tmp_path, START_8B, version=1, created="2026-01-01T00:00:00", data=(), metrics={}, method="M.")

    write()
    with pytest.raises(artifact.ArtifactExists):
        write()
