"""``headway bench simulator``: how many requests a second the simulator simulates on one core, case by case."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.collector import quiet
from cli.missing import fail, needs
from cli.report import Report

if TYPE_CHECKING:
    from cli.bench.simulator_cases import Case
    from predictors.latency.model import Profile

_TRACE: Final = "traces/AzureLLMInferenceTrace_conv.csv"
_WORDS: Final = {None: "–", True: "yes", False: "no"}


@dataclass(frozen=True, slots=True)
class _Speed:
    """Requests a second of the repetitions: the median, the slowest and the fastest."""

    value: float
    lo: float
    hi: float


def simulator(
    profile: Annotated[
        str, typer.Option(help="Engine profile: an artifact's name, its folder, or a JSON file.")
    ] = "h100-8b",
    requests: Annotated[int, typer.Option(min=1000, help="Requests of the compiled cases.")] = 200_000,
    repetitions: Annotated[int, typer.Option(min=1, help="Of each case.")] = 5,
    only: Annotated[list[str] | None, typer.Option(help="Case to run; repeat; all if left out.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of public data; or HEADWAY_DATA.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report here.")] = None,
) -> None:
    """Requests simulated a second: compiled engines, the whole control plane, an environment, and the plain reference.

    The hour of conversations is Azure's trace where the folder of public data has it, else one made at its rate.
    """
    trace = _trace(data)
    settings = {"profile": profile, "requests": requests, "repetitions": repetitions, "trace": trace and trace.name}
    report = Report("bench simulator", seed, settings)
    with needs("train"):
        from cli.bench.simulator_cases import cases

        found = list(cases(_profile(profile), trace, requests, seed))
        for case in _chosen(found, only or ()):
            speed = _speed(case, repetitions)
            met = None if case.target is None else speed.value >= case.target
            labels = {"case": case.name, "what": case.what, "met": met}
            report.row(labels, {"requests_per_s": speed, "target": case.target})
    report.write(json_path)
    Console().print(_table(report))


def _trace(data: Path | None) -> Path | None:
    """Azure's trace in the folder of public data, if there is one. A folder that was named must have it."""
    folder = data or (Path(os.environ["HEADWAY_DATA"]) if os.environ.get("HEADWAY_DATA") else None)
    path = folder / _TRACE if folder is not None else None
    if path is not None and path.exists():
        return path
    if data is not None:
        raise fail(f"{escape(str(data))} has no {_TRACE}; leave --data out for an hour of made conversations")
    return None


def _profile(ref: str) -> Profile:
    from cli.simulate.machines import load_profile
    from controller.store import ArtifactStore, home_in, shipped_models

    try:
        return load_profile(ref, ArtifactStore(shipped_models(), home_in(os.environ)))
    except ValueError as error:
        raise fail(escape(str(error))) from error


def _chosen(found: Sequence[Case], only: Sequence[str]) -> list[Case]:
    names = [case.name for case in found]
    if unknown := sorted(set(only) - set(names)):
        raise fail(f"no case is called {escape(', '.join(unknown))}; there are {', '.join(names)}")
    return [case for case in found if not only or case.name in only]


def _speed(case: Case, repetitions: int) -> _Speed:
    from cli.bench.simulator_cases import timed

    case.prepare()()  # what is compiled is compiled then
    speeds = []
    for _ in range(repetitions):
        run = case.prepare()
        with quiet():
            speeds.append(timed(run))
    speeds.sort()
    return _Speed(speeds[len(speeds) // 2], speeds[0], speeds[-1])


def _table(report: Report) -> Table:
    """Narrow enough for a terminal of 80 columns; what each case is says the JSON report."""
    table = Table(title="Requests simulated a second of one core", title_justify="left")
    table.add_column("case", no_wrap=True)
    for heading in ("median", "slowest", "fastest", "target", "met"):
        table.add_column(heading, justify="right", no_wrap=True)
    for labels, metrics in report.results:
        speed, met = metrics["requests_per_s"], labels["met"]
        assert isinstance(speed, _Speed)
        numbers = (speed.value, speed.lo, speed.hi, metrics["target"])
        assert met is None or isinstance(met, bool)
        table.add_row(str(labels["case"]), *map(_short, numbers), _WORDS[met])
    return table


def _short(number: object) -> str:
    """Three digits: 3.06 M, 405 k."""
    if not isinstance(number, int | float):
        return "–"
    for unit, size in ((" M", 1e6), (" k", 1e3)):
        if number >= 0.9995 * size:
            return f"{float(f'{number / size:.3g}'):g}{unit}"
    return f"{number:.3g}"
