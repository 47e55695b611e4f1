"""Cosine nearest neighbours, and the shrunken, similarity-weighted mean over them: shared by serving and training.

    z   = unit((x - centre) @ axes)                     the metric: partly whitened embeddings
    w_i = max(0, z . z_i)^power                         over the k nearest prompts i of the bank
    q   = (sum_i w_i y_i + kappa * prior) / (sum_i w_i + kappa)
    q   = prior                                         where the mean cosine of the nearest ANCHORS is under the guard

``kappa`` is the weight, in prompts of similarity 1, of the models' mean quality (the prior), so a prompt that is like
nothing in the bank is judged by the prior: the shrinkage of ProxRouter (arXiv 2510.09852) with cosine weights. The
guard keeps the router close to the best single model on tasks that it has never seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

ANCHORS: Final = 10
"""How many of the nearest neighbours say how familiar a prompt is."""
_BLOCK: Final = 512
"""Queries compared with the bank at a time, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class KnnSettings:
    """``k`` neighbours; ``kappa`` and ``power`` as above.

    ``guard`` is a quantile of how familiar the bank's prompts are to each other. ``whiten`` is by which power the
    embedding's principal axes are scaled down by their spread: 0 is the plain cosine, 1 makes all axes count the same.
    """

    k: int = 200
    kappa: float = 1.0
    power: float = 2.0
    guard: float = 0.0
    whiten: float = 0.0

    def __post_init__(self) -> None:
        if self.k < 1 or self.kappa < 0 or self.power < 0 or not 0 <= self.guard < 1 or not 0 <= self.whiten <= 1:
            raise ValueError(f"k must be >= 1, kappa and power >= 0, guard in [0, 1) and whiten in [0, 1]: {self}")


@dataclass(frozen=True, slots=True)
class Metric:
    """How prompts are compared: ``centre`` (d,) and ``axes`` (d, d) of the embedding."""

    centre: Array
    axes: Array

    def __call__(self, embeddings: Array) -> Array:
        """Unit rows (n, d) to compare by their cosine; an embedding of zeros, a text without a token, stays zeros."""
        rotated = (embeddings - self.centre) @ self.axes
        length = np.linalg.norm(rotated, axis=1, keepdims=True)
        unit: Array = (rotated / np.maximum(length, 1e-12)).astype(np.float32)
        unit[~embeddings.any(axis=1)] = 0.0
        return unit


def plain_metric(dimensions: int) -> Metric:
    """The cosine of the embeddings as they are."""
    return Metric(np.zeros(dimensions, dtype=np.float32), np.eye(dimensions, dtype=np.float32))


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Nearest first: cosine ``similarity`` (n, k) and ``rows`` (n, k) of the bank."""

    similarity: Array
    rows: NDArray[np.intp]

    @property
    def familiarity(self) -> Array:
        """Mean cosine (n,) to the nearest :data:`ANCHORS`."""
        familiar: Array = self.similarity[:, :ANCHORS].mean(axis=1)
        return familiar

    def without_first(self) -> Neighbours:
        """Drop the nearest: the prompt itself, where queries come from the bank."""
        return Neighbours(self.similarity[:, 1:], self.rows[:, 1:])


def nearest(queries: Array, bank: Array, k: int) -> Neighbours:
    """The ``k`` (or as many as there are) rows of ``bank`` (N, d) nearest to each of ``queries`` (n, d), unit rows."""
    k = min(k, bank.shape[0])
    similarity = np.empty((queries.shape[0], k), dtype=np.float32)
    rows = np.empty((queries.shape[0], k), dtype=np.intp)
    for start in range(0, queries.shape[0], _BLOCK):
        block = slice(start, start + _BLOCK)
        similarity[block], rows[block] = _nearest(queries[block] @ bank.T, k)
    return Neighbours(similarity, rows)


def _nearest(similarity: Array, k: int) -> tuple[Array, NDArray[np.intp]]:
    size = similarity.shape[1]
    found = np.argpartition(similarity, size - k, axis=1)[:, size - k :]
    values = np.take_along_axis(similarity, found, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(found, order, axis=1)


def estimate(neighbours: Neighbours, quality: Array, prior: Array, settings: KnnSettings, guard: float) -> Array:
    """Expected quality (n, M) from the bank's ``quality`` (N, M); ``guard`` is the least familiarity trusted."""
    similarity, rows = neighbours.similarity[:, : settings.k], neighbours.rows[:, : settings.k]
    weights = np.maximum(similarity, 0.0) ** settings.power
    evidence = np.einsum("nk,nkm->nm", weights, quality[rows]) + settings.kappa * prior
    total = weights.sum(axis=1, keepdims=True) + settings.kappa
    learned = np.divide(evidence, total, out=np.tile(prior, (len(rows), 1)), where=total > 0)
    trusted = (neighbours.familiarity >= guard)[:, None]
    estimated: Array = np.where(trusted, learned, prior).astype(np.float32)
    return estimated
