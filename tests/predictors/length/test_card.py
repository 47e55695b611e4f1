from __future__ import annotations

from pathlib import Path

import pytest

from predictors import artifact
from predictors.artifact import ArtifactExists
from predictors.length.card import Facts, card, write_ranker
from predictors.length.model import SCHEMA
from predictors.types import Interval
from tests.predictors.length import samples

FACTS = Facts(
    name="fast",
    version=3,
    created="2026-01-01T00:00:00+00:00",
    data=samples.data().provenance,
    metrics={"tau_b": Interval(0.3, 0.25, 0.35), "tau_b_rows": None},
    held_out={"arena": {"groups": ["a", "b"]}, "tasks": {"split": "test"}},
    settings={"seed": 0},
)


def test_the_artifact_says_what_it_is(tmp_path: Path) -> None:
    written = write_ranker(tmp_path, samples.fast(), FACTS)
    manifest = artifact.verify(tmp_path / "length" / "fast" / "3")
    assert manifest == written
    assert manifest.features == SCHEMA
    assert manifest.metrics["tau_b"] == Interval(0.3, 0.25, 0.35)
    assert manifest.settings["estimator"]["trees"] == samples.SMALL.trees
    assert sum(file.stat().st_size for file in (tmp_path / "length" / "fast" / "3").iterdir()) < 2_000_000
    with pytest.raises(ArtifactExists):
        write_ranker(tmp_path, samples.fast(), FACTS)


def test_the_card_tells_data_figures_and_what_was_held_out() -> None:
    text = card(FACTS)
    assert "# length/fast/3" in text
    assert f"| tasks | {len(samples.data())} | Apache-2.0 |" in text
    assert "| `tau_b` | 0.300 [0.250, 0.350] |" in text
    assert "| `tau_b_rows` | undefined |" in text
    assert "arena: 2 prompts" in text
