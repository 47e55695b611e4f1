"""A linear head on hidden states: ridge regression whose strength is chosen by leaving one prompt out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
STRENGTHS: Final = tuple(float(10.0**x) for x in np.arange(1.0, 5.01, 0.25))
"""Tried for the ridge, on standardised features."""


@dataclass(frozen=True, slots=True)
class Head:
    """``mean``, ``scale`` and ``weights`` (d,) on standardised features; ``bias``; the ``strength`` that was chosen."""

    mean: Matrix
    scale: Matrix
    weights: Matrix
    bias: float
    strength: float

    def score(self, features: NDArray[np.floating]) -> Matrix:
        """Scores (n,) of features (n, d)."""
        standard = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        return np.asarray(np.vecdot(standard, self.weights) + self.bias, dtype=np.float64)


def tuned_head(changes: Mapping[str, NDArray[np.floating]]) -> Head:
    """The head of a fine-tuned encoder, from the file of its changes: the mean of the models' heads, which on inner
    folds ranked better than the head of their consensus."""
    weights, bias = (np.asarray(changes[f"head-{name}"], np.float64)[1:].mean(axis=0) for name in ("weight", "bias"))
    mean, scale = (np.asarray(changes[name], np.float64) for name in ("mean", "scale"))
    return Head(mean, scale, weights, float(bias), 0.0)


def fit_head(
    features: NDArray[np.floating], target: Matrix, weight: Matrix, strengths: Sequence[float] = STRENGTHS
) -> Head:
    """Weighted ridge of ``target`` (n,) on features (n, d).

    The error of a prompt left out is its residual over one minus its leverage, which needs one decomposition for all
    strengths.
    """
    x = np.asarray(features, dtype=np.float64)
    mean = np.average(x, axis=0, weights=weight)
    scale = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weight))
    scale[scale < 1e-9] = 1.0
    bias = float(np.average(target, weights=weight))
    root = np.sqrt(weight)
    scaled, aim = (x - mean) / scale * root[:, None], (target - bias) * root
    left, singular, right = np.linalg.svd(scaled, full_matrices=False)
    turned = left * singular
    along = turned.T @ aim
    best: tuple[float, float, Matrix] | None = None
    for strength in strengths:
        shrunk = 1.0 / (singular**2 + strength)
        leverage = (turned**2) @ shrunk + weight / weight.sum()
        error = (aim - turned @ (along * shrunk)) / np.maximum(1.0 - leverage, 1e-6)
        loss = float(np.mean(error**2))
        if best is None or loss < best[0]:
            best = (loss, strength, right.T @ (along * shrunk))
    if best is None:
        raise ValueError("a ridge needs at least one strength to try")
    return Head(mean, scale, best[2], bias, best[1])
