"""``headway calibrate``: measure a worker, or take saved measurements; fit a profile, and judge it on held-out load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.missing import fail

if TYPE_CHECKING:
    from cli.calibrate.fitting import Calibration
    from cli.report import Metric, Report
    from predictors.latency.campaign import Limits

_SHOWN: Final = ("e2e_mean", "e2e_p90", "itl_p50", "ttft_p50", "ttft_p90", "e2e_p99", "ttft_p99")
_TITLE: Final = "Signed relative errors, % (good: e2e mean 5 %, p90 8 %, itl p50 7 %, ttft p50 15 %, p90 20 %)"


def calibrate(
    target: Annotated[str | None, typer.Option(help="A running server's root, without /v1, to measure.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; the server's only one if left out.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="Sent as a bearer token.")] = None,
    measurements: Annotated[
        list[Path] | None, typer.Option(help="Saved CSV, or folder of them; may be repeated. No server is asked.")
    ] = None,
    holdout: Annotated[
        list[Path] | None, typer.Option(help="CSV or folder to judge on, instead of the folder's own; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where measurements, report, plots and profile go.")] = Path(
        "calibration"
    ),
    minutes: Annotated[float, typer.Option(min=0.01, help="Time under load, roughly.")] = 12.0,
    measure_only: Annotated[bool, typer.Option("--measure-only", help="Stop before the fit.")] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Azure CSV or Mooncake JSON lines to take the open loads' sizes from.")
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(help="Requests/s of the open loads, in their order, instead of found ones.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Beginning of the names of loads to run; repeatable.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the profile; the model's if left out.")] = None,
    start: Annotated[str | None, typer.Option(help="Profile to begin at, instead of a guess from the data.")] = None,
    limits: Annotated[Path | None, typer.Option(help="JSON file of the server's limits.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="The server's; 256 if left out.")] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(min=1, help="The server's; 8192 if left out.")] = None,
    starts: Annotated[int, typer.Option(min=1, help="Points around each guess that the fit begins from.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Write the profile, marked, even if it is not good.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there.")] = None,
) -> None:
    """Fit an engine profile to a live worker (--target) or to saved measurements (--measurements), and judge it.

    Exit code 1 if the profile is not good: a statistic of held-out load is off by more than its bar, or no load was
    held out. Such a profile is written only with --force, and marked.
    """
    from predictors.latency.measurements import MeasurementsError

    if (target is None) == (not measurements):
        raise fail("give either --target URL, to measure a server, or --measurements FILE, to fit what was measured")
    settings = {
        key: value for key, value in locals().items() if key not in ("api_key", "json_path", "MeasurementsError")
    }
    try:
        known = _limits(limits, max_num_seqs, max_num_batched_tokens)
        if target is not None:
            from cli.calibrate.measure import Asked, run

            asked = Asked(
                target, out, model, api_key, known, minutes, trace, tuple(rate or ()), tuple(only or ()), seed
            )
            run(asked, _say)
            if measure_only:
                _say(f"measurements are in {out}; fit them with: headway calibrate --measurements {out}")
                return
        sources = measurements or [out]
        _fit(sources, holdout or [], known, name, start, starts, seed, out, force, json_path, settings)
    except MeasurementsError as error:
        raise fail(escape(str(error))) from error


def _limits(file: Path | None, max_num_seqs: int | None, max_num_batched_tokens: int | None) -> Limits:
    from cli.calibrate.sources import read_limits

    return read_limits(file, max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens)


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, markup=False)


def _fit(
    measurements: list[Path],
    holdout: list[Path],
    limits: Limits,
    name: str | None,
    start: str | None,
    starts: int,
    seed: int,
    out: Path,
    force: bool,
    json_path: Path | None,
    settings: dict[str, Any],
) -> None:
    from cli.calibrate.fitting import calibrate as fitted
    from cli.calibrate.fitting import report, write_artifact
    from cli.calibrate.sources import begin, read_sources

    sources = read_sources(measurements, holdout, limits)
    for skipped in sources.skipped:
        _say(f"left out: {skipped}")
    places = begin(name or _name(sources.model, measurements), sources, start)
    try:
        found = fitted(sources, places, starts=starts, seed=seed)
    except ValueError as error:
        raise fail(f"{error}; give the server's own limits by --limits FILE, or leave them out") from error
    written = report(found, sources, settings, seed)
    if found.good or force:
        written.extra("written", str(write_artifact(found, out, seed)))
    written.extra("plots", _plots(found, out))
    written.write(out / "report.json")
    written.write(json_path)
    Console().print(_table(written))
    _judge(found, written.extras.get("written"))


def _table(report: Report) -> Table:
    """The errors of every load, in percent, fitted or held out; their intervals are in the report."""
    table = Table("load", "", *(name.replace("_", " ") for name in _SHOWN), title=_TITLE, title_justify="left")
    for labels, metrics in report.results:
        cells = [_percent(metrics.get(name)) for name in _SHOWN]
        table.add_row(str(labels["load"]), "out" if labels["split"] == "held_out" else "fit", *cells)
    return table


def _percent(error: Metric) -> str:
    if error is None:
        return "–"
    return f"{100 * (error if isinstance(error, int | float) else error.value):+.1f}"


def _name(model: str, measurements: list[Path]) -> str:
    raw = measurements[0].stem if model == "unknown" else Path(model).name
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in raw.lower()).strip("-._") or "measured"


def _plots(found: Calibration, out: Path) -> list[str]:
    from cli.calibrate.plots import draw

    try:
        return [str(path) for path in draw(found.fit, found.held_out, out / "plots")]
    except ModuleNotFoundError as error:
        _say(f"no plots: {error.name} is not installed; try: pip install 'headway[train]'")
        return []


def _judge(found: Calibration, written: str | None) -> None:
    """Say how it went; exit code 1 unless the profile is good."""
    if written is not None:
        _say(f"profile {found.profile.name}: {written}" + ("" if found.good else " (marked as not good)"))
    if found.good:
        return
    kept = "" if written else "\nThe profile was not written; --force writes it, marked."
    raise fail("not a good fit:\n  " + escape("\n  ".join(found.objections())) + kept, 1)
