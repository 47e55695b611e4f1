"""What ``headway eval ladder`` shows on the terminal: the figures of its report, in a few compact tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cli.report import Label, Metric, Report

Row = tuple[dict[str, Label], dict[str, Metric]]


def show(report: Report, console: Console) -> None:
    """The models beside each other, accuracy by family and level, step times, and what an oracle would have."""
    rows = report.results
    models = [str(labels["model"]) for labels, _ in _of(rows, "overall")]
    console.print(_beside(rows, models))
    console.print(_matrix(rows, models))
    if any(_of(rows, "step_time")):
        console.print(_step_times(rows))
    for line in _lines(rows, models):
        console.print(line, highlight=False, soft_wrap=True)


def _beside(rows: list[Row], models: list[str]) -> Table:
    """A line a figure, a column a model."""
    whole = {model: _find(rows, "overall", model=model) for model in models}
    shares: dict[str, Callable[[str], Metric]] = {
        "accuracy (%)": lambda model: whole[model]["accuracy"],
        "  over the smaller": lambda model: _find(rows, "step_up", model=model).get("accuracy_gain"),
        "  usual wording": lambda model: _find(rows, "wording", model=model, wording="usual").get("accuracy"),
        "  test wording": lambda model: _find(rows, "wording", model=model, wording="test").get("accuracy"),
        "cut off (%)": lambda model: whole[model]["cut"],
    }
    others: dict[str, Callable[[str], Metric]] = {
        "tokens, median": lambda model: whole[model]["output_tokens_p50"],
        "  95th percentile": lambda model: whole[model]["output_tokens_p95"],
        "  ratio": lambda model: whole[model]["p95_over_p50"],
        "  tau-b, 2 answers": lambda model: _find(rows, "length_ceiling", model=model).get("tau_b"),
        "latency, p50 (s)": lambda model: whole[model]["latency_p50_s"],
    }
    table = _table("the ladder (95 % intervals)", ["", *models])
    for name, read in shares.items():
        table.add_row(name, *(_text(read(model), 100.0) for model in models))
    for name, read in others.items():
        table.add_row(name, *(_text(read(model)) for model in models))
    return table


def _matrix(rows: list[Row], models: list[str]) -> Table:
    """A cell has the accuracy of each model; a star is where the smallest surely fails and the largest succeeds."""
    apart = {(labels["family"], labels["level"]): bool(labels["separates"]) for labels, _ in _of(rows, "separation")}
    levels = sorted({int(level) for _, level in apart if isinstance(level, int)})
    table = _table(f"accuracy (%) by family and level: {'/'.join(models)}", ["", *map(str, levels), "all"])

    def line(name: str, family: Label, settings: tuple[str, str]) -> None:
        cell, total = settings
        own = {} if family is None else {"family": family}
        found = [[_find(rows, cell, model=model, level=level, **own) for model in models] for level in levels]
        parts = [
            f"{_percent(cell)}{'*' * apart.get((family, level), False)}"
            for cell, level in zip(found, levels, strict=True)
        ]
        table.add_row(name, *parts, _percent([_find(rows, total, model=model, **own) for model in models]))

    for family in dict.fromkeys(family for family, _ in apart):
        line(str(family), family, ("cell", "family"))
    line("all", None, ("level", "overall"))
    return table


def _step_times(rows: list[Row]) -> Table:
    table = _table("decoding step, alone on the machine", ["in flight", "model", "ms", "over the smaller", "tokens/s"])
    for labels, metrics in _of(rows, "step_time"):
        values = _text(metrics["step_s"], 1000.0), _text(metrics["step_ratio"]), _text(metrics["tokens_per_s"])
        table.add_row(str(labels["in_flight"]), str(labels["model"]), *values)
    return table


def _lines(rows: list[Row], models: list[str]) -> Iterator[str]:
    for labels, metrics in _of(rows, "oracle"):
        over = f"{_text(metrics['oracle_minus_best'], 100.0)} over {labels['best']}"
        yield f"best answer of any model: {_text(metrics['oracle'], 100.0)} %, {over}"
    levels: dict[str, list[str]] = {}
    for labels, _ in _of(rows, "separation"):
        levels.setdefault(str(labels["family"]), []).extend([str(labels["level"])] if labels["separates"] else [])
    where = "; ".join(f"{family} {', '.join(found)}" for family, found in levels.items() if found) or "nowhere"
    yield f"* levels at which {models[0]} surely fails (below 50 %) and {models[-1]} surely succeeds: {where}"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(columns[0], no_wrap=True)
    for name in columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _of(rows: list[Row], setting: str) -> Iterator[Row]:
    return ((labels, metrics) for labels, metrics in rows if labels["setting"] == setting)


def _find(rows: list[Row], setting: str, **wanted: Label) -> Mapping[str, Metric]:
    """The metrics of the one row with these labels; none where there is no such row."""
    matching = (m for labels, m in _of(rows, setting) if all(labels.get(k) == v for k, v in wanted.items()))
    return next(matching, {})


def _percent(found: Sequence[Mapping[str, Metric]]) -> str:
    values = (metrics.get("accuracy") for metrics in found)
    return "/".join("–" if metric is None else f"{100 * _value(metric):.0f}" for metric in values)


def _value(metric: Metric) -> float:
    if metric is None or isinstance(metric, int | float):
        return float("nan") if metric is None else float(metric)
    return float(metric.value)


def _text(metric: Metric, scale: float = 1.0) -> str:
    if metric is None:
        return "–"
    if isinstance(metric, int | float):
        return _number(metric * scale)
    value, lo, hi = (_number(bound * scale) for bound in (metric.value, metric.lo, metric.hi))
    return f"{value} [{lo}, {hi}]"


def _number(value: float) -> str:
    """Three digits; all of them before the point."""
    return f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"
