"""``headway bench simulator``: how many requests a second the simulator simulates on one core, case by case."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.collector import quiet
from cli.missing import fail, needs
from cli.report import Report

_TRACE = "traces/AzureLLMInferenceTrace_conv.csv"


@dataclass(frozen=True, slots=True)
class _Range:
    """Of the repetitions: the median, the slowest and the fastest."""

    value: float
    lo: float
    hi: float


def simulator(
    profile: Annotated[str, typer.Option(help="Engine profile: the name of an artifact.")] = "h100-8b",
    requests: Annotated[int, typer.Option(min=1000, help="Requests of the compiled cases.")] = 200_000,
    repetitions: Annotated[int, typer.Option(min=1, help="Of each case.")] = 5,
    only: Annotated[list[str] | None, typer.Option(help="Cases to run; all if left out.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of public data; or HEADWAY_DATA.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report here.")] = None,
) -> None:
    """Requests simulated a second: compiled engines, the whole control plane, an environment, and the plain reference.

    The hour of conversations is Azure's trace where the folder of public data has it, else one made at its rate.
    """
    with needs("train"):
        from cli.bench.simulator_cases import cases, timed
        from controller.store import ArtifactStore, home_in, shipped_models
        from predictors.latency.model import Profile
    import os

    store = ArtifactStore(shipped_models(), home_in(os.environ))
    trace = _trace(data)
    found = list(cases(Profile.load(store.resolve(f"profile/{profile}")), trace, requests, seed))
    if unknown := set(only or ()) - {case.name for case in found}:
        raise fail(f"no case is called {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in found)}")
    settings = {"profile": profile, "requests": requests, "repetitions": repetitions, "trace": trace and trace.name}
    report = Report("bench simulator", seed, settings)
    for case in found:
        if only and case.name not in only:
            continue
        speeds = []
        case.prepare()()  # what is compiled is compiled then
        for _ in range(repetitions):
            run = case.prepare()
            with quiet():
                speeds.append(timed(run))
        speeds.sort()
        speed = _Range(speeds[len(speeds) // 2], speeds[0], speeds[-1])
        met = None if case.target is None else speed.value >= case.target
        report.row(
            {"case": case.name, "what": case.what, "met": met},
            {"requests_per_s": speed, "target": case.target},
        )
    report.write(json_path)
    report.show(Console(), "Requests simulated a second of one core: median, slowest and fastest repetition")


def _trace(data: Path | None) -> Path | None:
    """Azure's trace in the folder of public data, if there is one. A folder that was named must have it."""
    import os

    folder = data or (Path(os.environ["HEADWAY_DATA"]) if os.environ.get("HEADWAY_DATA") else None)
    path = folder / _TRACE if folder is not None else None
    if path is not None and path.exists():
        return path
    if data is not None:
        raise fail(f"{data} has no {_TRACE}; leave --data out for an hour of made conversations")
    return None
