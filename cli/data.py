"""``headway data``: what public data there is, traces brought into headway's format, and downloads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from cli.missing import fail
from cli.report import Metric, Report

if TYPE_CHECKING:
    from cli.data_holdings import Holding
    from envs.traces import Reading, Trace, Written
    from envs.workloads import Arrival

DataDir = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Folder of public data; or HEADWAY_DATA.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there.")]

_AUTO = "auto"
_TOLD = 4096
"""Rows between two moves of the progress bar."""
_Row = TypeVar("_Row")


def list_(data: DataDir = None, json_path: JsonFile = None) -> None:
    """List the data in the folder, with format, licence and rows, and what can be fetched by name."""
    from cli.data_holdings import holdings
    from envs.traces.catalogue import KNOWN

    folder = _folder(data)
    if not folder.is_dir():
        raise fail(f"{escape(str(folder))} is not a folder; --data must name one that holds traces and tables")
    report = Report("data list", None, {"data": str(folder)})
    with _counting() as tell:
        found = list(holdings(folder, tell))
    for one in found:
        report.row(_labels(one, folder), {"rows": one.rows, "megabytes": one.size / 1e6})
    there = {one.path.name for one in found}
    fetchable = [known for known in KNOWN.values() if known.url and known.file not in there]
    report.extra("fetchable", [{"name": k.name, "licence": k.licence, "title": k.title} for k in fetchable])
    report.write(json_path)
    console = Console()
    if found:
        report.show(console, escape(str(folder)))
    else:
        console.print(f"{escape(str(folder))} holds no data", highlight=False)
    for known in fetchable:
        console.print(f"  headway data fetch {known.name:<22} {known.title} ({known.licence})", highlight=False)


def import_(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A trace in any known format.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The trace to write: .parquet or .jsonl.")],
    format: Annotated[str, typer.Option(metavar="NAME", help="Its format; told by its content if auto.")] = _AUTO,
    time_scale: Annotated[
        float | None, typer.Option(metavar="X", help="Multiply all times: 0.5 doubles the rate.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="R", help="Scale to this mean rate in requests/s; for formats without times, how often one begins."
        ),
    ] = None,
    start: Annotated[int, typer.Option(metavar="N", min=0, help="Leave out so many requests at the beginning.")] = 0,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Take no more requests than this.")] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A tokenizer.json to count texts with; else a token is 4 characters."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of times and lengths that are drawn.")] = 0,
    json_path: JsonFile = None,
) -> None:
    """Bring a public trace into headway's own format, at another speed if asked."""
    from envs.traces import write

    if rate is not None and time_scale is not None:
        raise fail("--rate and --time-scale say the same thing twice: give one of them")
    settings = {"format": format, "time_scale": time_scale, "rate": rate, "start": start, "limit": limit}
    report = Report("data import", seed, {"in": str(source), "out": str(out), "tokenizer": tokenizer, **settings})
    with _refusals(), _counting() as tell:
        trace = _opened(source, format, _reading(start, limit, rate, seed, tokenizer))
        written = write(tell.each(_paced(trace, rate, time_scale)), out, _origin(trace))
    labels = {"trace": str(out), "source": source.name, "format": trace.format.name}
    report.row({**labels, "licence": _origin(trace)["licence"]}, _metrics(written))
    report.write(json_path)
    report.show(Console(), f"written to {escape(str(out))}", ["requests", "seconds", "requests_per_s"])


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME|URL", help="A set that headway data list names, or a URL.")],
    url: Annotated[str | None, typer.Option(metavar="URL", help="Where to get the named set instead.")] = None,
    sha256: Annotated[str | None, typer.Option(metavar="HEX", help="Keep the file only if this is its digest.")] = None,
    data: DataDir = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json_path: JsonFile = None,
) -> None:
    """Download public data into DIR/traces, whole and checked, or not at all."""
    from envs.traces import TraceError, detected
    from envs.traces.catalogue import KNOWN
    from envs.traces.fetching import fetch as download
    from envs.traces.fetching import file_name

    known = KNOWN.get(name)
    address = url or (known.url if known else None) or (name if "://" in name else None)
    if address is None:
        named = ", ".join(one.name for one in KNOWN.values() if one.url)
        raise fail(f"no URL is known for {escape(repr(name))}: give --url URL, or one of: {named}")

    def check(draft: Path) -> None:
        if known and (seen := detected(draft).name) != known.format:
            raise TraceError(f"{address}: what came is in the format {seen}, not {known.format}; it was not kept")

    with _refusals():
        path = _folder(data) / "traces" / (known.file if known else file_name(address if "://" in name else name))
        if path.exists() and not force:
            raise fail(f"{escape(str(path))} is already there; --force fetches it again", code=1)
        with _downloading() as progress:
            got = download(address, path, sha256=sha256, check=check, progress=progress)
    report = Report("data fetch", None, {"name": name, "url": address, "sha256": sha256})
    labels = {"file": str(got.path), "licence": known.licence if known else "unknown", "sha256": got.sha256}
    report.row({**labels, "checked": sha256 is not None}, {"megabytes": got.size / 1e6})
    report.write(json_path)
    report.show(Console(), "fetched")


