"""The smooth half of the ranker: a ridge over words, lexical features and likeness to typical prompts.

    trend(prompt) = bias + Σ_word tfidf(word)·w_word + clip(z(lexical), ±4)·w_lexical
                         + Σ_k exp(−γ‖embedding − landmark_k‖²)·w_k

with sublinear tf, smoothed idf and rows of unit length (as in scikit-learn's TfidfVectorizer), and landmarks that are
cluster centres of the training prompts' embeddings (Nyström; Williams & Seeger 2001). It has two outputs: the prompt's
place among prompts of its own source, and its level, the place among all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.compiled import compiled
from predictors.length.features import Readings

Matrix = NDArray[np.float64]
Z_LIMIT = 4.0
"""Standardised lexical features are cut at this many standard deviations."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where n prompts lie: standardised lexical features (n, F), cosines to landmarks (n, K), squared norms (n,)."""

    standard: Matrix
    cosines: Matrix
    squares: Matrix

    @property
    def distances(self) -> Matrix:
        """Squared Euclidean distances (n, K) to the landmarks."""
        return np.asarray(self.squares[:, None] + 1.0 - 2.0 * self.cosines, dtype=np.float64)

    @property
    def likeness(self) -> Matrix:
        """Cosine (n,) to the nearest landmark; 0 for a text without a token."""
        return np.asarray(self.cosines.max(axis=1), dtype=np.float64)

    @property
    def strangeness(self) -> Matrix:
        """Root mean square (n,) of the standardised lexical features."""
        return np.asarray(np.sqrt((self.standard**2).mean(axis=1)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Trend:
    """A fitted trend: F lexical features, K landmarks, 2 outputs."""

    bias: Matrix
    words: Mapping[str, tuple[float, float, float]]
    """A word's idf, and its weight in each output."""
    mean: Matrix
    scale: Matrix
    """Standard deviation of each lexical feature (F,); 0 marks one that was constant and is left out."""
    lexical: Matrix
    """Weights (2, F)."""
    landmarks: NDArray[np.float32]
    """Of unit length (K, 256)."""
    likeness: Matrix
    """Weights (2, K)."""
    gamma: float

    def place(self, readings: Readings, embeddings: NDArray[np.float32]) -> Places:
        """Where prompts lie, for :meth:`predict` and for the check of distribution."""
        standard = standardise(readings.lexical, self.mean, self.scale)
        squares = np.vecdot(embeddings, embeddings).astype(np.float64)
        return Places(standard, cosines(embeddings, self.landmarks), squares)

    def predict(self, readings: Readings, places: Places) -> Matrix:
        """Scores (n, 2): place and level. Each row depends on its own prompt only, bit for bit."""
        words = np.array([self._words(words) for words in readings.words], dtype=np.float64).reshape(-1, 2)
        near = np.exp(-self.gamma * places.distances)
        lexical = np.vecdot(places.standard[:, None, :], self.lexical[None, :, :])
        return np.asarray(self.bias + words + lexical + np.vecdot(near[:, None, :], self.likeness[None, :, :]))

    def _words(self, words: Sequence[str]) -> tuple[float, float]:
        place, level, square = 0.0, 0.0, 0.0
        for word, count in Counter(words).items():
            known = self.words.get(word)
            if known is not None:
                value = (1.0 + math.log(count)) * known[0]
                place += value * known[1]
                level += value * known[2]
                square += value * value
        norm = math.sqrt(square) or 1.0
        return place / norm, level / norm


@compiled
def trend_of_one(
    lexical: NDArray[np.float32],
    words: Matrix,
    cosines: NDArray[np.float32],
    square: float,
    bias: Matrix,
    mean: Matrix,
    scale: Matrix,
    lexical_weights: Matrix,
    likeness_weights: Matrix,
    gamma: float,
    row: Matrix,
) -> tuple[float, float]:
    """:meth:`Trend.predict` of one prompt, to 1e-12, with its lexical features behind: ``row`` (2 + F,).

    Gives its likeness and its strangeness (:class:`Places`).
    """
    features = lexical.shape[0]
    squares, place, level = 0.0, 0.0, 0.0
    for feature in range(features):
        row[2 + feature] = lexical[feature]
        if scale[feature] > 0.0:
            z = min(max((lexical[feature] - mean[feature]) / scale[feature], -Z_LIMIT), Z_LIMIT)
            squares += z * z
            place += z * lexical_weights[0, feature]
            level += z * lexical_weights[1, feature]
    likeness, near_place, near_level = cosines[0], 0.0, 0.0
    for landmark in range(cosines.shape[0]):
        likeness = max(likeness, cosines[landmark])
        near = math.exp(-gamma * (square + 1.0 - 2.0 * np.float64(cosines[landmark])))
        near_place += near * likeness_weights[0, landmark]
        near_level += near * likeness_weights[1, landmark]
    row[0] = bias[0] + words[0] + place + near_place
    row[1] = bias[1] + words[1] + level + near_level
    return np.float64(likeness), math.sqrt(squares / features)


def standardise(lexical: NDArray[np.float32], mean: Matrix, scale: Matrix) -> Matrix:
    """Lexical features (n, F) in standard deviations, cut at ``Z_LIMIT``; 0 where ``scale`` is 0."""
    z = np.divide(lexical - mean, scale, out=np.zeros(lexical.shape), where=scale > 0)
    return np.clip(z, -Z_LIMIT, Z_LIMIT)


def cosines(embeddings: NDArray[np.float32], landmarks: NDArray[np.float32]) -> Matrix:
    """Products (n, K) of embeddings (n, 256) and landmarks (K, 256), all of unit length.

    By ``vecdot`` and not by matrix product: that would start BLAS threads beside a server's own, and round differently
    with the size of the batch.
    """
    return np.asarray(np.vecdot(embeddings[:, None, :], landmarks[None, :, :]), dtype=np.float64)
