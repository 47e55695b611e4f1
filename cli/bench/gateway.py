"""``headway bench gateway``: what the gateway costs, beside other gateways, in one interleaved run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cli.missing import fail, needs
from cli.report import Metric, Report

if TYPE_CHECKING:
    from cli.bench.gateway_rounds import Outcome, Plan

_ENOUGH = 0.99
"""Share of headway's requests that must have been scored for a run to count."""


def gateway(
    peers: Annotated[
        str, typer.Option(help="Other gateways, by commas: smg, vllm-router, litellm; empty for none.")
    ] = "smg,vllm-router",
    rounds: Annotated[int, typer.Option(min=1, help="Times that every target is measured, interleaved.")] = 5,
    connections: Annotated[str, typer.Option(help="Numbers of connections, by commas.")] = "1,32,256",
    seconds: Annotated[int, typer.Option(min=1, help="For each run of a target.")] = 5,
    rate: Annotated[
        float, typer.Option(min=0, help="Requests/s of the open loop, below every Rust peer's capacity; 0 for none.")
    ] = 500.0,
    prompts: Annotated[int, typer.Option(min=100, help="Different prompts to draw from.")] = 20_000,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes of headway; one a core if left out, for peers use every core.")
    ] = None,
    envs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where peers are installed; HEADWAY_HOME/peers if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report here.")] = None,
) -> None:
    """Requests/s, CPU, memory and added latency: direct, headway with its whole pipeline on, and the peers."""
    console = Console(stderr=True)
    plan = _plan(peers, rounds, connections, seconds, rate, processes or _cores(), seed)
    with needs("bench"):
        outcome = _measure(plan, prompts, envs, console)
    report = Report("bench gateway", seed, {**plan.settings(), "prompts": prompts, **outcome.settings})
    _fill(report, outcome, seed)
    report.write(json_path)
    _show(report)
    _judge(outcome)


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _plan(peers: str, rounds: int, connections: str, seconds: int, rate: float, processes: int, seed: int) -> Plan:
    with needs("bench"):
        from cli.bench.gateway_peers import PEERS
        from cli.bench.gateway_rounds import Plan
    wanted = [name.strip() for name in peers.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in PEERS]
    if unknown:
        raise fail(f"--peers {', '.join(unknown)}: unknown; known are {', '.join(PEERS)}")
    counts = [count.strip() for count in connections.split(",")]
    if not all(count.isdecimal() and int(count) > 0 for count in counts):
        raise fail(f"--connections {connections!r}: write numbers above 0, separated by commas, like 1,32,256")
    return Plan(tuple(dict.fromkeys(wanted)), rounds, tuple(map(int, counts)), seconds, rate, processes, seed)


def _measure(plan: Plan, prompts: int, envs: Path | None, console: Console) -> Outcome:
    from cli.bench.gateway_rounds import Bench
    from cli.bench.gateway_wrk import LoadError
    from controller.store import home_in

    folder = envs or home_in(os.environ) / "peers"
    try:
        with ExitStack() as stack:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headway-bench-")))
            bench = Bench(plan, work, folder, console, stack)
            bench.prepare(prompts)
            return bench.run()
    except LoadError as error:
        raise fail(escape(str(error)), 1) from error


def _fill(report: Report, outcome: Outcome, seed: int) -> None:
    from cli.bench.gateway_report import fill

    fill(report, outcome.tables, seed)
    scored = outcome.scored
    metrics = {"scored": scored.scored, "skipped": scored.skipped, "fallback": scored.fallback, "share": scored.share}
    report.row({"target": "headway", "setting": "scoring"}, metrics)


def _show(report: Report) -> None:
    console = _console()
    loads, delays = _only(report, "connections"), _only(report, "open_loop")
    columns = ("rps", "rps_min", "rps_max", "cpu_s_per_1k", "rss_mb", "failed")
    loads.show(console, "Closed loop: requests/s, CPU-seconds per 1,000 requests, resident MB", columns)
    if delays.results:
        shown: Sequence[str] = ("p50_ms", "p99_ms", "p50_added_ms", "p99_added_ms", "first_p99_added_ms", "failed")
        delays.show(console, "Open loop: milliseconds to the end of the answer, and what is added to direct", shown)
    for mode, peers in report.extras["ratios"].items():
        for peer, ratios in peers.items():
            found = report.extras["ratios_ci"][mode][peer]
            text = ", ".join(f"{name} {_ratio(value, found[name])}" for name, value in ratios.items())
            console.print(f"headway ÷ {peer}, {mode}: {text}", highlight=False, markup=False)


def _console() -> Console:
    """Wide enough for the tables where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def _only(report: Report, what: str) -> Report:
    """The rows that are about this, with medians alone: the intervals are in the JSON."""
    part = Report(report.command, report.seed, report.settings)
    for labels, metrics in report.results:
        if what in labels or labels.get("setting") == what:
            part.row(labels, {name: _value(metric) for name, metric in metrics.items()})
    return part


def _value(metric: Metric) -> float | None:
    return metric if metric is None or isinstance(metric, int | float) else metric.value


def _ratio(value: float | None, bounds: Sequence[float] | None) -> str:
    return "–" if value is None or bounds is None else f"{value:.2f} [{bounds[0]:.2f}, {bounds[1]:.2f}]"


def _judge(outcome: Outcome) -> None:
    scored = outcome.scored
    said = f"scored {scored.scored}, skipped {scored.skipped}, fallen back {scored.fallback}: {scored.share:.2%} scored"
    said += "".join(f"; {reason} {times}" for reason, times in sorted(scored.reasons.items()) if times)
    Console().print(f"headway: {said}; generator: {outcome.settings['generator']}", highlight=False)
    if scored.share < _ENOUGH:
        raise fail(f"this run does not count: only {scored.share:.2%} of headway's requests were scored", 1)
    if outcome.failed:
        raise fail(f"this run does not count: {outcome.failed} requests to headway or direct were not answered", 1)
