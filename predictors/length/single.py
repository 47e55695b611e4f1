"""The length ranker for one prompt at a time, as a gateway asks: the same numbers without numpy's cost per call."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictors.length.reading import Reader
from predictors.length.trees import parse, walk
from predictors.length.trend import Trend, trend_of_one
from predictors.types import Prompt

__all__ = ["Found", "Single"]


class Found(NamedTuple):
    """The trees' raw score, and how like and how strange the prompt is to those trained on."""

    score: float
    likeness: float
    strangeness: float


class Single:
    """A trend and LightGBM trees over it. Immutable after construction; safe to share between threads."""

    def __init__(self, trend: Trend, ranker: str) -> None:
        """``ranker`` is LightGBM's text format."""
        self._trend = trend
        self._reader = Reader(trend.words)
        self._trees = parse(ranker)
        self._bias = np.ascontiguousarray(trend.bias, dtype=np.float64)
        self._mean = np.ascontiguousarray(trend.mean, dtype=np.float64)
        self._scale = np.ascontiguousarray(trend.scale, dtype=np.float64)
        self._lexical = np.ascontiguousarray(trend.lexical, dtype=np.float64)
        self._likeness = np.ascontiguousarray(trend.likeness, dtype=np.float64)
        self.usable = self._reader.usable and self._trees is not None
        """Whether :meth:`score` can be asked at all."""
        if self.usable:
            self.score(Prompt("Compiles the kernels."), np.zeros(trend.landmarks.shape[1], dtype=np.float32))

    def score(self, prompt: Prompt, embedding: NDArray[np.float32]) -> Found | None:
        """Score a prompt by its embedding (256,); ``None`` where only the whole predictor can tell."""
        trees, trend = self._trees, self._trend
        read = self._reader.read(prompt)
        if read is None or trees is None:
            return None
        lexical, words = read
        row = np.empty(2 + len(lexical))
        likeness, strangeness = trend_of_one(
            lexical,
            words,
            np.vecdot(embedding, trend.landmarks),
            float(embedding.dot(embedding)),
            self._bias,
            self._mean,
            self._scale,
            self._lexical,
            self._likeness,
            trend.gamma,
            row,
        )
        score = walk(
            row, trees.nodes, trees.leaves, trees.feature, trees.threshold, trees.left, trees.right, trees.value
        )
        return Found(score, likeness, strangeness)
