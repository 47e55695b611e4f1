"""One prompt against the whole bank, compiled: the arithmetic of :mod:`.neighbours` in 16-bit integers.

Points are multiples of 2^-11 and at most 1 in size, so they are integers of 12 bits and a sign, and all their products
and sums are exact in 32 bits: the same similarities, bit for bit, from half the memory. Which neighbours are the
nearest differs nowhere, but where the last of them is as near as the next one; then this says so, and the caller asks
:mod:`.neighbours`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.compiled import AVAILABLE, compiled
from predictors.embedding import DIMENSIONS
from predictors.quality.neighbours import ANCHORS, POINT_GRID, Array, KnnSettings, Metric, embedding_steps

__all__ = ["Scan"]

_STEPS: Final = 2048.0
"""A coordinate of 1, as an integer."""
_FINE_STEPS: Final = 65536.0
"""The same of an embedding before its length is made 1."""
_LONGEST: Final = 1.02
"""Square of a point's length: 1, and what rounding adds."""
_SHIFT: Final = 11
_BUCKETS: Final = 4200
"""Similarities over 2^11, from -2^11 to a little over 2^11."""
_ZERO: Final = 2090
"""The bucket of similarity 0."""

Integers = NDArray[np.int16]
Counts = NDArray[np.int32]
Wide = NDArray[np.float64]


class Scan:
    """Judges one prompt at a time by a bank of points (N, d) with qualities (N, M). Safe to share between threads."""

    def __init__(self, metric: Metric, points: Array, quality: Array, prior: Array, settings: KnnSettings) -> None:
        self._metric = metric
        self._plain = bool((metric.axes == np.eye(len(metric.axes))).all() and not metric.centre.any())
        self._points = np.rint(points / POINT_GRID).astype(np.int16)
        self._quality = np.ascontiguousarray(quality, dtype=np.float32)
        self._shrunk: Array = settings.kappa * prior
        self._settings = settings
        lengths = np.vecdot(points, points)
        self.usable = bool(
            AVAILABLE
            and points.shape[1] == DIMENSIONS
            and ANCHORS <= settings.k < len(points)
            and np.array_equal(self._points * np.float32(POINT_GRID), points)
            and lengths.max() <= _LONGEST
        )
        """Whether :meth:`judge` can be asked at all."""
        if self.usable:
            self.judge(points[0])

    def judge(self, embedding: Array) -> tuple[Wide, np.float32] | None:
        """Learned quality (M,), as if trusted, and familiarity, of a unit-length embedding (d,) that is not zero.

        ``None`` where neighbours tie for the last place, or nothing has any weight.
        """
        settings = self._settings
        if self._plain:
            query = _plain_query(embedding)
        else:
            rotated = _rotate(embedding_steps(embedding), self._metric.centre, self._metric.axes)
            length = max(math.sqrt((rotated * rotated).sum()), 1e-12)
            query = np.rint(rotated / length * _STEPS).astype(np.int16)
        nearest = np.empty(ANCHORS, dtype=np.float32)
        learned = np.empty(len(self._shrunk))
        judged = _judge(
            query,
            self._points,
            settings.k,
            self._quality,
            self._shrunk,
            settings.kappa,
            settings.power,
            nearest,
            learned,
        )
        return (learned, np.float32(np.add.reduce(nearest) / ANCHORS)) if judged else None


@compiled
def _judge(
    query: Integers,
    points: Integers,
    k: int,
    quality: Array,
    shrunk: Array,
    kappa: float,
    power: float,
    nearest: Array,
    learned: Wide,
) -> bool:
    similarity = np.empty(points.shape[0], dtype=np.int32)
    rows = np.empty(k, dtype=np.int32)
    if not _nearest(query, points, k, similarity, rows):
        return False
    return _evidence(similarity, rows, quality, shrunk, kappa, power, nearest, learned)


