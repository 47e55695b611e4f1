"""What the predictors say of prompts, in the controller's words. Pure and batched; drivers call it off their loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from controller.types import PoolName, Scores
from predictors.types import Prompt

_Floats = NDArray[np.floating]
_Bools = NDArray[np.bool_]


_Length = tuple[float | None, float | None, float | None, float | None]
"""Rank, expected tokens, their 0.9 quantile, and what is expected beyond it."""
_UNKNOWN: _Length = (None, None, None, None)


class Embeds(Protocol):
    """:class:`predictors.embedding.Embedder`."""

    def embed(self, texts: Sequence[str], /) -> NDArray[np.float32]: ...
    def embed_one(self, text: str, /) -> NDArray[np.float32]: ...


class LengthScores(Protocol):
    """One row a prompt."""

    @property
    def rank(self) -> _Floats: ...
    @property
    def tokens(self) -> _Floats: ...
    @property
    def in_distribution(self) -> _Bools: ...
    @property
    def high(self) -> _Floats: ...
    @property
    def tail(self) -> _Floats: ...


class LengthPredictor(Protocol):
    """:class:`predictors.length.model.FastLength`; ``high`` and ``tail`` are NaN where it does not know."""

    def predict(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32], /) -> LengthScores: ...
    def predict_one(
        self, prompt: Prompt, embedding: NDArray[np.float32], /
    ) -> tuple[float, float, bool, float, float]: ...


class QualityScores(Protocol):
    """One row a prompt, one column a model."""

    @property
    def quality(self) -> _Floats: ...
    @property
    def in_distribution(self) -> _Bools: ...


class QualityPredictor(Protocol):
    """:class:`predictors.quality.model.KnnQuality`."""

    @property
    def models_(self) -> tuple[str, ...]: ...
    def predict(self, embeddings: NDArray[np.float32], /) -> QualityScores: ...
    def predict_one(self, embedding: NDArray[np.float32], /) -> tuple[Sequence[float], bool]: ...


class Scorer:
    """Scores prompts with whatever predictors there are; each prompt is embedded once, for all of them.

    ``pool_models`` maps each pool to the model of the quality predictor that stands for it. Pools whose model the
    predictor does not know are left out of ``Scores.quality``; if it knows none of them, it is not asked.
    """

    def __init__(
        self,
        embedder: Embeds,
        length: LengthPredictor | None,
        quality: QualityPredictor | None,
        pool_models: Mapping[PoolName, str],
    ) -> None:
        self._embedder = embedder
        self._length = length
        columns = {} if quality is None else {model: column for column, model in enumerate(quality.models_)}
        self._columns = {pool: columns[model] for pool, model in pool_models.items() if model in columns}
        self._quality = quality if self._columns else None

    @property
    def scored_pools(self) -> frozenset[PoolName]:
        """Pools whose answers' quality can be predicted."""
        return frozenset(self._columns)

    def score(self, prompts: Sequence[Prompt]) -> list[Scores]:
        """One :class:`Scores` a prompt; ``None`` in it where a predictor is absent or out of its distribution."""
        if not prompts or (self._length is None and self._quality is None):
            return [Scores() for _ in prompts]
        if len(prompts) == 1:
            return [self._score_one(prompts[0])]
        embeddings = self._embedder.embed([prompt.text for prompt in prompts])
        lengths = self._lengths(prompts, embeddings)
        qualities = self._qualities(len(prompts), embeddings)
        return [
            Scores(rank, tokens, quality, high, tail)
            for (rank, tokens, high, tail), quality in zip(lengths, qualities, strict=True)
        ]

    def _score_one(self, prompt: Prompt) -> Scores:
        """The same of one prompt, as a gateway asks, without arrays of one row."""
        embedding = self._embedder.embed_one(prompt.text)
        rank, tokens, high, tail = _UNKNOWN
        quality: dict[PoolName, float] | None = None
        if self._length is not None:
            rank, tokens, known, high, tail = self._length.predict_one(prompt, embedding)
            if not known:
                rank, tokens, high, tail = _UNKNOWN
            elif high != high:  # not a number: it has no quantiles
                high = tail = None
        if self._quality is not None:
            row, known = self._quality.predict_one(embedding)
            if known:
                quality = {pool: row[column] for pool, column in self._columns.items()}
        return Scores(rank, tokens, quality, high, tail)

    def _lengths(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> list[_Length]:
        if self._length is None:
            return [_UNKNOWN] * len(prompts)
        scores = self._length.predict(prompts, embeddings)
        columns = (scores.rank, scores.tokens, scores.high, scores.tail)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        known = scores.in_distribution.tolist()
        return [
            ((r, t, None, None) if high != high else (r, t, high, tail)) if sure else _UNKNOWN
            for (r, t, high, tail), sure in zip(rows, known, strict=True)
        ]

    def _qualities(self, n: int, embeddings: NDArray[np.float32]) -> list[dict[PoolName, float] | None]:
        if self._quality is None:
            return [None] * n
        scores = self._quality.predict(embeddings)
        return [
            {pool: row[column] for pool, column in self._columns.items()} if known else None
            for row, known in zip(scores.quality.tolist(), scores.in_distribution.tolist(), strict=True)
        ]
