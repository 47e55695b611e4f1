"""One picture an aspect, policies overlaid: what waits, what runs, KV use, latency over time and as a distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from cli.simulate.gauges import Gauges
    from cli.simulate.runner import Outcome
    from cli.simulate.workload import Workload

__all__ = ["draw"]

Floats = npt.NDArray[np.float64]
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's, which the colour-blind can tell apart."""
_WINDOWS: Final = 60
_LEAST_IN_WINDOW: Final = 8
_SMOOTH: Final = 0.01
"""Share of the samples that one point of a smoothed line is the mean of."""
_CURVE_POINTS: Final = 1_000
_LEAST_TPOT_S: Final = 1e-4


def draw(workload: Workload, outcomes: Mapping[str, Outcome], title: str, out: Path) -> list[Path]:
    """Write the pictures of policies by name into the folder ``out``; the files. Needs matplotlib."""
    out.mkdir(parents=True, exist_ok=True)
    gauges = {name: outcome.gauges for name, outcome in outcomes.items()}
    return [
        _over_time(gauges, lambda g: g.waiting, "requests waiting", f"Queue\n{title}", out / "queue.png"),
        _over_time(gauges, lambda g: g.running, "requests running", f"Batch\n{title}", out / "batch.png"),
        _kv(gauges, f"KV cache in use\n{title}", out / "kv.png"),
        _latency(workload, outcomes, f"Latency by time of arrival\n{title}", out / "latency.png"),
        _distribution(outcomes, f"Latency distribution\n{title}", out / "cdf.png"),
    ]


def _figure(panels: int, width: float, height: float, title: str, *, beside: bool = False) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    rows, columns = (1, panels) if beside else (panels, 1)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=not beside, sharey=beside).flat)
    heading, _, below = title.partition("\n")
    figure.suptitle(heading, fontsize=13, fontweight="bold")
    axes[0].set_title(below, fontsize=9, color="#555555", loc="left")
    for axis in axes:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    return path


