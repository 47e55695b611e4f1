from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.scoring import Scorer
from controller.types import Scores
from predictors.types import Prompt

PROMPTS = [Prompt("short"), Prompt("a good deal longer"), Prompt("")]


class Embedder:
    """The length of a text in the first of its dimensions; counts its calls."""

    calls = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls += 1
        return np.array([[len(text), 1.0] for text in texts], np.float32)

    def embed_one(self, text: str) -> NDArray[np.float32]:
        return self.embed([text])[0]


@dataclass
class Lengths:
    rank: NDArray[np.float64]
    tokens: NDArray[np.float64]
    in_distribution: NDArray[np.bool_]
    high: NDArray[np.float64]
    tail: NDArray[np.float64]


@dataclass
class Qualities:
    quality: NDArray[np.float32]
    in_distribution: NDArray[np.bool_]


class Length:
    def __init__(self, quantiles: bool = True) -> None:
        self.above = 3.0 if quantiles else np.nan

    def predict(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Lengths:
        assert [len(prompt.text) for prompt in prompts] == embeddings[:, 0].tolist()
        size = embeddings[:, 0]
        return Lengths(size / 10.0, size * 2.0, size > 0, size * self.above, size * (self.above + 1))

    def predict_one(self, prompt: Prompt, embedding: NDArray[np.float32]) -> tuple[float, float, bool, float, float]:
        one = self.predict([prompt], embedding[None])
        return one.rank[0], one.tokens[0], one.in_distribution[0], one.high[0], one.tail[0]


class Quality:
    models_ = ("m-small", "m-other", "m-large")

    def predict(self, embeddings: NDArray[np.float32]) -> Qualities:
        table = np.tile(np.array([0.25, 0.5, 0.75], np.float32), (len(embeddings), 1))
        return Qualities(table, embeddings[:, 0] < 10)

    def predict_one(self, embedding: NDArray[np.float32]) -> tuple[list[float], bool]:
        one = self.predict(embedding[None])
        return one.quality[0].tolist(), bool(one.in_distribution[0])


POOLS = {"small": "m-small", "large": "m-large", "unknown": "m-unheard-of"}


def test_each_prompt_is_embedded_once_and_scored_by_all() -> None:
    embedder = Embedder()
    scorer = Scorer(embedder, Length(), Quality(), POOLS)
    short, long, empty = scorer.score(PROMPTS)
    assert embedder.calls == 1
    assert short == Scores(pytest.approx(0.5), 10.0, {"small": 0.25, "large": 0.75}, 15.0, 20.0)
    assert (long.output_tokens, long.quality) == (36.0, None), "quality is out of distribution"
    assert (empty.length_rank, empty.output_tokens) == (None, None), "length is out of distribution"
    assert (empty.output_high, empty.output_tail) == (None, None)
    assert scorer.scored_pools == {"small", "large"}


def test_absent_predictors_say_nothing() -> None:
    assert Scorer(Embedder(), None, None, POOLS).score(PROMPTS) == [Scores()] * 3
    assert Scorer(Embedder(), None, Quality(), POOLS).score(PROMPTS[:1])[0].length_rank is None
    assert Scorer(Embedder(), Length(), None, POOLS).score(PROMPTS[:1])[0].quality is None
    assert Scorer(Embedder(), Length(), Quality(), {"x": "m-nothing"}).score(PROMPTS[:1])[0].quality is None
    assert Scorer(Embedder(), Length(), Quality(), POOLS).score([]) == []


def test_a_score_does_not_depend_on_the_batch() -> None:
    scorer = Scorer(Embedder(), Length(), Quality(), POOLS)
    assert scorer.score(PROMPTS) == [score for prompt in PROMPTS for score in scorer.score([prompt])]


def test_a_predictor_without_quantiles_says_nothing_of_them() -> None:
    scorer = Scorer(Embedder(), Length(quantiles=False), None, POOLS)
    for prompts in (PROMPTS, PROMPTS[:1]):
        first = scorer.score(prompts)[0]
        assert (first.output_tokens, first.output_high, first.output_tail) == (10.0, None, None)
