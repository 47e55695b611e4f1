"""Training ``lexical``: ridge regression of the consensus rank on lexical features, calibrated out of fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from predictors.length.data import LengthData, LengthDataError
from predictors.length.features import read
from predictors.length.lexical import LexicalLength
from predictors.length.model import LengthScores
from predictors.length.target import Consensus, consensus, typical_answers
from predictors.length.train import calibrate, grouped_folds, splits
from predictors.length.trend import standardise
from predictors.types import Prompt

__all__ = ["LexicalRanker", "ridge"]

Matrix = NDArray[np.float64]
_BINS: Final = 16
_LEAST_PROMPTS: Final = 20
_ROOM: Final = 1.15
"""How much stranger than the strangest of a thousand training prompts one may be."""


class LexicalRanker:
    """After ``fit``: ``model_`` (what serves) and ``out_of_fold_`` (n,), the inner folds' scores."""

    embeds: ClassVar[bool] = False

    def __init__(self, strength: float = 200.0, inner_folds: int = 5, seed: int = 0) -> None:
        self.strength = strength
        self.inner_folds = inner_folds
        self.seed = seed

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Learn from prompts; embeddings are not read.

        Raises:
            LengthDataError: there are too few prompts, or nothing tells them apart.
        """
        if len(set(data.groups)) < _LEAST_PROMPTS:
            raise LengthDataError(f"{len(set(data.groups))} prompts are too few; {_LEAST_PROMPTS} are the least")
        lexical, labels = read(data.prompts).lexical, consensus(data)
        everything = np.arange(len(data))
        self.out_of_fold_ = np.empty(len(data))
        for train, test in splits(grouped_folds(data.groups, self.inner_folds, self.seed)):
            mean, scale, weights = self._weights(lexical, labels, train)
            self.out_of_fold_[test] = standardise(lexical[test], mean, scale) @ weights
        mean, scale, weights = self._weights(lexical, labels, everything)
        strangeness = np.sqrt((standardise(lexical, mean, scale) ** 2).mean(axis=1))
        calibration = calibrate(self.out_of_fold_, labels, _BINS, typical_answers(data))
        most = float(np.quantile(strangeness, 0.999)) * _ROOM
        self.model_ = LexicalLength(mean, scale, weights, calibration, most)
        return self

    def predict(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> LengthScores:
        """What :class:`~predictors.length.lexical.LexicalLength` predicts."""
        return self.model_.predict(prompts)

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """Only the ranks (n,) of :meth:`predict`."""
        return self.model_.predict(prompts).rank

    def export(self) -> dict[str, bytes]:
        """What serves, as files."""
        return self.model_.export()

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """A fitted ranker from :meth:`export`; of what ``fit`` learns it has ``model_`` only."""
        loaded = cls()
        loaded.model_ = LexicalLength.from_files(files)
        return loaded

    def _weights(
        self, lexical: NDArray[np.float32], labels: Consensus, rows: NDArray[np.intp]
    ) -> tuple[Matrix, Matrix, Matrix]:
        mean = lexical[rows].mean(axis=0, dtype=np.float64)
        scale = lexical[rows].std(axis=0, dtype=np.float64)
        scale[scale < 1e-9] = 0.0
        return mean, scale, ridge(standardise(lexical[rows], mean, scale), labels, self.strength, rows)


def ridge(features: Matrix, labels: Consensus, strength: float, rows: NDArray[np.intp] | None = None) -> Matrix:
    """Weights (f,) of centred features (n, f) for the level of the labels, or of their ``rows`` (n,)."""
    chosen = slice(None) if rows is None else rows
    level, weight = labels.level[chosen], labels.weight[chosen]
    target = level - np.average(level, weights=weight)
    gram = features.T @ (features * weight[:, None]) + strength * np.eye(features.shape[1])
    return np.asarray(solve(gram, features.T @ (weight * target), assume_a="pos"), dtype=np.float64)
