"""How good a router is over all budgets: cost-quality frontiers and the area under them.

A router with a willingness to pay ``lam`` (USD per unit of quality) sends a prompt to ``argmax_j lam * q_j - c_j`` with
predicted quality ``q`` and known cost ``c``. Its sweep over ``lam`` gives points (mean cost, mean quality); mixtures of
two routers reach every segment between them, so what counts is the non-decreasing upper convex hull. RouterBench (arXiv
2403.12031) averages it over [c_min, c_max], the mean costs of the cheapest and the dearest single model:

    AIQ = 1 / (c_max - c_min) * integral of the hull from c_min to c_max

To the right of its last point a hull stays flat. To the left of its first, :class:`LeftRule` says what holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class LeftRule(StrEnum):
    """What a budget below the router's cheapest point buys."""

    NULL_ROUTER = "null_router"
    """A mixture with the router that answers nothing at no cost, (0, 0): RouterBench's paper."""
    ZERO = "zero"
    """Nothing."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a router got, prompt by prompt, at each of its L settings: ``cost`` and ``quality`` (n, L).

    The last column is the setting for which money does not count.
    """

    cost: Array
    quality: Array

    def points(self, weights: Array | None = None) -> Array:
        """Mean (cost, quality) of each setting (L, 2); ``weights`` (n,) counts each prompt, once by default."""
        total = self.cost.shape[0] if weights is None else weights.sum()
        counted = np.ones(self.cost.shape[0]) if weights is None else weights
        points: Array = np.stack([counted @ self.cost, counted @ self.quality], axis=1) / total
        return points


def willingness(costs: Array, steps: int = 61) -> Array:
    """Willingness to pay in USD per unit of quality: 0, 1e-2 to 1e4 times the spread of the mean costs, infinity."""
    mean = costs.mean(axis=0)
    spread = float(mean.max() - mean.min()) or 1.0
    return np.concatenate([[0.0], spread * np.geomspace(1e-2, 1e4, steps), [np.inf]])


def choose(quality: NDArray[np.floating], costs: Array, lam: float) -> NDArray[np.intp]:
    """The model (n,) of greatest ``lam * quality - cost``; the cheaper on a tie, then the first."""
    score = quality if np.isinf(lam) else lam * quality - costs
    best = score >= score.max(axis=1, keepdims=True)
    picked: NDArray[np.intp] = np.argmin(np.where(best, costs, np.inf), axis=1)
    return picked


def sweep(predicted: NDArray[np.floating], quality: NDArray[np.floating], costs: Array, lams: Array) -> Sweep:
    """What routing by ``predicted`` (n, M) gets of the true ``quality`` (n, M) and ``costs`` (n, M)."""
    picks = np.stack([choose(predicted, costs, float(lam)) for lam in lams], axis=1)
    got = np.take_along_axis(quality, picks, axis=1).astype(np.float64)
    return Sweep(np.take_along_axis(costs, picks, axis=1), got)


def singles(quality: NDArray[np.floating], costs: Array) -> Sweep:
    """Every single model as a setting, the best last: its hull is RouterBench's zero router, in hindsight."""
    order = np.lexsort((-costs.mean(axis=0), quality.mean(axis=0)))
    return Sweep(costs[:, order], quality[:, order].astype(np.float64))


def oracle(quality: NDArray[np.floating], costs: Array, lams: Array) -> Sweep:
    """Routing by the truth; a prompt that no model gets right is not answered, at no cost."""
    got = sweep(quality, quality, costs, lams)
    hopeless = quality.max(axis=1) <= 0
    return Sweep(np.where(hopeless[:, None], 0.0, got.cost), got.quality)


def upper_hull(points: ArrayLike) -> Array:
    """Vertices (h, 2) of the non-decreasing upper convex hull of points (m, 2), by rising cost (Andrew's chain)."""
    given = np.asarray(points, dtype=np.float64)
    hull: list[tuple[float, float]] = []
    for cost, quality in given[np.lexsort((-given[:, 1], given[:, 0]))].tolist():
        if hull and quality <= hull[-1][1]:
            continue
        while len(hull) >= 2 and not _turns_right(hull[-2], hull[-1], (cost, quality)):
            hull.pop()
        hull.append((cost, quality))
    return np.array(hull)


def _turns_right(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - b[0]) > (c[1] - b[1]) * (b[0] - a[0])


def area(hull: Array, c_min: float, c_max: float, left: LeftRule) -> float:
    """Exact integral over [c_min, c_max] of a hull from :func:`upper_hull`, flat to the right."""
    vertices = upper_hull(np.vstack([[0.0, 0.0], hull])) if left is LeftRule.NULL_ROUTER else hull
    cost, quality = vertices[:, 0], vertices[:, 1]
    start = max(c_min, float(cost[0]))
    if start >= c_max:
        return 0.0
    inside = cost[(cost > start) & (cost < c_max)]
    grid = np.concatenate([[start], inside, [c_max]])
    return float(np.trapezoid(np.interp(grid, cost, quality), grid))


def aiq(points: ArrayLike, c_min: float, c_max: float, left: LeftRule = LeftRule.NULL_ROUTER) -> float:
    """Average quality over the budgets [c_min, c_max] in USD a prompt; NaN where all models cost the same."""
    if c_max <= c_min:
        return float("nan")
    return area(upper_hull(points), c_min, c_max, left) / (c_max - c_min)


def strong_curve(advantage: ArrayLike, weak: ArrayLike, strong: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """Two models: points (share sent to the strong one, quality) (g, 2) as the threshold on ``advantage`` falls.

    Prompts of equal advantage move together, so that ties are mixed by a fair coin.
    """
    order = np.argsort(-np.asarray(advantage, dtype=np.float64), kind="stable")
    count = np.ones(len(order)) if weights is None else np.asarray(weights, dtype=np.float64)[order]
    ranked, low = np.asarray(advantage)[order], np.asarray(weak, dtype=np.float64)[order]
    gain = np.asarray(strong, dtype=np.float64)[order] - low
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(order) - 1)
    share = np.append(0.0, np.cumsum(count)[ends]) / count.sum()
    quality = (count @ low + np.append(0.0, np.cumsum(count * gain)[ends])) / count.sum()
    return np.stack([share, quality], axis=1)


def apgr(curve: Array) -> float:
    """RouteLLM's average performance gap recovered: (q - q_weak) / (q_strong - q_weak), mean over the strong share."""
    recovered = _recovered(curve)
    return float(np.trapezoid(recovered, curve[:, 0])) if recovered is not None else float("nan")


def cpt(curve: Array, target: float) -> float:
    """RouteLLM's call-performance threshold: least share of strong calls that recovers ``target`` of the gap."""
    recovered = _recovered(curve)
    if recovered is None:
        return float("nan")
    after = int(np.argmax(recovered >= target))
    if after == 0:
        return 0.0
    (x0, x1), (y0, y1) = curve[after - 1 : after + 1, 0], recovered[after - 1 : after + 1]
    return float(x0 + (x1 - x0) * (target - y0) / (y1 - y0))


def _recovered(curve: Array) -> Array | None:
    low, high = curve[0, 1], curve[-1, 1]
    return (curve[:, 1] - low) / (high - low) if high > low else None
