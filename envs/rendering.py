"""A picture of a fleet: its workers by pool and phase, what waits for them, and what has come of it lately."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from controller.types import Result, WorkerPhase
from controller.view import FleetView, PoolView, WorkerView
from envs.fleet import Ended

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from envs.route_answers import Answer

__all__ = ["Chronicle", "Painter", "RoutePainter"]

_KEPT: Final = 400
_WIDTH, _HEIGHT, _DPI = 8.0, 4.8, 100
_INK, _PAPER, _FAINT = "#263238", "#fafafa", "#cfd8dc"
_PHASES: Final = {
    WorkerPhase.READY: "#2e7d32",
    WorkerPhase.STARTING: "#f9a825",
    WorkerPhase.DRAINING: "#78909c",
    WorkerPhase.SLEEPING: "#5e35b1",
    WorkerPhase.UNHEALTHY: "#c62828",
}
_BATCH, _KV, _QUEUE, _LOST = "#1e88e5", "#8e24aa", "#ef6c00", "#c62828"


class Chronicle:
    """What happened lately, for the picture: how requests ended, and what was paid."""

    def __init__(self, kept: int = _KEPT) -> None:
        self.ended: deque[tuple[float, float | None, bool]] = deque(maxlen=kept)
        """(at, latency, in time) of each; no latency without a complete answer."""
        self.paid: deque[tuple[float, float]] = deque(maxlen=kept)
        """(at, sum of all rewards so far)."""
        self._total = 0.0

    def clear(self) -> None:
        """A new episode begins."""
        self.ended.clear()
        self.paid.clear()
        self._total = 0.0

    def note(self, now: float, ended: Sequence[Ended], reward: float) -> None:
        """A step was taken."""
        self._total += reward
        self.paid.append((now, self._total))
        for end in ended:
            if end.result is not Result.ABORTED:
                self.ended.append((end.at, end.latency, end.in_time))


class Painter:
    """Paints one picture after the other, 800 × 480 points. Needs matplotlib."""

    def __init__(self, title: str) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._title = title
        figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor=_PAPER)
        self._canvas: Any = FigureCanvasAgg(figure)
        self._fleet: Axes = figure.add_axes((0.02, 0.05, 0.56, 0.86))
        self._latency: Axes = figure.add_axes((0.67, 0.56, 0.30, 0.33))
        self._reward: Axes = figure.add_axes((0.67, 0.11, 0.30, 0.33))

    def paint(self, view: FleetView, chronicle: Chronicle) -> npt.NDArray[np.uint8]:
        """The picture (480, 800, 3)."""
        self._paint_fleet(view)
        self._paint_latency(chronicle)
        self._paint_reward(chronicle)
        self._canvas.draw()
        pixels = np.asarray(self._canvas.buffer_rgba())
        return np.ascontiguousarray(pixels[:, :, :3])

    def _paint_fleet(self, view: FleetView) -> None:
        axes = self._fleet
        axes.clear()
        axes.set_axis_off()
        axes.set_xlim(0.0, 1.0)
        axes.set_ylim(0.0, 1.0)
        heading = f"{self._title}   t = {view.at:.1f} s   {view.arrivals_fast:.1f} requests/s"
        axes.text(0.0, 1.04, heading, fontsize=10, color=_INK, weight="bold")
        row = 1.0 / max(1, len(view.pools))
        for place, pool in enumerate(view.pools):
            _pool(axes, pool, 1.0 - place * row, row)
        _legend(axes)

    def _paint_latency(self, chronicle: Chronicle) -> None:
        axes = _chart(self._latency, "latency of the last requests (s)")
        known = [(at, latency, good) for at, latency, good in chronicle.ended if latency is not None]
        top = max((latency for _, latency, _ in known), default=1.0) * 1.15
        for good, colour in ((True, _PHASES[WorkerPhase.READY]), (False, _QUEUE)):
            points = [(at, latency) for at, latency, ok in known if ok is good]
            axes.plot(*_columns(points), ".", color=colour, markersize=3.5)
        lost = [(at, top * 0.96) for at, latency, _ in chronicle.ended if latency is None]
        axes.plot(*_columns(lost), "x", color=_LOST, markersize=4)
        axes.set_ylim(0.0, top)

    def _paint_reward(self, chronicle: Chronicle) -> None:
        axes = _chart(self._reward, "reward so far")
        axes.plot(*_columns(chronicle.paid), color=_INK, linewidth=1.2)
        axes.set_xlabel("s", fontsize=7, color=_INK)


class RoutePainter:
    """Paints which models were chosen, and quality and cost so far. Needs matplotlib."""

    def __init__(self, models: Sequence[str]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._models = tuple(models)
        figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor=_PAPER)
        self._canvas: Any = FigureCanvasAgg(figure)
        self._share: Axes = figure.add_axes((0.20, 0.12, 0.30, 0.74))
        self._quality: Axes = figure.add_axes((0.60, 0.56, 0.36, 0.30))
        self._cost: Axes = figure.add_axes((0.60, 0.12, 0.36, 0.30))

    def paint(self, willingness: float, given: Sequence[tuple[int, Answer]]) -> npt.NDArray[np.uint8]:
        """The picture (480, 800, 3) after these choices (model, answer); ``willingness`` is λ, without a unit."""
        axes = _chart(self._share, f"Route   λ = {willingness:.3g}   {len(given)} prompts")
        counts = [sum(model == own for model, _ in given) for own in range(len(self._models))]
        axes.barh(range(len(self._models)), counts, color=_BATCH)
        axes.set_yticks(range(len(self._models)), [name[:20] for name in self._models], fontsize=7)
        axes.set_xlim(0, max(1, *counts))
        steps = np.arange(1, len(given) + 1)
        for chart, title, values in (
            (self._quality, "mean quality", [answer.quality for _, answer in given]),
            (self._cost, "mean cost ($)", [answer.usd for _, answer in given]),
        ):
            _chart(chart, title).plot(steps, np.cumsum(values) / steps, color=_INK, linewidth=1.2)
        self._canvas.draw()
        return np.ascontiguousarray(np.asarray(self._canvas.buffer_rgba())[:, :, :3])


def _pool(axes: Axes, pool: PoolView, top: float, height: float) -> None:
    """A pool's name and queue on the left, its workers on the right."""
    axes.text(0.0, top - 0.30 * height, pool.name, fontsize=9, color=_INK, weight="bold")
    waiting = pool.queued / max(1, pool.limit)
    wait = f"{pool.expected_wait_s:.1f} s of work" if math.isfinite(pool.expected_wait_s) else "no worker ready"
    axes.text(0.0, top - 0.52 * height, f"{pool.queued} queued\n{wait}", fontsize=7, color=_INK, va="top")
    _bar(axes, (0.0, top - 0.46 * height), (0.15, 0.07 * height), min(1.0, waiting / 2.0), _QUEUE)
    shown = [worker for worker in pool.workers if worker.inflight or worker.phase is not WorkerPhase.DRAINING]
    if not shown:
        return
    columns = min(8, len(shown))
    rows = math.ceil(len(shown) / columns)
    width, tall = 0.80 / max(4, columns), 0.82 * height / rows
    for place, worker in enumerate(shown):
        left, lower = 0.19 + place % columns * width, top - 0.06 * height - (place // columns + 1) * tall
        _worker(axes, worker, (left, lower + 0.05 * tall), (0.92 * width, 0.86 * tall))


def _worker(axes: Axes, worker: WorkerView, corner: tuple[float, float], size: tuple[float, float]) -> None:
    """A box in the colour of the phase, with a bar for the batch and one for the KV cache."""
    from matplotlib.patches import Rectangle

    (left, lower), (width, height) = corner, size
    colour = _PHASES[worker.phase]
    axes.add_patch(Rectangle(corner, width, height, facecolor="white", edgecolor=colour, linewidth=1.6))
    axes.add_patch(Rectangle((left, lower + 0.80 * height), width, 0.20 * height, facecolor=colour, linewidth=0))
    name = worker.name if width > 0.15 else worker.name.rpartition("-")[2]
    label = (left + 0.5 * width, lower + 0.89 * height)
    axes.text(*label, name, fontsize=6, color="white", ha="center", va="center", clip_on=True)
    kv = 0.0 if worker.report is None else worker.report.kv_usage
    batch = worker.inflight / max(1, worker.limit)
    for place, (share, tint) in enumerate(((batch, _BATCH), (kv, _KV))):
        at = (left + (0.10 + 0.45 * place) * width, lower + 0.06 * height)
        _column(axes, at, (0.35 * width, 0.66 * height), min(1.0, share), tint)


def _bar(axes: Axes, corner: tuple[float, float], size: tuple[float, float], share: float, colour: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle(corner, size[0], size[1], facecolor=_FAINT, linewidth=0))
    axes.add_patch(Rectangle(corner, size[0] * share, size[1], facecolor=colour, linewidth=0))


def _column(axes: Axes, corner: tuple[float, float], size: tuple[float, float], share: float, colour: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle(corner, size[0], size[1], facecolor=_FAINT, linewidth=0))
    axes.add_patch(Rectangle(corner, size[0], size[1] * share, facecolor=colour, linewidth=0))


def _legend(axes: Axes) -> None:
    entries = [*((phase.value, colour) for phase, colour in _PHASES.items()), ("batch", _BATCH), ("KV", _KV)]
    for place, (name, colour) in enumerate(entries):
        axes.text(place / len(entries), -0.03, f"■ {name}", fontsize=6.5, color=colour)


def _chart(axes: Axes, title: str) -> Axes:
    axes.clear()
    axes.set_facecolor("white")
    axes.set_title(title, fontsize=8, color=_INK, loc="left")
    axes.tick_params(labelsize=6, colors=_INK, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


def _columns(points: Any) -> tuple[list[float], list[float]]:
    pairs = list(points)
    return [x for x, _ in pairs], [y for _, y in pairs]
