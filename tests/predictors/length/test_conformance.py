"""What every length estimator keeps to, learned or plain; one joins by its name in ``RANKERS``."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from predictors.artifact import ArtifactSchema
from predictors.length.baselines import RANKERS
from predictors.length.estimator import LengthEstimator
from predictors.length.heads import HeadSettings, LinearHead
from predictors.length.train import FastRanker
from predictors.types import Prompt
from tests.predictors.length import samples

QUICK: dict[str, Callable[[], LengthEstimator]] = {
    **RANKERS,
    "fast": lambda: FastRanker(samples.SMALL),
    "lambdarank": lambda: FastRanker(replace(samples.SMALL, blends=(0.0,))),
    "listmle": lambda: LinearHead("listmle", HeadSettings(epochs=10)),
    "margin": lambda: LinearHead("margin", HeadSettings(epochs=10)),
}
HONEST = ("fast", "lexical", "history")
"""Those that predict lengths, too."""
GARBAGE = (
    Prompt(""),
    Prompt("\x00\x01\x7f"),
    Prompt("\ud800 lone"),
    Prompt("𝔘𝔫𝔦 🚂" * 300),
    Prompt("٣ أرقام ١٢"),
    Prompt("a" * 20_000),
    Prompt("\u202e\u0301\u0301", 1, 40),
)


@pytest.fixture(params=sorted(QUICK), scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def fitted(name: str) -> LengthEstimator:
    return QUICK[name]().fit(samples.data(), samples.embeddings())


def probes() -> tuple[list[Prompt], NDArray[np.float32]]:
    prompts = [*samples.probes()[0], *GARBAGE]
    return prompts, samples.embedder().embed([prompt.text for prompt in prompts])


def test_what_is_exported_and_loaded_ranks_the_same_bits(name: str, fitted: LengthEstimator) -> None:
    prompts, embeddings = probes()
    loaded = type(fitted).from_files(fitted.export())
    assert np.array_equal(loaded.rank(prompts, embeddings), fitted.rank(prompts, embeddings))
    assert loaded.export() == fitted.export()


def test_it_is_deterministic(name: str, fitted: LengthEstimator) -> None:
    again = QUICK[name]().fit(samples.data(), samples.embeddings())
    assert again.export() == fitted.export()


def test_no_file_is_a_pickle(fitted: LengthEstimator) -> None:
    for file, content in fitted.export().items():
        assert file.endswith((".json", ".npz", ".txt"))
        with pytest.raises(Exception, match=r".*"):
            pickle.loads(content)
        if file.endswith(".npz"):
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                assert all(stored[name].dtype != object for name in stored)


def test_a_batch_is_its_prompts_one_by_one(fitted: LengthEstimator) -> None:
    prompts, embeddings = probes()
    together = fitted.rank(prompts, embeddings)
    assert together.shape == (len(prompts),)
    for at, prompt in enumerate(prompts):
        assert fitted.rank([prompt], embeddings[at : at + 1])[0] == together[at]


def test_an_empty_batch_and_garbage_are_scored(fitted: LengthEstimator) -> None:
    assert fitted.rank([], np.empty((0, 256), dtype=np.float32)).shape == (0,)
    prompts, embeddings = probes()
    assert np.isfinite(fitted.rank(prompts, embeddings)).all()


def test_a_greater_limit_never_lowers_the_rank(fitted: LengthEstimator) -> None:
    prompts, embeddings = probes()
    before = np.full(len(prompts), -np.inf)
    for limit in (1, 5, 40, 300, 5000):
        ranks = fitted.rank([replace(prompt, max_tokens=limit) for prompt in prompts], embeddings)
        assert (ranks >= before).all()
        before = ranks


def test_other_files_are_refused(name: str, fitted: LengthEstimator) -> None:
    files = fitted.export()
    if not files:
        return
    for file in files:
        with pytest.raises(ArtifactSchema):
            type(fitted).from_files({other: content for other, content in files.items() if other != file})
        with pytest.raises(ArtifactSchema):
            type(fitted).from_files({**files, file: b"{}"})


@pytest.mark.parametrize("embeds", [name for name in sorted(QUICK) if QUICK[name]().embeds])
def test_embeddings_of_another_kind_are_refused(embeds: str) -> None:
    fitted = QUICK[embeds]().fit(samples.data(), samples.embeddings())
    with pytest.raises(ValueError, match="embeddings"):
        fitted.rank([Prompt("a")], np.zeros((1, 3), dtype=np.float32))


@pytest.mark.parametrize("honest", HONEST)
def test_lengths_lie_in_order_and_keep_limits(honest: str) -> None:
    fitted = QUICK[honest]().fit(samples.data(), samples.embeddings())
    prompts, embeddings = probes()
    before = np.zeros((3, len(prompts)))
    for limit in (1, 5, 40, 300, None):
        found = fitted.predict([replace(p, max_tokens=limit) for p in prompts], embeddings)  # type: ignore[attr-defined]
        now = np.stack([found.tokens, found.high, found.tail])
        assert np.isfinite(now).all()
        assert (now <= (limit or np.inf)).all()
        assert (now >= before - 1e-9).all(), "a greater limit lets answers be longer"
        assert (found.high <= found.tail + 1e-9).all()
        assert (found.tokens <= found.tail + 1e-9).all()
        before = now
