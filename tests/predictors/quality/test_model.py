from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from predictors import artifact
from predictors.artifact import ArtifactMissing, ArtifactSchema, ArtifactTampered
from predictors.embedding import DIMENSIONS
from predictors.quality.knn import KnnEstimator
from predictors.quality.model import FEATURES, KIND, Bank, KnnQuality, encode, query_usd
from predictors.quality.neighbours import KnnSettings
from tests.predictors.quality.labels import MODELS, PRICES, clusters

SETTINGS = KnnSettings(k=20, kappa=1.0, whiten=0.5)


def bank() -> Bank:
    return KnnEstimator(SETTINGS).fit(clusters()).bank(MODELS, PRICES)


def written(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / KIND / "test" / "1"
    about = {"kind": KIND, "name": "test", "version": 1, "features": FEATURES, "created": "2026-01-01T00:00:00+00:00"}
    artifact.write(path, **about, data=[], metrics={}, files=files)  # type: ignore[arg-type]
    return path


def test_it_knows_which_model_answers_a_prompt_it_has_never_seen() -> None:
    new = clusters(seed=1)
    scores = KnnQuality(bank()).predict(new.embeddings)
    assert scores.quality.shape == (240, 3)
    assert (scores.quality.argmax(axis=1) == new.quality.argmax(axis=1)).mean() > 0.95
    assert scores.in_distribution.mean() > 0.9


def test_strange_prompts_are_flagged_and_get_the_prior() -> None:
    model = KnnQuality(bank())
    scores = model.predict(np.vstack([clusters(4, task=9).embeddings, np.zeros((1, DIMENSIONS), np.float32)]))
    assert not scores.in_distribution.any()
    assert np.allclose(scores.quality, model.bank.prior)


def test_predicting_is_pure_and_row_by_row() -> None:
    model, new = KnnQuality(bank()), clusters(30, seed=2).embeddings
    before = new.copy()
    first, second = model.predict(new), model.predict(new)
    assert np.array_equal(first.quality, second.quality)
    assert np.array_equal(new, before)
    assert np.array_equal(model.predict(new[7:8]).quality[0], first.quality[7])


def test_no_prompts_give_no_rows() -> None:
    scores = KnnQuality(bank()).predict(np.empty((0, DIMENSIONS), np.float32))
    assert scores.quality.shape == (0, 3)
    assert scores.in_distribution.shape == (0,)


def test_embeddings_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="256"):
        KnnQuality(bank()).predict(np.ones((2, 8), np.float32))
    with pytest.raises(ValueError, match="finite"):
        KnnQuality(bank()).predict(np.full((1, DIMENSIONS), np.nan, np.float32))


def test_what_is_written_scores_as_what_was_learned(tmp_path: Path) -> None:
    learned, new = bank(), clusters(seed=3).embeddings
    loaded = KnnQuality.load(written(tmp_path, encode(learned)))
    assert loaded.models_ == MODELS
    assert loaded.bank.prices == PRICES
    assert loaded.bank.settings == SETTINGS
    before, after = KnnQuality(learned).predict(new), loaded.predict(new)
    assert np.array_equal(before.quality, after.quality)
    assert np.array_equal(before.in_distribution, after.in_distribution)
    assert loaded.manifest is not None


def test_the_same_bank_gives_the_same_bytes() -> None:
    assert encode(bank()) == encode(bank())


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, encode(bank()))
    (path / "model.json").write_bytes((path / "model.json").read_bytes().replace(b"cheap", b"cheat"))
    with pytest.raises(ArtifactTampered, match=r"model\.json"):
        KnnQuality.load(path)


def test_no_artifact_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing):
        KnnQuality.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("models", ["one"]), ("prices", []), ("settings", {"k": 0}), ("settings", {"j": 1})]
)
def test_files_that_do_not_fit_together_are_refused(tmp_path: Path, field: str, value: object) -> None:
    files = encode(bank())
    document = {**json.loads(files["model.json"]), field: value}
    with pytest.raises(ArtifactSchema, match="not a kNN bank"):
        KnnQuality.load(written(tmp_path, {**files, "model.json": json.dumps(document).encode()}))


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactSchema):
        KnnQuality.load(written(tmp_path, {**encode(bank()), "bank.npz": b"PK\x03\x04 not a zip"}))


def test_a_pickle_inside_the_npz_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "evil.npz"
    np.savez(target, points=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ArtifactSchema):
        KnnQuality.load(written(tmp_path, {**encode(bank()), "bank.npz": target.read_bytes()}))


def test_a_bank_with_infinite_values_is_refused() -> None:
    learned = bank()
    with pytest.raises(ValueError, match="finite"):
        replace(learned, prior=np.full(3, np.inf, np.float32))


def test_costs_are_list_prices_times_expected_tokens() -> None:
    model = KnnQuality(bank())
    assert model.usd([1_000_000])[0].tolist() == pytest.approx([0.1 + 100 * 2e-7, 1.0 + 200 * 2e-6, 0.5 + 50 * 5e-7])
    assert model.usd([0, 0], [1_000_000, 0]).tolist() == [[0.2, 2.0, 0.5], [0.0, 0.0, 0.0]]
    assert query_usd(PRICES, [0], np.array([[1e6, 0.0, 2e6]])).tolist() == [[0.2, 0.0, 1.0]]
