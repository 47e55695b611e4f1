"""The length ranker for one prompt at a time, as a gateway asks: the same numbers without numpy's cost per call."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.codes import Entries
from predictors.compiled import compiled, lined
from predictors.embedding import excerpt
from predictors.length.calibration import calibrated
from predictors.length.features import FEATURES
from predictors.length.reading import Characters, Reader, coded_twice, read_text
from predictors.length.trees import Integers, Shorts, parse, walk
from predictors.length.trend import Matrix, Trend, trend_of_one
from predictors.types import Prompt

__all__ = ["Single"]

_FEATURES: Final = len(FEATURES)
_UNLIMITED: Final = -1
_MOST: Final = 2**53
"""A limit of tokens, or a number of turns, beyond which all are the same."""


class Single:
    """A trend, LightGBM trees over it, and their calibration. Immutable after construction; safe to share between
    threads."""

    def __init__(
        self,
        trend: Trend,
        ranker: str,
        knots: tuple[Matrix, ...],
        limits: tuple[float, float],
        blend: tuple[float, float],
    ) -> None:
        """``ranker`` is LightGBM's text format, ``knots`` (k,) are scores, ranks, and logarithms of tokens, of their
        quantile and of their tail, ``limits`` the least likeness and the most strangeness
        (:class:`~predictors.length.trend.Places`) of the known, ``blend`` the weights of the trend's outputs."""
        reader = Reader(trend.words)
        trees = parse(ranker)
        self._landmarks = lined(trend.landmarks.astype(np.float32))
        self.usable = reader.usable and trees is not None
        """Whether :meth:`score` can be asked at all."""
        if trees is not None and self.usable:
            parts = (
                limits,
                blend,
                trend.gamma,
                trend.bias,
                trend.mean,
                trend.scale,
                trend.lexical,
                trend.likeness,
                *knots,
            )
            numbers = lined(np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for part in parts]))
            self._tables = (reader.characters, reader.entries, reader.numbers, numbers, trees.nodes, trees.leaves)
            self._trees = (trees.branches, trees.threshold, trees.value)
            zero = np.zeros(trend.landmarks.shape[1], dtype=np.float32)
            self.score(Prompt("Compiles the kernels."), zero)

    def score(self, prompt: Prompt, embedding: NDArray[np.float32]) -> tuple[float, float, bool, float, float] | None:
        """Rank, tokens, whether it is in distribution, high and tail, of a prompt and its embedding (256,); ``None``
        where only the whole predictor can tell."""
        text = prompt.text
        coded, lower, plain = coded_twice(excerpt(text))
        limit = prompt.max_tokens
        known, rank, tokens, high, tail = _score(
            coded,
            lower,
            plain,
            len(text),
            _UNLIMITED if limit is None else min(max(limit, 0), _MOST),
            min(prompt.turns, _MOST),
            np.vecdot(embedding, self._landmarks),
            float(embedding.dot(embedding)),
            *self._tables,
            *self._trees,
        )
        return None if known < 0 else (rank, tokens, known > 0, high, tail)


@compiled
def _score(
    text: bytes,
    lower: bytes,
    plain: bool,
    chars: int,
    max_tokens: int,
    turns: int,
    cosines: NDArray[np.float32],
    square: float,
    characters: Characters,
    entries: Entries,
    words: Matrix,
    numbers: Matrix,
    nodes: Integers,
    leaves: Integers,
    branches: Shorts,
    threshold: Matrix,
    value: Matrix,
) -> tuple[int, float, float, float, float]:
    """Whether it is in distribution (1 or 0, -1 where this cannot tell), rank, tokens, high and tail.

    ``numbers`` are limits, blend, gamma, bias, mean, scale, lexical weights, likeness weights and knots, one after the
    other: each array of a call costs 50 ns.
    """
    lexical, sums = np.zeros(_FEATURES, dtype=np.float32), np.zeros(2)
    if not read_text(text, lower, plain, chars, max_tokens, turns, characters, entries, words, lexical, sums):
        return -1, 0.0, 0.0, 0.0, 0.0
    landmarks = len(cosines)
    mean = 7
    scale = mean + _FEATURES
    weights = scale + _FEATURES
    likeness_weights = weights + 2 * _FEATURES
    knots = likeness_weights + 2 * landmarks
    many = (len(numbers) - knots) // 5
    row = np.empty(2 + _FEATURES)
    likeness, strangeness = trend_of_one(
        lexical,
        sums,
        cosines,
        square,
        numbers[5:mean],
        numbers[mean:scale],
        numbers[scale:weights],
        numbers[weights:likeness_weights].reshape(2, _FEATURES),
        numbers[likeness_weights:knots].reshape(2, landmarks),
        numbers[4],
        row,
    )
    rank, tokens, high, tail = calibrated(
        walk(row, nodes, leaves, branches, threshold, value) + numbers[2] * row[0] + numbers[3] * row[1],
        float(max_tokens) if max_tokens > 0 else np.inf,
        numbers[knots : knots + many],
        numbers[knots + many : knots + 2 * many],
        numbers[knots + 2 * many : knots + 3 * many],
        numbers[knots + 3 * many : knots + 4 * many],
        numbers[knots + 4 * many :],
    )
    return int(likeness >= numbers[0] and strangeness <= numbers[1]), rank, tokens, high, tail
