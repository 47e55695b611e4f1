"""One prompt against the whole bank, compiled: the arithmetic of :mod:`.neighbours` in integers.

Points are multiples of 2^-11 and at most 1 in size, so they are integers of 12 bits and a sign, and all their products
and sums are exact in 32 bits: the same similarities, bit for bit. What costs time is to bring the bank from memory, so
it is there twice: a point is ``coarse * scale + rest``, with ``coarse`` in 8 bits, and so is the query, with its own
scale. All points are compared by their coarse halves. By Cauchy and Schwarz those products, scaled, are off by at most

    slack = |query| * max |rest| + |rest of the query| * max |coarse * scale|

and only points that may then be among the nearest are compared in full.

Which neighbours are the nearest differs nowhere, but where the last of them is as near as the next one; then this says
so, and the caller asks :mod:`.neighbours`.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictors.compiled import AVAILABLE, LINE, compiled, lined
from predictors.embedding import DIMENSIONS
from predictors.intrinsics import dot_256, prefetch
from predictors.quality.neighbours import ANCHORS, POINT_GRID, Array, KnnSettings, Metric, embedding_steps

__all__ = ["Scan"]

_STEPS: Final = 2048.0
"""A coordinate of 1, as an integer."""
_FINE_STEPS: Final = 65536.0
"""The same of an embedding before its length is made 1."""
_LONGEST: Final = 1.02
"""Square of a point's length: 1, and what rounding adds."""
_UNIT: Final = 4194304.0
"""A similarity of 1, as an integer."""
_AHEAD: Final = 64
"""Rows that are asked for before they are multiplied: processors that fetch ahead by themselves stop at each page."""
_EXTREME: Final = 1 << 24
"""More than any product of a query and a point, or of their halves."""
_GREATEST: Final = 127
_RAISED: Final = 128
"""Added to the coarse halves of points, since processors multiply unsigned bytes by signed ones. It adds the same to
all products with one query."""
_UNCLEAR: Final = -2.0
"""In the place of a familiarity."""

Integers = NDArray[np.int16]
Bytes = NDArray[np.uint8]
Counts = NDArray[np.int32]
Wide = NDArray[np.float64]


class Scan:
    """Judges one prompt at a time by a bank of points (N, d) with qualities (N, M). Safe to share between threads."""

    def __init__(self, metric: Metric, points: Array, quality: Array, prior: Array, settings: KnnSettings) -> None:
        self._metric = metric
        self._plain = bool((metric.axes == np.eye(len(metric.axes))).all() and not metric.centre.any())
        whole = lined(np.rint(points / POINT_GRID).astype(np.int16))
        coarse, scale, errors = _halved(whole)
        self._shrunk: Wide = np.asarray(settings.kappa * prior, dtype=np.float64)
        self._tables: tuple[Any, ...] = (
            coarse,
            scale,
            *errors,
            whole,
            lined(quality.astype(np.float32)),
            self._shrunk,
            settings.k,
            settings.kappa,
            settings.power,
        )
        lengths = np.vecdot(points, points)
        self.usable = bool(
            AVAILABLE
            and points.shape[1] == DIMENSIONS
            and ANCHORS <= settings.k < len(points)
            and np.array_equal(whole * np.float32(POINT_GRID), points)
            and lengths.max() <= _LONGEST
        )
        """Whether :meth:`judge` can be asked at all."""
        if self.usable:
            self.judge(points[0])

    def judge(self, embedding: Array) -> tuple[Array, float] | None:
        """Learned quality (M,), as if trusted, and familiarity, of a finite embedding (d,) of unit length.

        ``None`` for an embedding of zeros, where neighbours tie for the last place, or where nothing has any weight.
        """
        learned = np.empty(len(self._shrunk), dtype=np.float32)
        if self._plain:
            familiarity = _judge_plain(embedding, learned, *self._tables)
        else:
            familiarity = _judge(self._rotated_query(embedding), learned, *self._tables)
        return None if familiarity == _UNCLEAR else (learned, familiarity)

    def _rotated_query(self, embedding: Array) -> Integers:
        query = np.zeros(len(embedding), dtype=np.int16)
        if embedding.any():
            rotated = _rotate(embedding_steps(embedding), self._metric.centre, self._metric.axes)
            length = max(math.sqrt((rotated * rotated).sum()), 1e-12)
            query[:] = np.rint(rotated / length * _STEPS)
        return query


def _halved(points: Integers) -> tuple[Bytes, float, tuple[float, float]]:
    """The points' coarse halves and 128 (N, d), their scale, and the greatest lengths of a rest and of a coarse half at
    its scale."""
    wide = points.astype(np.float64)
    scale = max(float(np.abs(wide).max(initial=0.0)), 1.0) / _GREATEST
    coarse = np.rint(wide / scale)
    parts = (wide - coarse * scale, coarse * scale)
    rest, reach = (math.sqrt((part * part).sum(axis=1).max(initial=0.0)) for part in parts)
    return lined((coarse + _RAISED).astype(np.uint8)), scale, (rest, reach)


@compiled
def _judge_plain(embedding: Array, learned: Array, *others: Any) -> float:
    """:func:`_judge` of an embedding that is compared as it is."""
    return _judge(_plain_query(embedding), learned, *others)


