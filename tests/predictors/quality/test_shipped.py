"""What the artifacts that ship promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli.routing_sources import LADDER, ladder, task_table
from controller.store import ArtifactStore, shipped_models
from predictors.artifact import verify
from predictors.embedding import Embedder
from predictors.quality.model import KnnQuality


def folder(name: str) -> Path:
    """The version that is active where nobody has promoted another."""
    return ArtifactStore(shipped_models(), None).resolve(f"quality/{name}")


@pytest.mark.parametrize("name", ["ladder", "llmrouter", "suite"])
def test_it_is_whole_small_and_says_what_it_learned_from(name: str) -> None:
    manifest = verify(folder(name))
    assert sum(file.stat().st_size for file in folder(name).iterdir()) < 6_000_000
    assert all(source.licence.startswith(("MIT", "Apache-2.0")) for source in manifest.data)
    assert manifest.held_out
    metrics = {key: value for key, value in manifest.metrics.items() if value is not None}
    assert metrics["aiq"].value > metrics["zero_aiq"].value
    assert metrics["brier"].value < metrics["zero_policy_brier"].value


def test_the_ladder_knows_more_of_new_tasks_than_the_models_means() -> None:
    table = task_table(ladder(), seed=987, prompts=300, split="test")
    model = KnnQuality.load(folder("ladder"))
    assert model.models_ == LADDER == table.models
    predicted = model.predict(Embedder().embed(table.prompts)).quality
    learned, mean = (np.mean((guess - table.quality) ** 2) for guess in (predicted, model.bank.prior))
    assert learned < 0.97 * mean


def test_the_ladder_says_when_a_prompt_is_not_of_the_task_suite() -> None:
    model, embedder = KnnQuality.load(folder("ladder")), Embedder()
    strange = [
        "Write a limerick about my cat, please.",
        "Refactor this class with dataclasses.",
        "",
        "¿Qué?",
    ]
    assert not model.predict(embedder.embed(strange)).in_distribution.any()