def _legend(figure: Any, axis: Any) -> None:
    """Below everything, where it hides no line."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3), frameon=False)


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _unit(seconds: float) -> tuple[float, str]:
    """What to divide seconds by, and the name of that unit."""
    if seconds > 3 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if seconds > 300 else (1.0, "seconds")


def _over_time(
    gauges: Mapping[str, Gauges], column: Callable[[Gauges], Floats], label: str, title: str, path: Path
) -> Path:
    """One line a policy: readings faintly, their moving mean boldly."""
    figure, (axis,) = _figure(1, 10, 4.6, title)
    _lines(axis, gauges, column)
    axis.set_ylabel(label)
    axis.set_ylim(bottom=0)
    _legend(figure, axis)
    return _saved(figure, path)


def _lines(axis: Any, gauges: Mapping[str, Gauges], column: Callable[[Gauges], Floats], scale: float = 1.0) -> None:
    by, unit = _unit(max((float(g.at[-1]) for g in gauges.values() if len(g.at)), default=0.0))
    for index, (name, gauge) in enumerate(gauges.items()):
        values, at = scale * column(gauge), gauge.at / by
        axis.plot(at, values, color=_colour(index), alpha=0.25, linewidth=0.7)
        axis.plot(at, _smooth(values), color=_colour(index), linewidth=1.8, label=name)
    axis.set_xlabel(f"time, {unit}")
    axis.margins(x=0.01)


def _smooth(values: Floats) -> Floats:
    """Centred moving mean; shorter at the ends."""
    half = int(len(values) * _SMOOTH / 2)
    if half == 0:
        return values
    sums = np.concatenate(([0.0], np.cumsum(values)))
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    means: Floats = (sums[high] - sums[low]) / (high - low)
    return means


def _kv(gauges: Mapping[str, Gauges], title: str, path: Path) -> Path:
    """The mean over workers, and the fullest one dotted."""
    figure, (axis,) = _figure(1, 10, 4.6, title)
    _lines(axis, gauges, lambda gauge: gauge.kv_mean, 100.0)
    by, _ = _unit(max((float(g.at[-1]) for g in gauges.values() if len(g.at)), default=0.0))
    several = False
    for index, gauge in enumerate(gauges.values()):
        if gauge.kv_most is not None and not np.array_equal(gauge.kv_mean, gauge.kv_most):
            style = {"color": _colour(index), "linewidth": 1.0, "linestyle": ":"}
            axis.plot(gauge.at / by, _smooth(100.0 * gauge.kv_most), **style)
            several = True
    axis.set_ylabel("% of KV blocks" + ("\n(mean of workers; dotted: fullest)" if several else ""))
    axis.set_ylim(bottom=0)
    _legend(figure, axis)
    return _saved(figure, path)


def _latency(workload: Workload, outcomes: Mapping[str, Outcome], title: str, path: Path) -> Path:
    """Median and the band from p10 to p90 of each window of arrivals, p99 dashed; below, what was not answered."""
    lost = any(np.isnan(outcome.e2e).any() for outcome in outcomes.values())
    figure, axes = _figure(3 if lost else 2, 10, 9 if lost else 7, title)
    by, unit = _unit(workload.span_s)
    edges = _edges(workload.at)
    middles = np.array([workload.at[a:b].mean() for a, b in edges]) / by
    for axis, (label, column) in zip(axes, _kinds(), strict=False):
        for index, (name, outcome) in enumerate(outcomes.items()):
            values = np.where(np.isnan(outcome.e2e), np.inf, column(outcome))
            low, middle, high, top = _bands(values, edges)
            colour = _colour(index)
            axis.fill_between(middles, low, high, color=colour, alpha=0.12, linewidth=0)
            axis.plot(middles, middle, color=colour, linewidth=1.8, label=name)
            axis.plot(middles, top, color=colour, linewidth=1.0, linestyle="--")
        axis.set_ylabel(f"{label}, s\n(p50, band p10–p90, p99 dashed)")
        _log_scale(axis, "y")
    if lost:
        _unanswered(axes[2], middles, edges, outcomes)
    axes[-1].set_xlabel(f"time of arrival, {unit}")
    axes[-1].margins(x=0.01)
    _legend(figure, axes[0])
    return _saved(figure, path)


def _kinds() -> Sequence[tuple[str, Callable[[Outcome], Floats]]]:
    return (("time to first token", lambda outcome: outcome.ttft), ("end to end", lambda outcome: outcome.e2e))


def _unanswered(axis: Any, middles: Floats, edges: list[tuple[int, int]], outcomes: Mapping[str, Outcome]) -> None:
    for index, outcome in enumerate(outcomes.values()):
        shares = [100.0 * np.isnan(outcome.e2e[a:b]).mean() for a, b in edges]
        axis.plot(middles, shares, color=_colour(index), linewidth=1.8)
    axis.set_ylabel("not answered, % of requests")
    axis.set_ylim(bottom=0)


def _edges(at: Floats) -> list[tuple[int, int]]:
    """Rows of equal windows of time; windows with few arrivals are joined to the next."""
    ends = np.searchsorted(at, np.linspace(at[0], at[-1], _WINDOWS + 1)[1:], side="right").tolist()
    edges, start = [], 0
    for end in ends:
        if end - start >= _LEAST_IN_WINDOW:
            edges.append((start, end))
            start = end
    if start < len(at):
        edges.append((edges.pop()[0] if edges else start, len(at)))
    return edges


def _bands(values: Floats, edges: list[tuple[int, int]]) -> Floats:
    """p10, p50, p90, p99 of each window: (4, windows); NaN where so many were not answered."""
    rows = [np.quantile(values[a:b], (0.1, 0.5, 0.9, 0.99), method="inverted_cdf") for a, b in edges]
    bands = np.array(rows, np.float64).T
    bands[np.isinf(bands)] = np.nan
    return bands


def _distribution(outcomes: Mapping[str, Outcome], title: str, path: Path) -> Path:
    """Distribution functions over all requests: a curve ends where the rest was not answered."""
    figure, axes = _figure(3, 12, 4.8, title, beside=True)
    panels = (*_kinds(), ("time per output token", _tpot))
    for axis, (label, column) in zip(axes, panels, strict=True):
        for index, (name, outcome) in enumerate(outcomes.items()):
            values = np.sort(column(outcome)[~np.isnan(outcome.e2e)])
            shares = 100.0 * np.arange(1, len(values) + 1) / max(1, len(outcome.e2e))
            kept = np.unique(np.linspace(0, len(values) - 1, _CURVE_POINTS).astype(int)) if len(values) else slice(0)
            axis.plot(values[kept], shares[kept], color=_colour(index), linewidth=1.8, label=name)
        axis.set_xlabel(f"{label}, s")
        _log_scale(axis, "x")
        axis.set_ylim(0, 101)
    axes[0].set_ylabel("% of all requests")
    _legend(figure, axes[0])
    return _saved(figure, path)


def _tpot(outcome: Outcome) -> Floats:
    """Answers of one token have none, and are drawn at the left edge."""
    gaps = np.maximum(outcome.output_tokens - 1, 1)
    mean: Floats = np.maximum((outcome.e2e - outcome.ttft) / gaps, _LEAST_TPOT_S)
    return mean


def _log_scale(axis: Any, name: str) -> None:
    """Axis ``x`` or ``y`` in logarithms, if there is anything on it; plain numbers at 1, 2, 5, or at powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    least = axis.dataLim.minposx if name == "x" else axis.dataLim.minposy
    if not np.isfinite(least):
        return
    axis.set(**{f"{name}scale": "log"})
    scaled = axis.xaxis if name == "x" else axis.yaxis
    low, high = scaled.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high < 30.0 * low else (1.0,)
    scaled.set_major_locator(LogLocator(subs=subs, numticks=12))
    scaled.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    scaled.set_minor_formatter(NullFormatter())
