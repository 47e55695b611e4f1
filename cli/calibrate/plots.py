"""Measured against simulated latencies, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from predictors.latency.judgement import Judged

_KINDS = (("ttft", "time to first token"), ("itl", "inter-token time, median of a request"), ("e2e", "end to end"))


def draw(fit: Sequence[Judged], held_out: Sequence[Judged], out: Path) -> list[Path]:
    """One picture for each open load, and one of all closed loops; the files. Needs matplotlib."""
    from matplotlib.figure import Figure

    out.mkdir(parents=True, exist_ok=True)
    files = []
    for role, loads in (("fitted", fit), ("held out", held_out)):
        for one in loads:
            if one.load.concurrency is None:
                files.append(_saved(_open(one, role, Figure(figsize=(13, 7))), out / f"{one.load.name}.png"))
    closed = [one for one in (*fit, *held_out) if one.load.concurrency is not None]
    if closed:
        files.append(_saved(_closed(closed, Figure(figsize=(13, 4.5))), out / "closed_loops.png"))
    return files


def _saved(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path


def _open(one: Judged, role: str, figure: Any) -> Any:
    """Above, distribution functions; below, quantiles against quantiles."""
    import numpy as np

    axes = figure.subplots(2, 3)
    shares = np.linspace(0.005, 0.995, 199)
    for column, (kind, label) in enumerate(_KINDS):
        measured, simulated = (_known(getattr(side, kind)) for side in (one.load.measured, one.simulated))
        if not len(measured):
            continue
        above, below = axes[0][column], axes[1][column]
        for values, name in ((measured, "measured"), (simulated, "simulated")):
            above.plot(1e3 * np.sort(values), np.linspace(0, 1, len(values)), label=name)
        above.set(xscale="log", xlabel="ms", title=label)
        _round_ticks(above.xaxis)
        above.grid(alpha=0.3)
        x, y = (1e3 * np.quantile(values, shares) for values in (measured, simulated))
        below.plot(x, y, ".", markersize=4)
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        below.plot(ends, ends, color="black", linewidth=0.8)
        below.set(xscale="log", yscale="log", xlabel="measured, ms", ylabel="simulated, ms")
        _round_ticks(below.xaxis, below.yaxis)
        below.grid(alpha=0.3)
    axes[0][0].set_ylabel("share of requests")
    axes[0][0].legend()
    figure.suptitle(f"{one.load.name} ({role}, {len(one.load)} requests): mean e2e {one.errors['e2e_mean'].value:+.1%}")
    return figure


def _closed(loads: Sequence[Judged], figure: Any) -> Any:
    """Medians of each closed loop, measured and simulated, over its concurrency."""
    import numpy as np

    axes = figure.subplots(1, 3)
    for axis, (kind, label) in zip(axes, _KINDS, strict=True):
        for side, marker in (("measured", "o"), ("simulated", "x")):
            points = []
            for one in loads:
                latencies = one.load.measured if side == "measured" else one.simulated
                values = _known(getattr(latencies, kind))
                if len(values):
                    points.append((one.load.concurrency, 1e3 * float(np.median(values))))
            axis.plot(*zip(*points, strict=True), marker, label=side, fillstyle="none")
        axis.set(xscale="log", yscale="log", xlabel="requests in flight", ylabel="ms", title=f"median {label}")
        _round_ticks(axis.xaxis, axis.yaxis)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle("Closed loops")
    return figure


def _round_ticks(*axes: Any) -> None:
    """Plain numbers at a few round places; logarithms of ten alone would leave most of these axes without any."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator

    for axis in axes:
        low, high = axis.get_view_interval()
        narrow = high < 3 * low
        axis.set_major_locator(LogLocator(subs=tuple(range(1, 10)) if narrow else (1.0, 2.0, 5.0), numticks=30))
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())


def _known(values: Any) -> Any:
    import numpy as np

    return values[np.isfinite(values)]
