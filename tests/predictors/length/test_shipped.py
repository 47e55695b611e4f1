"""The length artifact that ships, as a user without any data folder has it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from controller.store import ArtifactStore, shipped_models
from envs.answers import token_texts
from envs.tasks import generate
from predictors.artifact import verify
from predictors.length.model import SCHEMA, FastLength
from predictors.length.per_model import PerModelMap
from predictors.types import Prompt
from tests.predictors.length import samples

FOLDER = ArtifactStore(shipped_models(), None).resolve("length/fast")


@pytest.fixture(scope="module")
def shipped() -> FastLength:
    return FastLength.load(FOLDER)


def test_it_is_whole_small_and_says_what_it_learned_from() -> None:
    manifest = verify(FOLDER)
    assert manifest.features == SCHEMA
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 2_000_000
    assert "card.md" in manifest.files
    assert all(source.licence.startswith(("Apache-2.0", "MIT", "CC-BY")) for source in manifest.data)
    tau = manifest.metrics["tau_b"]
    assert tau is not None
    assert 0.0 < tau.lo <= tau.value <= tau.hi < 1.0


def test_it_ranks_held_out_tasks_as_its_manifest_says(shipped: FastLength) -> None:
    manifest = verify(FOLDER)
    listed = manifest.held_out["tasks"]
    tasks = generate(listed["seed"], listed["prompts"], listed["split"])
    prompts = [Prompt(task.prompt) for task in tasks]
    scores = shipped.predict(prompts, samples.embedder().embed([prompt.text for prompt in prompts]))
    tau = kendalltau(scores.rank, [len(token_texts(task.worked)) for task in tasks]).statistic
    claimed = manifest.metrics["held_out_tau_b_tasks"]
    assert claimed is not None
    assert claimed.lo <= tau <= claimed.hi
    assert scores.in_distribution.mean() > 0.95


def test_it_knows_a_short_answer_from_a_long_one(shipped: FastLength) -> None:
    pairs = [
        ("What is the capital of France? Answer in one word.", "Write a detailed essay on the history of France."),
        ("Is 17 prime? Yes or no.", "Implement a complete chess engine in C++ with tests and explain every part."),
        ("Give only the answer. What is 3 plus 4?", "Show every step, then check the result. What is 3412 times 778?"),
    ]
    for short, long in pairs:
        prompts = [Prompt(short), Prompt(long)]
        scores = shipped.predict(prompts, samples.embedder().embed([short, long]))
        assert scores.rank[0] < scores.rank[1]
        assert scores.tokens[0] < scores.tokens[1]


def test_noise_is_out_of_distribution(shipped: FastLength) -> None:
    prompts = [Prompt(""), Prompt("(){}[]" * 200)]
    embeddings = samples.embedder().embed([prompt.text for prompt in prompts])
    assert not shipped.predict(prompts, embeddings).in_distribution.any()
    assert np.isfinite(shipped.predict(prompts, embeddings).tokens).all()


def test_the_version_before_has_no_quantiles_and_still_loads() -> None:
    older = FastLength.load(FOLDER.parent / "2")
    prompts = [Prompt("Is 17 prime? Yes or no."), Prompt("Write a long essay.", 30)]
    scores = older.predict(prompts, samples.embedder().embed([prompt.text for prompt in prompts]))
    assert np.isfinite(scores.tokens).all()
    assert np.isnan(scores.high).all()
    assert np.isnan(scores.tail).all()


def test_its_quantile_covers_nine_of_ten_tasks_after_their_own_map(shipped: FastLength) -> None:
    listed = verify(FOLDER).held_out["tasks"]
    tasks = generate(listed["seed"], listed["prompts"], listed["split"])
    prompts = [Prompt(task.prompt) for task in tasks]
    ranks = shipped.predict(prompts, samples.embedder().embed([prompt.text for prompt in prompts])).rank
    lengths = np.array([float(len(token_texts(task.worked))) for task in tasks])
    even = np.arange(len(tasks)) % 2 == 0
    found = PerModelMap().fit(ranks[even], lengths[even]).predict(ranks[~even])
    assert found is not None
    assert (lengths[~even] <= found[1]).mean() == pytest.approx(0.9, abs=0.06)
