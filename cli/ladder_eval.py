"""``headway eval ladder``: how good, how wordy and how fast each model is, behind real vLLM servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cli.ladder_asking import Gathered, Plan, gather, read
from cli.ladder_tables import show
from cli.missing import fail
from cli.report import Report

if TYPE_CHECKING:
    from envs.ladder.judging import Figure


def evaluate(
    out: Annotated[Path, typer.Option(help="The routing table to write; FILE.samples.parquet is beside it.")] = Path(
        "ladder.parquet"
    ),
    table: Annotated[
        list[Path] | None, typer.Option(help="Judge what was written before, without servers; may be repeated.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A running server instead of own ones, without /v1; may be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model to judge, smallest first; may be repeated; all if left out.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--models", metavar="DIR", help="Has small/, medium/, large/; the shipped ones.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=10, help="Prompts of the test split, asked at temperature 0.")] = 3000,
    sampled: Annotated[int, typer.Option(min=0, help="How many of them are asked twice more at a temperature.")] = 600,
    temperature: Annotated[float, typer.Option(min=0.01, help="That temperature.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 1536,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight, but for step times.")] = 16,
    repeats: Annotated[int, typer.Option(min=0, help="Rounds of step times; 6 or more for a 95 % interval.")] = 9,
    step_tokens: Annotated[int, typer.Option(min=8, help="Output tokens of each timed request.")] = 128,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each server; more take turns with it.")] = 1,
    stream_interval: Annotated[
        int, typer.Option(min=1, help="Tokens that each server sends at a time; more leaves the CPU to the model.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the task stream, the requests and the bootstrap.")] = 20_000,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples behind each interval.")] = 1000,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one answer.")] = 600.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard what an interrupted run left.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there.")] = None,
) -> None:
    """Accuracy by family and level, answer lengths, step times, and the routing table of the test split.

    Starts a vLLM server for each model and asks one at a time. The same command again takes up an interrupted run. Exit
    code 1 if a server fails, or every request of a model.
    """
    from envs.ladder.judging import JudgingError

    if table:
        gathered = read(table)
    else:
        plan = Plan(
            out=out,
            targets=target or [],
            models=model or [],
            folder=folder,
            prompts=prompts,
            sampled=min(sampled, prompts),
            temperature=temperature,
            max_tokens=max_tokens,
            concurrency=concurrency,
            repeats=repeats,
            step_tokens=step_tokens,
            threads=threads,
            stream_interval=stream_interval,
            seed=seed,
            timeout_s=timeout,
            fresh=fresh,
        )
        gathered = gather(plan)
    report = Report("eval ladder", seed, {**gathered.settings, "resamples": resamples})
    try:
        with Console(stderr=True).status("judging"):
            for figure in _figures(gathered, model, seed, resamples):
                report.row(figure.labels, figure.metrics)
    except JudgingError as error:
        raise fail(escape(str(error))) from error
    report.write(json_path)
    show(report, Console())
    _warn(gathered)


def _figures(gathered: Gathered, wanted: Sequence[str] | None, seed: int, resamples: int) -> Iterator[Figure]:
    from envs.ladder import judging
    from envs.ladder.shapes import NAMES

    found = judging.models_in(gathered.rows, wanted or NAMES)
    unknown = [name for name in wanted or () if name not in found]
    if unknown:
        raise judging.JudgingError(f"no answers of {', '.join(unknown)}; there are answers of {', '.join(found)}")
    models = [name for name in found if not wanted or name in wanted]
    how = judging.Bootstrap(seed, resamples)
    answers = judging.tabulate(gathered.rows, models)
    yield from judging.overall(answers, how)
    yield from judging.step_up(answers, how)
    yield judging.oracle(answers, how)
    yield from judging.slices(answers, how)
    yield from judging.cells(answers)
    yield from judging.separation(answers)
    if gathered.samples:
        yield from judging.length_ceiling(gathered.samples, models, how)
    yield from judging.step_times(gathered.rounds, models)


def _warn(gathered: Gathered) -> None:
    """Failed requests are counted as wrong, but nobody should overlook them; a model without any answer is an error."""
    from envs.ladder.judging import models_in

    rows = (*gathered.rows, *gathered.samples)
    errors = [row.error for row in rows if row.error is not None]
    for model in models_in(rows):
        if all(row.error is not None for row in rows if row.model == model):
            raise fail(f"all requests of {model} failed; the first: {escape(str(errors[0]))}", 1)
    if errors:
        said = f"{len(errors)} of {len(rows)} requests failed and count as wrong (run this again to ask them again)"
        Console(stderr=True).print(f"{said}; the first: {escape(str(errors[0]))}", highlight=False)
