"""``headway simulate``: what would happen to a trace on a fleet, under one policy and another."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.missing import fail, needs
from cli.report import Report
from cli.simulate.compiled import CompiledRunner
from cli.simulate.machines import Machines, parse_machines
from cli.simulate.policies import Policy, parse_policies
from cli.simulate.prefixes import keeps_prefixes
from cli.simulate.runner import FullRunner, Limits, Outcome, Runner
from cli.simulate.table import show
from cli.simulate.workload import Ranks, Workload, open_workload, rank_by_length

if TYPE_CHECKING:
    from controller.objectives import Objective

_ENGINES = ("full", "compiled")
_WARM_UP = 2
"""Requests that are run beforehand, so that nothing is compiled while the speed is measured."""


def simulate(
    trace: Annotated[Path, typer.Option(metavar="FILE", help="Trace to replay; see: headway data list.")],
    profile: Annotated[
        list[str],
        typer.Option(metavar="NAME[=WORKERS]", help="Engine profile: an artifact, its folder, or a JSON file; repeat."),
    ],
    policy: Annotated[
        list[str],
        typer.Option(help="fcfs, prefix, … or order=length_rank,place=least_load,max_inflight=64; repeat to compare."),
    ],
    format: Annotated[str | None, typer.Option(help="Of the trace; told by its content if left out.")] = None,
    start: Annotated[int, typer.Option(min=0, help="Row of the trace to begin at.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Requests to replay at most.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Mean requests/s that the trace is scaled to, before any are left out.")
    ] = None,
    time_scale: Annotated[float | None, typer.Option(help="Multiplies times: 0.5 doubles the rate.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers of each profile that does not say.")] = 1,
    max_inflight: Annotated[int, typer.Option(min=1, help="Requests on one worker at most; others wait.")] = 64,
    max_queue: Annotated[int, typer.Option(min=0, help="Requests waiting at most; others are rejected.")] = 1024,
    max_queue_s: Annotated[float, typer.Option(min=0.0, help="Seconds after which a waiting one is rejected.")] = 60.0,
    deadline: Annotated[
        float | None, typer.Option(help="Seconds within which the whole answer is wanted, where the trace has none.")
    ] = None,
    goodput: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:MS", help="Limit for goodput: ttft:500, tpot:50, e2el:9000; repeat."),
    ] = None,
    rank_noise: Annotated[
        float,
        typer.Option(
            metavar="TAU",
            min=0.0,
            max=1.0,
            help="Kendall's tau between true lengths and the ranks length_rank is given: 1 is an oracle.",
        ),
    ] = 0.4,
    prefix_caching: Annotated[
        bool | None,
        typer.Option(
            "--prefix-caching/--no-prefix-caching",
            help="Engines find prefixes of prompts again; if left out, they do where the trace has any.",
        ),
    ] = None,
    skip_too_long: Annotated[
        bool, typer.Option("--skip-too-long", help="Leave out prompts that no pool's context holds.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="full: the real control plane; compiled: simple policies, fast.")
    ] = "full",
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    home: Annotated[Path | None, typer.Option(metavar="DIR", help="Writable store of artifacts.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw pictures into this folder.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there.")] = None,
) -> None:
    """Replay a trace on a simulated fleet under each policy, and compare: every policy sees the same requests."""
    given = {name: value for name, value in locals().items() if name not in ("home", "plots", "json_path")}
    if engine not in _ENGINES:
        raise fail(f"--engine is {' or '.join(_ENGINES)}, not {escape(repr(engine))}")
    if rate is not None and time_scale is not None:
        raise fail("give either --rate or --time-scale, not both")
    for name, value in (("--rate", rate), ("--time-scale", time_scale), ("--deadline", deadline)):
        if value is not None and not 0 < value < math.inf:
            raise fail(f"{name} must be above 0, not {value}")
    if plots is not None:
        with needs("train"):
            import matplotlib.figure  # noqa: F401
    limits = Limits(max_inflight, max_queue, max_queue_s)
    with _as_failures():
        policies, machines = parse_policies(policy), _machines(profile, workers, home)
        whole, kind = open_workload(
            trace, format, start=start, limit=limit, rate=rate, time_scale=time_scale, deadline_s=deadline, seed=seed
        )
        study = _study(
            machines,
            policies,
            whole,
            _objective(goodput),
            rank_noise,
            seed,
            skip_too_long=skip_too_long,
            prefix_caching=prefix_caching,
        )
        runner = _runner(engine, study, limits)
        _warn_of_one_pool(study)
        outcomes = _run(runner, study)
    report = _report(study, outcomes, {**given, "trace": str(trace), "format": kind})
    report.write(json_path)
    show(Console(), report, _about(study, kind))
    if plots is not None:
        _draw(study, outcomes, f"{trace.name}: {_about(study, kind).splitlines()[0]}", plots)


@dataclass(frozen=True, slots=True)
class _Study:
    """What is compared on what."""

    machines: Machines
    policies: Sequence[Policy]
    workload: Workload
    left_out: int
    objective: Objective
    ranks: Ranks | None
    seed: int
    prefix_caching: bool


@contextmanager
def _as_failures() -> Iterator[None]:
    """Mistakes in what was given end the command with exit code 2 and their message."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise fail(escape(str(error))) from error


def _machines(profiles: Sequence[str], workers: int, home: Path | None) -> Machines:
    from controller.store import ArtifactStore, home_in, shipped_models

    return parse_machines(profiles, workers, ArtifactStore(shipped_models(), home or home_in(os.environ)))


