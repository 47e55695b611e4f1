"""The tables on the terminal: a row a figure, a column a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.report import Metric, Report

__all__ = ["show"]

_MS: Final = 1e3
_NOTE: Final = (
    "Means over answered requests; in quantiles, a request that was not answered takes for ever (∞). TPOT: time per "
    "output token after the first; normalised: end-to-end time per output token. Goodput: requests/s within their "
    "deadline and every --goodput limit; availability: share answered within their deadline; both over all requests. "
    "Intervals: bootstrap over blocks of consecutive requests, the same blocks for every policy."
)
_COUNTS: Final = (("requests", "requests"), ("completed", "completed"), ("rejected", "rejected"), ("failed", "failed"))
_TIMES: Final = (
    ("ttft", "TTFT", "ms", _MS),
    ("tpot", "TPOT", "ms", _MS),
    ("e2e", "E2E", "s", 1.0),
    ("normalised", "normalised", "ms", _MS),
)
_STATISTICS: Final = ("mean", "p50", "p90", "p99")
_OTHERS: Final = (
    ("goodput_rps", "goodput, requests/s", 1.0),
    ("availability", "availability, %", 100.0),
    ("throughput_rps", "throughput, requests/s", 1.0),
    ("output_tokens_per_s", "output tokens/s", 1.0),
    ("preemptions", "preemptions", 1.0),
    ("prefix_hit_rate", "prefix hit rate, %", 100.0),
    ("waiting_peak", "waiting, peak", 1.0),
    ("running_peak", "running, peak", 1.0),
    ("kv_peak", "KV use, peak, %", 100.0),
    ("duration_s", "duration, s", 1.0),
    ("gpu_hours", "GPU-hours", 1.0),
    ("usd", "cost, $", 1.0),
    ("simulated_requests_per_s", "simulated requests/s", 1.0),
)
_SHARES: Final = (("availability", "availability"), ("good", "good requests"))


def show(console: Console, report: Report, about: str) -> None:
    """Print what was simulated, its figures, and the ratios of the others to the first policy."""
    rows = {str(labels["policy"]): metrics for labels, metrics in report.results}
    console.print(escape(about), highlight=False)
    console.print(_figures(rows))
    if len(rows) > 1:
        console.print(_ratios(rows))
    console.print(_NOTE, highlight=False)


def _figures(rows: Mapping[str, Mapping[str, Metric]]) -> Table:
    table = _table("The same requests under each policy", list(rows))
    _add(table, rows, [(key, label, 1.0) for key, label in _COUNTS], "0")
    for key, label, unit, scale in _TIMES:
        table.add_section()
        _add(table, rows, [(f"{key}_{s}", f"{label} {s}, {unit}", scale) for s in _STATISTICS], "∞")
    table.add_section()
    _add(table, rows, _OTHERS, "–")
    return table


def _ratios(rows: Mapping[str, Mapping[str, Metric]]) -> Table:
    first, *others = rows
    table = _table(f"Ratio to {first} on the same requests, with its 95 % interval", others)
    compared = {name: rows[name] for name in others}
    for key, label, _, _ in _TIMES:
        _add(table, compared, [(f"{key}_{s}_ratio", f"{label} {s}", 1.0) for s in _STATISTICS], "–", intervals=True)
        table.add_section()
    _add(table, compared, [(f"{key}_ratio", label, 1.0) for key, label in _SHARES], "–", intervals=True)
    return table


def _table(title: str, policies: list[str]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column("")
    for name in policies:
        table.add_column(escape(name), justify="right", overflow="fold")
    return table


def _add(
    table: Table,
    rows: Mapping[str, Mapping[str, Metric]],
    figures: list[tuple[str, str, float]] | tuple[tuple[str, str, float], ...],
    nothing: str,
    *,
    intervals: bool = False,
) -> None:
    for key, label, scale in figures:
        table.add_row(label, *(_text(metrics.get(key), scale, nothing, intervals) for metrics in rows.values()))


def _text(metric: Metric, scale: float, nothing: str, intervals: bool) -> str:
    if metric is None:
        return nothing
    if isinstance(metric, int | float):
        return _number(metric * scale)
    value = _number(metric.value * scale)
    return f"{value} \\[{_number(metric.lo * scale)}, {_number(metric.hi * scale)}]" if intervals else value


def _number(value: float) -> str:
    """Four digits that mean something, and all of a whole number."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 10_000 else f"{value:.4g}"
