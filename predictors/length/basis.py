"""The features that a :class:`~predictors.length.trend.Trend` is linear in, learned from training prompts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from predictors.length.features import Readings
from predictors.length.trend import Places, Trend, cosines, standardise

__all__ = ["Basis", "BasisSettings", "centres"]

Matrix = NDArray[np.float64]


class BasisSettings(Protocol):
    """:class:`predictors.length.train.FastSettings`."""

    @property
    def landmarks(self) -> int: ...
    @property
    def gamma(self) -> float: ...
    @property
    def lexical_share(self) -> float: ...
    @property
    def least_documents(self) -> int: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Basis:
    """n training prompts: whitened likeness to landmarks (n, K), scaled lexical features (n, F), tf-idf (n, W)."""

    near: Matrix
    standard: Matrix
    counts: csr_array
    landmarks: NDArray[np.float32]
    whiten: Matrix
    mean: Matrix
    scale: Matrix
    idf: Mapping[str, float]
    gamma: float
    share: float
    """Square root of the weight of the lexical features' kernel, with which ``standard`` is multiplied."""

    @classmethod
    def of(cls, readings: Readings, embeddings: NDArray[np.float32], settings: BasisSettings) -> Basis:
        """Learn it from prompts and their embeddings (n, 256)."""
        mean = readings.lexical.mean(axis=0, dtype=np.float64)
        scale = readings.lexical.std(axis=0, dtype=np.float64)
        scale[scale < 1e-9] = 0.0
        share = math.sqrt(settings.lexical_share)
        standard = standardise(readings.lexical, mean, scale) * share
        idf = _idf(readings.words, settings.least_documents)
        landmarks = centres(embeddings, settings.landmarks, settings.seed)
        squares = (embeddings.astype(np.float64) ** 2).sum(axis=1)
        likeness = np.exp(-settings.gamma * Places(standard, cosines(embeddings, landmarks), squares).distances)
        whiten = _whitening(landmarks, settings.gamma)
        return cls(
            near=likeness @ whiten,
            standard=standard,
            counts=_tfidf(readings.words, idf),
            landmarks=landmarks,
            whiten=whiten,
            mean=mean,
            scale=scale,
            idf=idf,
            gamma=settings.gamma,
            share=share,
        )

    def kernel(self) -> Matrix:
        """Products (n, n) of the prompts' features."""
        words = (self.counts @ self.counts.T).toarray()
        return np.asarray(self.near @ self.near.T + self.standard @ self.standard.T + words, dtype=np.float64)

    def features(self) -> Matrix:
        """All features (n, K + F + W), in that order."""
        return np.hstack([self.near, self.standard, self.counts.toarray()])

    def trend(self, bias: Matrix, weights: Matrix) -> Trend:
        """The trend with weights (K + F + W, 2) of :meth:`features` and a bias (2,)."""
        near, lexical, words = np.split(weights, np.cumsum([self.near.shape[1], self.standard.shape[1]]))
        by_word = np.round(words, 7)
        return Trend(
            bias=bias,
            words={w: (idf, float(by_word[i, 0]), float(by_word[i, 1])) for i, (w, idf) in enumerate(self.idf.items())},
            mean=self.mean,
            scale=self.scale,
            lexical=lexical.T * self.share,
            landmarks=self.landmarks,
            likeness=(self.whiten @ near).T.copy(),
            gamma=self.gamma,
        )


def centres(embeddings: NDArray[np.float32], count: int, seed: int, rounds: int = 12) -> NDArray[np.float32]:
    """Unit cluster centres (count, 256) by spherical k-means; all distinct rows when there are no more than that."""
    points = np.unique(embeddings[np.linalg.norm(embeddings, axis=1) > 0.5], axis=0).astype(np.float64)
    if len(points) <= count:
        return points.astype(np.float32)
    found = points[np.sort(np.random.default_rng(seed).choice(len(points), count, replace=False))]
    for _ in range(rounds):
        nearest = np.argmax(points @ found.T, axis=1)
        sums = np.zeros_like(found)
        np.add.at(sums, nearest, points)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        found = np.where(norms > 1e-9, sums / np.maximum(norms, 1e-9), found)
    return found.astype(np.float32)


def _whitening(landmarks: NDArray[np.float32], gamma: float) -> Matrix:
    """The matrix (K, K) that takes likenesses to features whose products approximate the RBF kernel."""
    among = np.exp(-2.0 * gamma * (1.0 - cosines(landmarks, landmarks)))
    values, vectors = np.linalg.eigh(among + 1e-6 * np.eye(len(landmarks)))
    return np.asarray(vectors / np.sqrt(np.maximum(values, 1e-6)), dtype=np.float64)


def _idf(documents: Sequence[Sequence[str]], least: int) -> dict[str, float]:
    """Smoothed inverse document frequency of words in at least ``least`` documents, in alphabetical order."""
    found = Counter(word for words in documents for word in set(words))
    return {
        word: float(f"{math.log((1 + len(documents)) / (1 + n)) + 1:.6g}")
        for word, n in sorted(found.items())
        if n >= least
    }


def _tfidf(documents: Sequence[Sequence[str]], idf: Mapping[str, float]) -> csr_array:
    position = {word: i for i, word in enumerate(idf)}
    values: list[float] = []
    columns: list[int] = []
    ends = [0]
    for words in documents:
        row = {position[w]: (1.0 + math.log(n)) * idf[w] for w, n in Counter(words).items() if w in position}
        norm = math.sqrt(sum(value * value for value in row.values()))
        columns += row
        values += (value / norm for value in row.values())
        ends.append(len(columns))
    return csr_array((values, columns, ends), shape=(len(documents), len(idf)))
