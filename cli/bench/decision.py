"""``headway bench decision``: what deciding about one request costs, part by part, in one process under load."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from cli.missing import fail, needs
from cli.report import Report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cli.bench.decision_run import Measured
    from predictors.types import Interval

BUDGET_P50_US: Final = 150.0
BUDGET_P99_US: Final = 1000.0
"""Microseconds for all that is computed about a request."""
_COMPUTED: Final = ("embed", "rank", "quality", "score", "tier", "hash", "place")
"""The parts of that: embedding, ranking, routing, tier and placement. The others are limits, queues and accounts."""
_ENOUGH: Final = 0.99
"""Share of requests that must have been scored for a run to count."""
_WARM_UP_S: Final = 1.0
_RESAMPLES: Final = 500
_TIERS: Final = ("best_effort", "router")


def decision(
    rate: Annotated[float, typer.Option(min=1, help="Requests per second, open loop.")] = 500.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long, after a second of warming up.")] = 10.0,
    prompts: Annotated[
        str | None,
        typer.Option(metavar="FILE|tasks:SPLIT:COUNT", help="Prompts; the arena's in DIR, or made ones, if left out."),
    ] = None,
    chars: Annotated[int | None, typer.Option(min=16, help="Make every prompt so many characters long.")] = None,
    tier: Annotated[str, typer.Option(help=f"Tier stage over three pools: {', '.join(_TIERS)}.")] = "best_effort",
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of public data; or HEADWAY_DATA.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report here.")] = None,
) -> None:
    """What deciding costs a request: embedding, ranking, quality, tier, placement, record, by part."""
    if tier not in _TIERS:
        raise fail(f"--tier {tier}: write one of {', '.join(_TIERS)}")
    with needs("serve"):
        from cli.bench.decision_prompts import distinct, read
        from cli.bench.decision_run import Plan, run
    warm_up = round(_WARM_UP_S * rate)
    count = warm_up + round(seconds * rate)
    source, texts = read(prompts, data, seed, count)
    offered = distinct(texts, count, seed, chars)
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as folder:
        measured = run(Plan(tier, rate, warm_up, seed), offered, Path(folder))
    settings = {
        "rate": rate, "seconds": seconds, "warm_up_s": _WARM_UP_S, "prompts": source, "tier": tier,
        "chars": chars, "median_chars": sorted(map(len, offered))[count // 2],
    }  # fmt: skip
    report = Report("bench decision", seed, settings)
    met = _fill(report, measured, seed)
    report.write(json_path)
    _show(report, measured, met)
    if measured.share("scored", "unknown") < _ENOUGH:
        raise fail(f"only {measured.share('scored', 'unknown'):.1%} of the requests were scored; 99 % must be", 1)


def _fill(report: Report, measured: Measured, seed: int) -> bool:
    """Rows by part; whether the budget is kept."""
    total, computed = measured.total, measured.sum_of(_COMPUTED)
    for part, spent in measured.parts.items():
        report.row({"part": part}, {**_percentiles(spent, seed), "share": float(spent.sum() / total.sum())})
    report.row({"part": "computed"}, {**_percentiles(computed, seed), "share": float(computed.sum() / total.sum())})
    report.row({"part": "total"}, {**_percentiles(total, seed), "share": 1.0})
    report.row({"part": "total, CPU"}, {**_percentiles(measured.cpu, seed), "share": None})
    met = _within(total)
    budget = {"p50_us": BUDGET_P50_US, "p99_us": BUDGET_P99_US, "met": met}
    report.extra("budget", {**budget, "computed": list(_COMPUTED), "met_by_computed": _within(computed)})
    report.extra(
        "scores", {outcome: measured.share(outcome) for outcome in ("scored", "unknown", "skipped", "fallback")}
    )
    report.extra("tier_fallbacks", dict(measured.fallbacks))
    report.extra("pools", dict(measured.pools))
    report.extra("late", measured.late)
    report.extra("refused", measured.refused)
    return met


def _within(seconds: NDArray[np.float64]) -> bool:
    """Whether these keep the budget."""
    import numpy as np

    p50, p99 = 1e6 * np.quantile(seconds, (0.5, 0.99))
    return bool(p50 <= BUDGET_P50_US and p99 <= BUDGET_P99_US)


def _percentiles(seconds: NDArray[np.float64], seed: int) -> dict[str, Any]:
    return {"p50_us": _quantile(seconds, 0.5, seed), "p99_us": _quantile(seconds, 0.99, seed)}


def _quantile(seconds: NDArray[np.float64], share: float, seed: int) -> Interval:
    import numpy as np

    from predictors.intervals import bootstrap

    return bootstrap(lambda drawn: float(np.quantile(drawn, share)), 1e6 * seconds, seed=seed, resamples=_RESAMPLES)


def _show(report: Report, measured: Measured, met: bool) -> None:
    console = Console()
    where = f"{report.settings['prompts']}, median {report.settings['median_chars']} characters"
    report.show(console, f"Deciding about one request, µs: {report.settings['rate']:g} requests/s, {where}")
    shares = ", ".join(
        f"{measured.share(outcome):.1%} {word}"
        for outcome, word in (
            ("scored", "scored"),
            ("unknown", "scored as unlike anything known"),
            ("skipped", "skipped"),
            ("fallback", "fallen back"),
        )
    )
    console.print(f"Scores: {shares}. Requests that began over 10 ms late: {measured.late:.1%}.")
    budget = f"Budget of p50 <= {BUDGET_P50_US:g} µs and p99 <= {BUDGET_P99_US:g} µs"
    computed = _verdict(bool(report.extras["budget"]["met_by_computed"]))
    console.print(f"{budget}: {_verdict(met)}; by what is computed alone ({', '.join(_COMPUTED)}): {computed}.")


def _verdict(met: bool) -> str:
    return "[green]kept[/]" if met else "[red]not kept[/]"
