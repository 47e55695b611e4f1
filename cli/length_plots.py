"""Pictures of ``headway eval length``: order, reliability of the quantile, and predicted against true lengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cli.length_judging import Seen

__all__ = ["draw"]

_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which the colour-blind can tell apart."""
_DRAWN: Final = ("deep", "fast", "history", "lexical")
_PARTS: Final = 5
_MOST_POINTS: Final = 3000


def draw(seen: Sequence[Seen], out: Path) -> list[Path]:
    """Write the pictures into the folder ``out``; the files. Needs matplotlib."""
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for source in dict.fromkeys(one.table.source for one in seen):
        rows = [one for one in seen if one.table.source == source]
        found.append(_order(rows, source, out / f"tau_{source}.png"))
        some = [one for one in rows if one.predictor in _DRAWN]
        if some:
            found.append(_reliability(some, source, out / f"reliability_{source}.png"))
            found.append(_lengths(some, source, out / f"lengths_{source}.png"))
    return found


def _order(rows: Sequence[Seen], source: str, path: Path) -> Path:
    """Tau-b of every predictor with its interval, and that of its short answers."""
    figure, (axes,) = _figure(1, 7.0, 0.4 * len(rows) + 1.5, f"Order of lengths: {source}")
    ordered = sorted(rows, key=lambda one: one.judged.tau_b.value)
    for at, one in enumerate(ordered):
        figures = ((one.judged.tau_b, _COLOURS[0], "all"), (one.judged.tau_b_short, _COLOURS[1], "shortest 30 %"))
        for shift, (tau, colour, name) in enumerate(figures):
            if tau is not None:
                axes.plot([tau.lo, tau.hi], [at - 0.2 * shift] * 2, color=colour, linewidth=2)
                axes.plot(tau.value, at - 0.2 * shift, "o", color=colour, label=name if at == 0 else None)
    axes.set_yticks(range(len(ordered)), [one.predictor for one in ordered])
    axes.axvline(0.0, color="grey", linewidth=0.8)
    axes.set_xlabel("Kendall's tau-b, median over models, 95 % interval")
    axes.legend(frameon=False, loc="lower right")
    return _saved(figure, path)


def _reliability(rows: Sequence[Seen], source: str, path: Path) -> Path:
    """Share of answers within the predicted 0.9 quantile, by fifths of the score."""
    figure, (axes,) = _figure(1, 6.0, 4.0, f"Reliability of the 0.9 quantile: {source}")
    for colour, one in zip(_COLOURS, rows, strict=False):
        _, true, high, place = _answers(one)
        part = np.minimum((place * _PARTS).astype(int), _PARTS - 1)
        shares = [float((true <= high)[part == index].mean()) for index in range(_PARTS) if (part == index).any()]
        at = [(index + 0.5) / _PARTS for index in range(_PARTS) if (part == index).any()]
        axes.plot(at, shares, "o-", color=colour, label=one.predictor)
    axes.axhline(0.9, color="grey", linewidth=0.8)
    axes.set(xlim=(0, 1), ylim=(0.5, 1.0), xlabel="place of the score", ylabel="share of answers within")
    axes.legend(frameon=False)
    return _saved(figure, path)


def _lengths(rows: Sequence[Seen], source: str, path: Path) -> Path:
    """True lengths against expected ones, answer by answer."""
    figure, panels = _figure(len(rows), 3.6 * len(rows), 3.8, f"Lengths: {source}")
    for axes, colour, one in zip(panels, _COLOURS, rows, strict=False):
        expected, true, _, _ = _answers(one)
        every = max(1, len(true) // _MOST_POINTS)
        axes.loglog(expected[::every], np.maximum(true, 1.0)[::every], ".", color=colour, alpha=0.25, markersize=3)
        ends = [max(float(min(expected.min(), true.min())), 1.0), float(max(expected.max(), true.max()))]
        axes.plot(ends, ends, color="grey", linewidth=0.8)
        axes.set(title=one.predictor, xlabel="expected tokens", ylabel="tokens")
    return _saved(figure, path)


def _answers(one: Seen) -> tuple[NDArray[np.float64], ...]:
    """Of all judged answers: expected tokens, tokens, the 0.9 quantile, and the place of the score, 0 to 1."""
    row, column = np.nonzero(~np.isnan(one.lengths.tokens))
    scores = np.broadcast_to(one.scores[:, None], one.lengths.tokens.shape) if one.scores.ndim == 1 else one.scores
    chosen = scores[row, column]
    place = np.searchsorted(np.sort(chosen), chosen) / max(len(chosen), 1)
    return one.lengths.tokens[row, column], one.table.data.tokens[row, column], one.lengths.high[row, column], place


def _figure(panels: int, width: float, height: float, title: str) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    return figure, list(figure.subplots(1, panels, squeeze=False).flat)


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    return path
