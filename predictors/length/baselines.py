"""What ``fast`` is compared with: rankers from less, and from what no gateway can know."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from types import MappingProxyType
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from predictors.artifact import ArtifactSchema
from predictors.embedding import DIMENSIONS
from predictors.length.buckets import BucketRanker
from predictors.length.data import LengthData
from predictors.length.estimator import LengthEstimator, embedded
from predictors.length.heads import LinearHead
from predictors.length.history import HistoryRanker
from predictors.length.lexical_train import LexicalRanker, ridge
from predictors.length.target import consensus, within_model_ranks
from predictors.length.train import FastRanker, FastSettings
from predictors.types import Prompt

Matrix = NDArray[np.float64]
_EMBEDDING_RIDGE: Final = 8.0
_RIDGE_FILE: Final = "ridge.npz"


class PromptLength:
    """Longer prompt, longer answer: the folk heuristic."""

    embeds: ClassVar[bool] = False

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Nothing to learn."""
        return self

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """Characters (n,)."""
        return np.array([float(len(prompt.text)) for prompt in prompts])

    def export(self) -> dict[str, bytes]:
        """No file."""
        return {}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """Another one."""
        return cls()


class MaxTokens:
    """The client's own limit on the answer; a prompt without one sorts last."""

    embeds: ClassVar[bool] = False

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Nothing to learn."""
        return self

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """Limits (n,) in tokens."""
        return np.array([float(prompt.max_tokens or 1 << 30) for prompt in prompts])

    def export(self) -> dict[str, bytes]:
        """No file."""
        return {}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """Another one."""
        return cls()


class EmbeddingRidge:
    """Ridge regression of the consensus rank on the WordLlama embedding alone."""

    embeds: ClassVar[bool] = True

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Learn ``mean_`` and ``weights_`` (256,)."""
        self.mean_ = embeddings.mean(axis=0, dtype=np.float64)
        self.weights_ = ridge(embeddings - self.mean_, consensus(data), _EMBEDDING_RIDGE)
        return self

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """Scores (n,)."""
        known = embedded(prompts, embeddings, DIMENSIONS)
        return np.asarray(np.vecdot(known - self.mean_, self.weights_), dtype=np.float64)

    def export(self) -> dict[str, bytes]:
        """Mean and weights, as npz."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, mean=self.mean_, weights=self.weights_)
        return {_RIDGE_FILE: buffer.getvalue()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """The inverse of :meth:`export`.

        Raises:
            ArtifactSchema: they are not such files.
        """
        loaded = cls()
        try:
            with np.load(io.BytesIO(files[_RIDGE_FILE]), allow_pickle=False) as stored:
                loaded.mean_, loaded.weights_ = (np.asarray(stored[name], np.float64) for name in ("mean", "weights"))
            if loaded.mean_.shape != (DIMENSIONS,) or loaded.weights_.shape != (DIMENSIONS,):
                raise ValueError(f"mean and weights are {loaded.mean_.shape} and {loaded.weights_.shape}")
        except (KeyError, ValueError, OSError) as error:
            raise ArtifactSchema(f"not a ridge of embeddings: {type(error).__name__}: {error}") from error
        return loaded


def _trees_alone() -> FastRanker:
    """Without choice of a kernel or of trees, and without a blend: ``length/fast`` up to version 2."""
    return FastRanker(replace(FastSettings(), kernels=(), growths=(), blends=(0.0,)))


RANKERS: Final[Mapping[str, Callable[[], LengthEstimator]]] = MappingProxyType(
    {
        "fast": FastRanker,
        "lambdarank": _trees_alone,
        "ridge": LinearHead,
        "listmle": lambda: LinearHead("listmle"),
        "margin": lambda: LinearHead("margin"),
        "history": HistoryRanker,
        "lexical": LexicalRanker,
        "wordllama": EmbeddingRidge,
        "buckets": BucketRanker,
        "prompt_length": PromptLength,
        "max_tokens": MaxTokens,
    }
)
"""Estimators by the name of their row in ``headway eval length``."""

FEATURE_RANKERS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {"deep": ("predictors.length.deep.ranker", "DeepRanker")}
)
"""Estimators, by module and name, that read features computed beforehand in place of WordLlama's embedding."""


def feature_rankers() -> dict[str, Callable[[], LengthEstimator]]:
    """The estimators of :data:`FEATURE_RANKERS`, imported."""
    return {name: getattr(import_module(module), kind) for name, (module, kind) in FEATURE_RANKERS.items()}


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
