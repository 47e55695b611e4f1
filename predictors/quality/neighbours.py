"""Cosine nearest neighbours, and the shrunken, similarity-weighted mean over them: shared by serving and training.

    z   = round(unit((x - centre) @ axes) * 2^11) / 2^11    the metric: partly whitened embeddings
    w_i = max(0, z . z_i)^power                             over the k nearest prompts i of the bank
    q   = (sum_i w_i y_i + kappa * prior) / (sum_i w_i + kappa)
    q   = prior                                             where the nearest ANCHORS' mean z . z_i is under the guard

``kappa`` is the weight, in prompts of similarity 1, of the models' mean quality (the prior), so a prompt that is like
nothing in the bank is judged by the prior: the shrinkage of ProxRouter (arXiv 2510.09852) with cosine weights. The
guard keeps the router close to the best single model on tasks that it has never seen.

All coordinates are multiples of a power of two, small enough for every product and every partial sum of a dot product
to be exact. So a prompt's score is the same bit for bit alone or in a batch, on any machine and BLAS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

POINT_GRID: Final = 2.0**-11
"""Products are multiples of 2^-22 and sums at most 1.01: exact in float32."""
_EMBEDDING_GRID: Final = 2.0**-16
_AXES_GRID: Final = 2.0**-16
"""Products of embeddings (at most 1) and axes are multiples of 2^-32, sums far below 2^20: exact in float64."""

ANCHORS: Final = 10
"""How many of the nearest neighbours say how familiar a prompt is."""
_BLOCK: Final = 512
"""Queries compared with the bank at a time, which bounds the memory."""
_FEW: Final = 8
"""So many queries are compared one by one."""


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
    """How prompts are compared: ``centre`` (d,) and ``axes`` (d, d) of the embedding, rounded to their grids."""

    centre: Wide
    axes: Wide

    def __call__(self, embeddings: Array) -> Array:
        """Points (n, d) to compare by their dot product; an embedding of zeros, a text without a token, stays zeros."""
        rotated = (embedding_steps(embeddings) - self.centre) @ self.axes
        length = np.sqrt((rotated * rotated).sum(axis=1, keepdims=True))
        points = _rounded(rotated / np.maximum(length, 1e-12), POINT_GRID).astype(np.float32)
        points[~embeddings.any(axis=1)] = 0.0
        return points


def metric(centre: NDArray[np.floating], axes: NDArray[np.floating]) -> Metric:
    """A metric from unrounded parts."""
    return Metric(_rounded(centre, _EMBEDDING_GRID), _rounded(axes, _AXES_GRID))


def embedding_steps(embeddings: Array) -> Wide:
    """Embeddings (…, d) rounded to their grid."""
    return _rounded(embeddings, _EMBEDDING_GRID)


def plain_metric(dimensions: int) -> Metric:
    """The cosine of the embeddings as they are."""
    return metric(np.zeros(dimensions), np.eye(dimensions))


def _rounded(values: NDArray[np.floating], grid: float) -> Wide:
    rounded: Wide = np.rint(np.asarray(values, dtype=np.float64) / grid) * grid
    return rounded


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
        similarity[block], rows[block] = _nearest(_products(queries[block], bank), k)
    return Neighbours(similarity, rows)


def _products(queries: Array, bank: Array) -> Array:
    if len(queries) > _FEW:
        return queries @ bank.T
    # A BLAS would wake its threads for microseconds of work and wait for the slowest, tens of milliseconds on a busy
    # machine. The products are exact, so both ways give the same bits.
    one_by_one = np.empty((len(queries), len(bank)), dtype=np.float32)
    for row, query in zip(one_by_one, queries, strict=True):
        np.einsum("nd,d->n", bank, query, out=row)
    return one_by_one


def _nearest(similarity: Array, k: int) -> tuple[Array, NDArray[np.intp]]:
    size = similarity.shape[1]
    found = np.argpartition(similarity, size - k, axis=1)[:, size - k :]
    values = np.take_along_axis(similarity, found, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(found, order, axis=1)


def estimate(neighbours: Neighbours, quality: Array, prior: Array, settings: KnnSettings, guard: float) -> Array:
    """Expected quality (n, M) from the bank's ``quality`` (N, M); ``guard`` is the least familiarity trusted."""
    similarity, rows = neighbours.similarity[:, : settings.k], neighbours.rows[:, : settings.k]
    weights = np.maximum(similarity, 0.0).astype(np.float64) ** settings.power
    evidence = (weights[:, :, None] * quality[rows]).sum(axis=1) + settings.kappa * prior
    total = weights.sum(axis=1, keepdims=True) + settings.kappa
    learned = np.divide(evidence, total, out=np.tile(prior.astype(np.float64), (len(rows), 1)), where=total > 0)
    trusted = (neighbours.familiarity >= guard)[:, None]
    estimated: Array = np.where(trusted, learned, prior).astype(np.float32)
    return estimated
