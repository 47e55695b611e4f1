"""``history``: what a prompt's nearest neighbours among the logged answers were like. Learns from a deployment's own
traffic, one answer at a time, without training.

Lengths are logarithms, standardised by each model's running mean and deviation, so that the answers of one model tell
of another's. A neighbour weighs exp(sharpness · cosine).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from predictors.artifact import ArtifactSchema
from predictors.embedding import DIMENSIONS
from predictors.length.data import LengthData
from predictors.length.estimator import embedded
from predictors.length.model import LengthScores
from predictors.length.quantiles import HIGH, limited_tail
from predictors.types import Prompt

__all__ = ["HISTORY_FILE", "HistoryLength", "HistoryRanker"]

HISTORY_FILE: Final = "history.npz"
_ENOUGH: Final = 20
"""Answers, before which nothing is in distribution."""
_LEAST_LIKENESS: Final = 0.2
_LEAST_DEVIATION: Final = 0.05
_PRIOR: Final = 10.0
"""Answers that a model's mean and deviation are worth less than everybody's."""

Matrix = NDArray[np.float64]


class HistoryLength:
    """The latest ``capacity`` answers. Not safe to share between threads while it observes."""

    def __init__(self, capacity: int = 10_000, neighbours: int = 1000, sharpness: float = 10.0) -> None:
        if capacity < 1 or neighbours < 1:
            raise ValueError(f"capacity and neighbours are at least 1, not {capacity} and {neighbours}")
        self.capacity = capacity
        self.neighbours = neighbours
        self.sharpness = sharpness
        self._embeddings = np.zeros((capacity, DIMENSIONS), dtype=np.float32)
        self._lengths = np.zeros(capacity)
        self._of = np.zeros(capacity, dtype=np.intp)
        self._models: dict[str, int] = {}
        self._sums = np.zeros((0, 3))
        self._seen = 0

    def __len__(self) -> int:
        return min(self._seen, self.capacity)

    def observe(self, embedding: NDArray[np.float32], model: str, tokens: float) -> None:
        """An answer of a model to a prompt with this embedding (256,) was so many tokens long.

        Raises:
            ValueError: the embedding is not (256,) and finite, or the tokens are not a finite number >= 0.
        """
        if embedding.shape != (DIMENSIONS,) or not np.isfinite(embedding).all():
            raise ValueError(f"an embedding is ({DIMENSIONS},) and finite, not {embedding.shape}")
        if not (math.isfinite(tokens) and tokens >= 0):
            raise ValueError(f"an answer has a finite number of tokens >= 0, not {tokens}")
        column = self._models.setdefault(model, len(self._models))
        if column == len(self._sums):
            self._sums = np.vstack([self._sums, np.zeros((1, 3))])
        length, slot = math.log(max(tokens, 1.0)), self._seen % self.capacity
        if self._seen >= self.capacity:
            self._count(self._of[slot], float(self._lengths[slot]), -1.0)
        self._embeddings[slot], self._lengths[slot], self._of[slot] = embedding, length, column
        self._count(column, length, 1.0)
        self._seen += 1

    def predict(
        self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32], model: str | None = None
    ) -> LengthScores:
        """Scores of prompts and their embeddings (n, 256), for a model, or a typical one where it is none or not known.

        ``tokens``, ``high`` and ``tail`` are those of the neighbours' answers, without a conformal correction; before
        the first answer they are NaN.
        """
        embedded(prompts, embeddings, DIMENSIONS)
        rows = [self.predict_one(prompt, row, model) for prompt, row in zip(prompts, embeddings, strict=True)]
        columns = zip(*rows, strict=True) if rows else ((),) * 5
        rank, tokens, known, high, tail = (np.array(column, dtype=np.float64) for column in columns)
        return LengthScores(rank, tokens, known.astype(np.bool_), high, tail)

    def predict_one(
        self, prompt: Prompt, embedding: NDArray[np.float32], model: str | None = None
    ) -> tuple[float, float, bool, float, float]:
        """Rank, tokens, whether it is in distribution, high and tail of one prompt: as :meth:`predict`."""
        kept = len(self)
        if not kept:
            return 0.5, math.nan, False, math.nan, math.nan
        likeness = np.vecdot(self._embeddings[:kept], embedding)
        near = self._nearest(likeness)
        closeness = likeness[near].astype(np.float64)
        weights = np.exp(self.sharpness * (closeness - closeness.max()))
        weights /= weights.sum()
        means, deviations = self._scales()
        places = (self._lengths[near] - means[self._of[near]]) / deviations[self._of[near]]
        column = self._models.get(model, -1) if model is not None else -1
        order = np.argsort(places, kind="stable")
        tokens = np.exp(means[column] + deviations[column] * places[order])
        mean, high, tail = _summary(tokens, weights[order])
        rank = 0.5 * (1.0 + math.erf(float(np.vecdot(weights, places)) / math.sqrt(2.0)))
        known = kept >= _ENOUGH and float(closeness.max()) >= _LEAST_LIKENESS
        limit = float(prompt.max_tokens) if prompt.max_tokens and prompt.max_tokens > 0 else math.inf
        if mean > limit:
            place = (math.log(limit) - means[column]) / deviations[column]
            rank = min(rank, 0.5 * (1.0 + math.erf(float(place) / math.sqrt(2.0))))
        beyond = float(limited_tail(np.array([high]), np.array([tail]), np.array([limit]))[0])
        return rank, min(mean, limit), known, min(high, limit), beyond

    def export(self) -> dict[str, bytes]:
        """Files, from which :meth:`from_files` makes one that predicts the same bits."""
        kept = len(self)
        state: dict[str, Any] = {"capacity": self.capacity, "neighbours": self.neighbours, "seen": self._seen}
        state |= {"sharpness": self.sharpness, "models": list(self._models)}
        buffer = io.BytesIO()
        np.savez(
            buffer,
            allow_pickle=False,
            state=np.frombuffer(json.dumps(state, allow_nan=False).encode(), dtype=np.uint8),
            embeddings=self._embeddings[:kept],
            lengths=self._lengths[:kept],
            of=self._of[:kept],
            sums=self._sums,
        )
        return {HISTORY_FILE: buffer.getvalue()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> HistoryLength:
        """The inverse of :meth:`export`.

        Raises:
            ArtifactSchema: they are not such files.
        """
        try:
            with np.load(io.BytesIO(files[HISTORY_FILE]), allow_pickle=False) as stored:
                arrays = {name: np.asarray(stored[name]) for name in ("embeddings", "lengths", "of", "sums")}
                state = json.loads(stored["state"].tobytes())
            found = cls(int(state["capacity"]), int(state["neighbours"]), float(state["sharpness"]))
            found._seen = int(state["seen"])
            found._models = {str(model): column for column, model in enumerate(state["models"])}
            kept, models = len(found), len(found._models)
            shapes = {"embeddings": (kept, DIMENSIONS), "lengths": (kept,), "of": (kept,), "sums": (models, 3)}
            if any(arrays[name].shape != shape for name, shape in shapes.items()):
                raise ValueError("its arrays do not have the shapes that it says")
            if kept and not 0 <= arrays["of"].min() <= arrays["of"].max() < models:
                raise ValueError("it names models that it does not list")
            found._embeddings[:kept], found._lengths[:kept] = arrays["embeddings"], arrays["lengths"]
            found._of[:kept], found._sums = arrays["of"], arrays["sums"].astype(np.float64)
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise ArtifactSchema(f"not a history of lengths: {type(error).__name__}: {error}") from error
        return found

    def _nearest(self, likeness: NDArray[np.float32]) -> NDArray[np.intp]:
        if len(likeness) <= self.neighbours:
            return np.arange(len(likeness))
        return np.argpartition(likeness, -self.neighbours)[-self.neighbours :]

    def _count(self, column: int, length: float, sign: float) -> None:
        self._sums[column] += sign * np.array([1.0, length, length * length])

    def _scales(self) -> tuple[Matrix, Matrix]:
        """Mean and deviation of each model's logarithms, drawn towards everybody's, which come last."""
        total = self._sums.sum(axis=0)
        mean = total[1] / total[0]
        spread = max(total[2] / total[0] - mean * mean, 0.0)
        count = self._sums[:, 0] + _PRIOR
        means = (self._sums[:, 1] + _PRIOR * mean) / count
        squares = (self._sums[:, 2] + _PRIOR * (spread + mean * mean)) / count
        deviations = np.sqrt(np.maximum(squares - means * means, 0.0))
        every = np.append(deviations, math.sqrt(spread))
        return np.append(means, mean), np.maximum(every, _LEAST_DEVIATION)


class HistoryRanker:
    """As an estimator, which observes all answers of its data. After ``fit``: ``model_``."""

    embeds: ClassVar[bool] = True

    def __init__(self, capacity: int = 10_000, neighbours: int = 1000, sharpness: float = 10.0) -> None:
        self.capacity = capacity
        self.neighbours = neighbours
        self.sharpness = sharpness

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Observe the answers, prompt by prompt."""
        self.model_ = HistoryLength(self.capacity, self.neighbours, self.sharpness)
        for embedding, row in zip(embedded(data.prompts, embeddings, DIMENSIONS), data.tokens, strict=True):
            for column in np.flatnonzero(~np.isnan(row)):
                self.model_.observe(embedding, data.models[column], float(row[column]))
        return self

    def predict(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> LengthScores:
        """What :class:`HistoryLength` predicts for a typical model."""
        return self.model_.predict(prompts, embeddings)

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """Only the ranks (n,) of :meth:`predict`."""
        return self.model_.predict(prompts, embeddings).rank

    def export(self) -> dict[str, bytes]:
        """What serves, as files."""
        return self.model_.export()

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """A fitted ranker from :meth:`export`."""
        model = HistoryLength.from_files(files)
        loaded = cls(model.capacity, model.neighbours, model.sharpness)
        loaded.model_ = model
        return loaded


def _summary(tokens: Matrix, weights: Matrix) -> tuple[float, float, float]:
    """Mean, 0.9 quantile, and mean beyond it, of rising tokens (k,) with weights that sum to 1."""
    share = np.minimum(np.cumsum(weights), 1.0)
    share[-1] = 1.0
    beyond = np.maximum(share - np.maximum(np.concatenate([[0.0], share[:-1]]), HIGH), 0.0)
    at = int(np.searchsorted(share, HIGH - 1e-12))
    return float(np.vecdot(weights, tokens)), float(tokens[at]), float(np.vecdot(beyond, tokens) / beyond.sum())