def _folder(option: Path | None) -> Path:
    chosen = option or (Path(os.environ["HEADWAY_DATA"]) if os.environ.get("HEADWAY_DATA") else None)
    if chosen is None:
        raise fail("no data folder: pass --data DIR or set HEADWAY_DATA")
    return chosen


def _labels(one: Holding, folder: Path) -> dict[str, str]:
    return {"file": str(one.path.relative_to(folder)), "format": one.format, "licence": one.licence}


def _reading(start: int, limit: int | None, rate: float | None, seed: int, tokenizer: Path | None) -> Reading:
    from envs.traces import Reading, TraceError
    from envs.workloads import Poisson

    if rate is not None and not rate > 0:
        raise TraceError(f"--rate must be above 0, not {rate}")
    reading = Reading(start, limit, None if rate is None else Poisson(rate), seed)
    if tokenizer is None:
        return reading
    from dataclasses import replace

    from tokenizers import Tokenizer

    try:
        counting = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # tokenizers raises no narrower one
        raise TraceError(f"{tokenizer}: not a tokenizer.json: {error}") from error
    return replace(reading, count=lambda text: len(counting.encode(text, add_special_tokens=False)))


def _opened(source: Path, format: str, reading: Reading) -> Trace:
    from envs.traces import open_trace

    return open_trace(source, None if format == _AUTO else format, reading)


def _paced(trace: Trace, rate: float | None, time_scale: float | None) -> Iterator[Arrival]:
    from envs.traces import at_rate, stretched

    if time_scale is not None:
        return stretched(trace, time_scale)
    return at_rate(trace, rate) if rate is not None and trace.format.timed else iter(trace)


def _origin(trace: Trace) -> dict[str, str]:
    """Where a trace comes from; what a trace in headway's own format says of that is handed on."""
    from envs.traces.catalogue import BY_FILE
    from envs.traces.stored import note

    known = BY_FILE.get(trace.path.name)
    noted = note(trace.path) if trace.path.is_file() else {}
    licence = known.licence if known else noted.get("licence", "unknown")
    return {"source": noted.get("source", trace.path.name), "licence": licence}


def _metrics(written: Written) -> dict[str, Metric]:
    return {
        "requests": written.requests,
        "seconds": written.seconds,
        "requests_per_s": written.rate,
        "prompt_tokens": written.prompt_tokens / written.requests,
        "output_tokens": written.output_tokens / written.requests,
    }


@contextmanager
def _refusals() -> Iterator[None]:
    """What is wrong with a trace or a setting, as a word on stderr and exit code 1."""
    from envs.traces import TraceError

    try:
        yield
    except (TraceError, ValueError, OSError) as error:
        raise fail(escape(str(error)), code=1) from error


class Tell:
    """A count of rows on a progress bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._task = progress, progress.add_task("rows", total=None)

    def each(self, rows: Iterable[_Row]) -> Iterator[_Row]:
        """The rows as they are, counted as they pass."""
        for number, row in enumerate(rows, 1):
            if number % _TOLD == 0:
                self._progress.update(self._task, advance=_TOLD)
            yield row


@contextmanager
def _counting() -> Iterator[Tell]:
    columns = (TextColumn("{task.completed:,.0f} {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Tell(progress)


@contextmanager
def _downloading() -> Iterator[Callable[[int, int | None], None]]:
    columns = (BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda size, total: progress.update(task, completed=size, total=total)
