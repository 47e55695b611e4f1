"""Fit the shipped engine profiles to measured runs, and judge them on runs they have not seen.

    python -m benchmarks.profile_fit --data DIR [--json FILE] [--write MODELS]

Fits h100-8b on ``m8b_conv_r4`` and the closed loops, h100-1b on ``m1b_conv_r10``; the errors in the table are signed
relative errors of each statistic, with intervals from resampling the requests. ``--write`` writes the artifacts, the
scaled h100-32b included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.missing import data_dir, fail
from cli.report import Report
from envs.engines.replay import closed_loop, replay
from predictors.artifact import ArtifactExists, DataSource
from predictors.latency.card import write_profile
from predictors.latency.judgement import errors_with_intervals
from predictors.latency.ladder import CLOSED_LOOPS_8B, START_1B, START_8B, scaled_32b
from predictors.latency.measurements import ClosedLoop, read_measurements
from predictors.latency.model import Profile
from predictors.latency.train import ProfileFitter
from predictors.types import Interval

_SHOWN = ("e2e_mean", "e2e_p90", "itl_p50", "ttft_p50", "ttft_p90", "tokens_per_s")
_MEASURED = "Fitted by bounded least squares through the simulator to {fit}{loops}; judged on {held_out}."
_SCALED = (
    "Weights and arithmetic a GPU scale a, b, c, start-up and sleep from the 8B shape (two GPUs, tensor parallel, 90 % "
    "efficiency assumed), KV bytes a GPU scale d, layers the launch time; nothing of it was measured."
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one profile is fitted to, and judged on."""

    start: Profile
    fit: str
    held_out: str
    closed_loops: tuple[ClosedLoop, ...] = ()


PLANS = (Plan(START_1B, "m1b_conv_r10", "m1b_conv_r25"), Plan(START_8B, "m8b_conv_r4", "m8b_conv_r8", CLOSED_LOOPS_8B))


def main(
    data: Annotated[Path | None, typer.Option(help="Folder of public data.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write version 1 of the artifacts into this models folder.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace artifacts that exist.")] = False,
    seed: Annotated[int, typer.Option(help="Of the intervals' resampling.")] = 0,
) -> None:
    """Fit, judge, print, and write."""
    folder = data_dir(data, "h100/m8b_conv_r4.csv") / "h100"
    report = Report("benchmarks profile_fit", seed, {"plans": [f"{p.fit} -> {p.held_out}" for p in PLANS]})
    try:
        for plan in PLANS:
            _fit_one(plan, folder, report, seed, write, overwrite)
    except ArtifactExists as error:
        raise fail(f"{error} (or pass --overwrite)", 1) from error
    _print(report)
    report.write(json_path)


def _print(report: Report) -> None:
    brief = Report(report.command, report.seed, report.settings)
    for labels, metrics in report.results:
        points = {n: f"{m.value:+.1%}" for n in _SHOWN if isinstance(m := metrics.get(n), Interval)}
        brief.row({**labels, **dict.fromkeys(_SHOWN, ""), **points}, {})
    brief.show(Console(width=140), "Signed relative errors of the simulator (intervals in the JSON)")


def _fit_one(plan: Plan, folder: Path, report: Report, seed: int, write: Path | None, overwrite: bool) -> None:
    fit, held_out = (read_measurements(folder / f"{name}.csv") for name in (plan.fit, plan.held_out))
    fitter = ProfileFitter(plan.start, replay, closed_loop).fit(fit, plan.closed_loops)
    profile = fitter.profile_
    found: dict[str, dict[str, Interval]] = {}
    for role, load in (("fit", fit), ("held_out", held_out)):
        found[role] = errors_with_intervals(fitter.predict(load), load.measured, seed)
        report.row({"profile": profile.name, "load": load.name, "split": role}, found[role])
    for loop in plan.closed_loops:
        error = closed_loop(profile, loop).tokens_per_s / loop.tokens_per_s - 1.0
        labels = {"profile": profile.name, "load": f"closed_loop_{loop.concurrency}", "split": "fit"}
        report.row(labels, {"tokens_per_s": Interval(error, error, error)})
    if write is None:
        return
    profile = replace(profile, errors={name: round(m.value, 4) for name, m in found["held_out"].items()})
    created = datetime.now(UTC).isoformat(timespec="seconds")
    loops = " and to closed loops of 1 to 256 in flight" if plan.closed_loops else ""
    sources = [DataSource(f"h100/{load.name}.csv", "this project", load.sha256, len(load)) for load in (fit, held_out)]
    write_profile(
        write,
        profile,
        version=1,
        created=created,
        data=sources[:1],
        metrics=found["held_out"],
        method=_MEASURED.format(fit=plan.fit, loops=loops, held_out=plan.held_out),
        held_out={sources[1].name: {"rows": "all", "sha256": sources[1].sha256}},
        overwrite=overwrite,
    )
    if profile.name == "h100-8b":
        scaled = scaled_32b(profile)
        write_profile(
            write, scaled, version=1, created=created, data=(), metrics={}, method=_SCALED, overwrite=overwrite
        )


if __name__ == "__main__":
    typer.run(main)