def _objective(limits: Sequence[str] | None) -> Objective:
    from controller.objectives import Objective

    try:
        return Objective.parse(limits or ())
    except ValueError as error:
        raise ValueError(f"--goodput: {error}") from error


def _study(
    machines: Machines,
    policies: Sequence[Policy],
    whole: Workload,
    objective: Objective,
    tau: float,
    seed: int,
    *,
    skip_too_long: bool,
    prefix_caching: bool | None,
) -> _Study:
    """Ranks are drawn only where a policy asks for them."""
    workload = whole.within(machines.longest_context) if skip_too_long else whole
    if not len(workload):
        raise ValueError(f"no request has a prompt of less than {machines.longest_context} tokens")
    wanted = any(policy.chosen("order") == "length_rank" for policy in policies)
    ranks = rank_by_length(workload.output_tokens, tau, seed) if wanted else None
    caching, left_out = keeps_prefixes(prefix_caching, workload, machines), len(whole) - len(workload)
    return _Study(machines, policies, workload, left_out, objective, ranks, seed, caching)


def _runner(engine: str, study: _Study, limits: Limits) -> Runner:
    runner: Runner
    machines, caching = study.machines, study.prefix_caching
    if engine == "compiled":
        runner = CompiledRunner(machines, limits=limits, prefix_caching=caching)
    else:
        runner = FullRunner(machines, limits=limits, ranks=study.ranks, seed=study.seed, prefix_caching=caching)
    for policy in study.policies:
        runner.check(policy)
    return runner


def _warn_of_one_pool(study: _Study) -> None:
    """Every request may be answered by every pool, and a tier stage that nobody chose does not choose either."""
    pools = study.machines.pools
    silent = [policy.name for policy in study.policies if "tier" not in policy.stages]
    if len(pools) > 1 and silent:
        weights = ", ".join(f"{pool.name}: 1" for pool in pools)
        told = (
            f"under {' and '.join(silent)} every request goes to {pools[0].model}, the first of {len(pools)} models "
            f"that can hold it; add tier=threshold, or tier=static,tier.weights={{{weights}}}, to the policy"
        )
        Console(stderr=True).print(f"[bold yellow]headway:[/] {escape(told)}", highlight=False, soft_wrap=True)


def _run(runner: Runner, study: _Study) -> list[Outcome]:
    """Each policy over the whole workload, with a bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    outcomes = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        for policy in study.policies:
            task = bar.add_task(escape(policy.name), total=len(study.workload))
            runner.run(study.workload.first(_WARM_UP), policy, lambda arrived: None)
            outcomes.append(runner.run(study.workload, policy, _advance(bar, task)))
    return outcomes


def _advance(bar: Progress, task: Any) -> Callable[[int], None]:
    return lambda arrived: bar.update(task, advance=arrived)


def _report(study: _Study, outcomes: Sequence[Outcome], given: dict[str, Any]) -> Report:
    from cli.simulate.figures import figures

    workload, ranks = study.workload, study.ranks
    settings = {
        **given,
        "prefix_caching": study.prefix_caching,
        "prefix_block": workload.prefix_block,
        "requests": len(workload),
        "left_out": study.left_out,
        "span_s": workload.span_s,
        "fleet": study.machines.described(),
        "policies": {policy.name: policy.described() for policy in study.policies},
        "baseline": study.policies[0].name,
        "rank": None if ranks is None else {"tau_asked": ranks.asked, "tau": ranks.tau},
    }
    report = Report("simulate", study.seed, settings)
    found = figures(workload, outcomes, study.machines, study.objective, study.seed)
    for policy, metrics in zip(study.policies, found, strict=True):
        report.row({"policy": policy.name}, metrics)
    return report


def _about(study: _Study, kind: str) -> str:
    """What was simulated, in a few lines."""
    workload, ranks = study.workload, study.ranks
    fleet = ", ".join(
        f"{count} × {name}" for pool in study.machines.described() for name, count in pool["workers"].items()
    )
    rate = f", {(len(workload) - 1) / workload.span_s:.3g} a second" if workload.span_s > 0 else ""
    lines = [f"{len(workload):,} requests ({kind}) over {workload.span_s:,.0f} s{rate}; fleet: {fleet}."]
    if study.left_out:
        lines.append(f"{study.left_out:,} requests left out: their prompts fit no pool's context.")
    if study.prefix_caching:
        lines.append(f"Engines keep prefixes, in blocks of {workload.prefix_block} tokens as the trace tells them.")
    if ranks is not None:
        tau = "undefined" if ranks.tau is None else f"{ranks.tau:.2f}"
        lines.append(
            f"length_rank was given the true lengths' ranks with noise: Kendall's tau {tau} (--rank-noise "
            f"{ranks.asked:g}; 1 is an oracle, the shipped predictor reaches about 0.4 on chat prompts)."
        )
    return "\n".join(lines)


def _draw(study: _Study, outcomes: Sequence[Outcome], title: str, folder: Path) -> None:
    from cli.simulate.plots import draw

    named = {policy.name: outcome for policy, outcome in zip(study.policies, outcomes, strict=True)}
    with _as_failures():
        files = draw(study.workload, named, title, folder)
    Console().print(f"pictures: {', '.join(map(str, files))}", highlight=False, soft_wrap=True, markup=False)