@compiled
def _plain_query(embedding: Array) -> Integers:
    """The point of an embedding that is compared as it is. All is exact up to the root, so in any order."""
    square = 0.0
    for column in range(embedding.shape[0]):
        step = np.rint(embedding[column] * _FINE_STEPS) / _FINE_STEPS
        square += step * step
    length = max(math.sqrt(square), 1e-12)
    query = np.empty(embedding.shape[0], dtype=np.int16)
    for column in range(embedding.shape[0]):
        step = np.rint(embedding[column] * _FINE_STEPS) / _FINE_STEPS
        query[column] = np.int16(np.rint(step / length * _STEPS))
    return query


@compiled
def _rotate(steps: Wide, centre: Wide, axes: Wide) -> Wide:
    """``(steps - centre) @ axes``; exact, so in any order."""
    rotated = np.zeros(axes.shape[1])
    for row in range(axes.shape[0]):
        value = steps[row] - centre[row]
        for column in range(axes.shape[1]):
            rotated[column] += value * axes[row, column]
    return rotated


@compiled
def _multiply(query: Integers, points: Integers, products: Counts) -> None:
    """A loop of known length over 16-bit integers, which compilers turn into the processor's own dot products."""
    for row in range(points.shape[0]):
        total = np.int32(0)
        for column in range(DIMENSIONS):
            total = np.int32(total + np.int32(query[column]) * np.int32(points[row, column]))
        products[row] = total


@compiled
def _nearest(query: Integers, points: Integers, k: int, similarity: Counts, rows: Counts) -> int:
    """Fill ``similarity`` (N,) with query · points, in multiples of 2^-22, and ``rows`` (k,) with the nearest, by row.

    Gives how many there are: ``k``, or 0 if it is not clear which they are.
    """
    _multiply(query, points, similarity)
    buckets = np.zeros(_BUCKETS, dtype=np.int32)
    for row in range(points.shape[0]):
        buckets[(similarity[row] >> _SHIFT) + _ZERO] += 1
    bucket, above = _BUCKETS, 0
    while above < k:
        bucket -= 1
        above += buckets[bucket]
    least = np.int32((bucket - _ZERO) << _SHIFT)
    if above > k:
        near = np.empty(buckets[bucket], dtype=np.int32)
        found = 0
        for row in range(points.shape[0]):
            if (similarity[row] >> _SHIFT) + _ZERO == bucket:
                near[found] = similarity[row]
                found += 1
        near.sort()
        least = near[above - k]
        if near[above - k - 1] == least:
            return 0
    found = 0
    for row in range(points.shape[0]):
        if similarity[row] >= least:
            rows[found] = row
            found += 1
    return found


@compiled
def _evidence(
    similarity: Counts,
    rows: Counts,
    quality: Array,
    shrunk: Array,
    kappa: float,
    power: float,
    nearest: Array,
    learned: Wide,
) -> bool:
    """Fill ``nearest`` (A,), nearest first, and ``learned`` (M,), the weighted mean over ``rows`` and ``shrunk``.

    ``shrunk`` is kappa times the prior. False where there is no weight at all.
    """
    total = 0.0
    learned[:] = 0.0
    anchors = nearest.shape[0]
    best = np.zeros(anchors, dtype=np.int32)
    held = 0
    for row in rows:
        value = similarity[row]
        at = held if held < anchors else anchors - 1
        if held < anchors or value > best[at]:
            while at > 0 and best[at - 1] < value:
                best[at] = best[at - 1]
                at -= 1
            best[at] = value
            held = min(held + 1, anchors)
        if value > 0:
            cosine = value / 4194304.0
            weight = cosine * cosine if power == 2.0 else cosine**power
            total += weight
            for model in range(learned.shape[0]):
                learned[model] += weight * quality[row, model]
        elif power == 0.0:
            total += 1.0
            for model in range(learned.shape[0]):
                learned[model] += quality[row, model]
    total += kappa
    if total <= 0.0:
        return False
    for model in range(learned.shape[0]):
        learned[model] = (learned[model] + shrunk[model]) / total
    for anchor in range(anchors):
        nearest[anchor] = best[anchor] / 4194304.0
    return True