@compiled
def _judge(
    query: Integers,
    learned: Array,
    coarse: Bytes,
    scale: float,
    rest: float,
    reach: float,
    points: Integers,
    quality: Array,
    shrunk: Wide,
    k: int,
    kappa: float,
    power: float,
) -> float:
    """Fill ``learned`` (M,) and give the familiarity, or :data:`_UNCLEAR`."""
    square, left, most = 0.0, 0.0, 0.0
    for column in range(DIMENSIONS):
        whole = float(query[column])
        square += whole * whole
        most = max(most, abs(whole))
    if square == 0.0:
        return _UNCLEAR
    own = most / _GREATEST
    short = np.empty(DIMENSIONS, dtype=np.int8)
    for column in range(DIMENSIONS):
        part = np.rint(query[column] / own)
        short[column] = np.int8(part)
        left += (query[column] - part * own) ** 2
    slack = (math.sqrt(square) * rest + math.sqrt(left) * reach) / (scale * own)
    rows = _candidates(short, coarse, math.ceil(slack) + 1, k)
    for row in rows:
        for byte in range(0, 2 * DIMENSIONS, LINE):
            prefetch(points, int(row), byte)
        prefetch(quality, int(row), 0)
    similarity = np.empty(len(rows), dtype=np.int32)
    _multiply(query, points, rows, similarity)
    least = _least(similarity, k, -_EXTREME, _EXTREME, 0)
    if _at_least(similarity, least) > k:
        return _UNCLEAR
    return _evidence(similarity, least, rows, quality, shrunk, kappa, power, learned)


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
def _candidates(query: NDArray[np.int8], coarse: Bytes, slack: int, k: int) -> Counts:
    """Rows, in their order, among which the nearest ``k`` are, and all that are as near as the last of these.

    ``slack`` is by how much a product of coarse halves may differ from the true one, in its own unit.
    """
    similarity = np.empty(coarse.shape[0], dtype=np.int32)
    low, high = _EXTREME, -_EXTREME
    for row in range(coarse.shape[0]):
        for byte in range(0, DIMENSIONS, LINE):
            prefetch(coarse, row + _AHEAD, byte)
        value = dot_256(coarse, row, query)
        similarity[row] = value
        low, high = min(low, value), max(high, value)
    least = _least(similarity, k, low, high + 1, slack // 8) - 2 * slack
    rows = np.empty(coarse.shape[0], dtype=np.int32)
    found = 0
    for row in range(coarse.shape[0]):
        rows[found] = row
        found += similarity[row] >= least
    return rows[:found]


@compiled
def _multiply(query: Integers, points: Integers, rows: Counts, products: Counts) -> None:
    """A loop of known length over short integers, which compilers turn into the processor's own dot products."""
    for at in range(len(rows)):
        row = rows[at]
        total = np.int32(0)
        for column in range(DIMENSIONS):
            total = np.int32(total + np.int32(query[column]) * np.int32(points[row, column]))
        products[at] = total


@compiled
def _least(similarity: Counts, k: int, low: int, high: int, apart: int) -> int:
    """A number that at least ``k`` similarities reach, at most ``apart`` under the k-th greatest. By bisection: at
    least ``k`` must reach ``low``, and fewer ``high``."""
    while high - low > 1 + apart:
        middle = (low + high) // 2
        if _at_least(similarity, middle) >= k:
            low = middle
        else:
            high = middle
    return low


@compiled
def _at_least(similarity: Counts, least: int) -> int:
    bound, found = np.int32(least), np.int32(0)
    for at in range(len(similarity)):
        found = np.int32(found + np.int32(similarity[at] >= bound))
    return int(found)


@compiled
def _evidence(
    similarity: Counts,
    least: int,
    rows: Counts,
    quality: Array,
    shrunk: Wide,
    kappa: float,
    power: float,
    learned: Array,
) -> float:
    """Fill ``learned`` (M,), the mean over rows of at least so much similarity and ``shrunk``; give the familiarity.

    ``shrunk`` is kappa times the prior.
    """
    total = 0.0
    evidence = np.zeros(len(shrunk))
    best = np.zeros(ANCHORS, dtype=np.int32)
    held = 0
    for near in range(len(rows)):
        value, row = similarity[near], rows[near]
        if value < least:
            continue
        at = min(held, ANCHORS - 1)
        if held < ANCHORS or value > best[at]:
            while at > 0 and best[at - 1] < value:
                best[at] = best[at - 1]
                at -= 1
            best[at] = value
            held = min(held + 1, ANCHORS)
        if value > 0:
            cosine = value / _UNIT
            weight = cosine * cosine if power == 2.0 else cosine**power
        else:
            weight = 1.0 if power == 0.0 else 0.0
        total += weight
        for model in range(len(evidence)):
            evidence[model] += weight * quality[row, model]
    total += kappa
    if total <= 0.0:
        return _UNCLEAR
    for model in range(len(evidence)):
        learned[model] = (evidence[model] + shrunk[model]) / total
    return _familiarity(best)


@compiled
def _familiarity(best: Counts) -> float:
    """The mean of :data:`ANCHORS` similarities in single precision, added as ``numpy.add.reduce`` adds: eight sums,
    two by two, and then the others."""
    sums = np.empty(8, dtype=np.float32)
    for at in range(8):
        sums[at] = np.float32(best[at] / _UNIT)
    left = np.float32(np.float32(sums[0] + sums[1]) + np.float32(sums[2] + sums[3]))
    right = np.float32(np.float32(sums[4] + sums[5]) + np.float32(sums[6] + sums[7]))
    total = np.float32(left + right)
    for at in range(8, len(best)):
        total = np.float32(total + np.float32(best[at] / _UNIT))
    return float(np.float32(total / np.float32(len(best))))
