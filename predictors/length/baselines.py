"""What ``fast`` is compared with: rankers from less, and from what no gateway can know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from predictors.length.data import LengthData
from predictors.length.features import read
from predictors.length.target import consensus, within_model_ranks
from predictors.length.train import FastRanker
from predictors.length.trend import standardise
from predictors.types import Prompt

Matrix = NDArray[np.float64]
_LEXICAL_RIDGE: Final = 200.0
_EMBEDDING_RIDGE: Final = 8.0


class LengthRanker(Protocol):
    """Anything that learns to order prompts by the length of their answers."""

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Learn; sets attributes that end in ``_``."""
        ...

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """Scores (n,), higher = longer. Pure."""
        ...


class PromptLength:
    """Longer prompt, longer answer: the folk heuristic."""

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Nothing to learn."""
        return self

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """Characters (n,)."""
        return np.array([float(len(prompt.text)) for prompt in prompts])


class MaxTokens:
    """The client's own limit on the answer; a prompt without one sorts last."""

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Nothing to learn."""
        return self

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """Limits (n,) in tokens."""
        return np.array([float(prompt.max_tokens or 1 << 30) for prompt in prompts])


class LexicalRidge:
    """Ridge regression of the consensus rank on the lexical features alone."""

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Learn ``mean_``, ``scale_``, ``weights_``."""
        lexical = read(data.prompts).lexical
        self.mean_, self.scale_ = lexical.mean(axis=0, dtype=np.float64), lexical.std(axis=0, dtype=np.float64)
        self.weights_ = _ridge(standardise(lexical, self.mean_, self.scale_), data, _LEXICAL_RIDGE)
        return self

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """Scores (n,)."""
        standard = standardise(read(prompts).lexical, self.mean_, self.scale_)
        return np.asarray(np.vecdot(standard, self.weights_), dtype=np.float64)


class EmbeddingRidge:
    """Ridge regression of the consensus rank on the WordLlama embedding alone."""

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Learn ``weights_``."""
        self.mean_ = embeddings.mean(axis=0, dtype=np.float64)
        self.weights_ = _ridge(embeddings - self.mean_, data, _EMBEDDING_RIDGE)
        return self

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """Scores (n,)."""
        return np.asarray(np.vecdot(embeddings - self.mean_, self.weights_), dtype=np.float64)


RANKERS: Final[Mapping[str, Callable[[], LengthRanker]]] = MappingProxyType(
    {
        "fast": FastRanker,
        "lexical": LexicalRidge,
        "wordllama": EmbeddingRidge,
        "prompt_length": PromptLength,
        "max_tokens": MaxTokens,
    }
)
"""Rankers by the name of their row in ``headway eval length``."""


def mean_rank_of_others(tokens: Matrix) -> Matrix:
    """For each answer (n, M), the mean rank of the *other* models' answers to the same prompt; NaN where there is none.

    It knows true lengths, so it is no predictor: it says how far models agree, which a model-agnostic score can hardly
    pass.
    """
    ranks = within_model_ranks(tokens)
    known = ~np.isnan(ranks)
    total, count = np.where(known, ranks, 0.0).sum(axis=1, keepdims=True), known.sum(axis=1, keepdims=True)
    others = count - known
    mean = np.divide(total - np.where(known, ranks, 0.0), others, out=np.full_like(ranks, np.nan), where=others > 0)
    return np.where(known, mean, np.nan)


def _ridge(features: Matrix, data: LengthData, strength: float) -> Matrix:
    labels = consensus(data)
    target = labels.level - np.average(labels.level, weights=labels.weight)
    weighted = features * labels.weight[:, None]
    gram = features.T @ weighted + strength * np.eye(features.shape[1])
    return np.asarray(solve(gram, weighted.T @ target, assume_a="pos"), dtype=np.float64)
