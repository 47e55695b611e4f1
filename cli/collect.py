"""``headway collect``: run prompts through live workers, or a gateway, and record what comes back as Parquet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cli.missing import fail
from cli.report import Metric, Report

if TYPE_CHECKING:
    from envs.collection import Journal, Row, Settings, Target
    from envs.prompts import Question


def collect(
    prompts: Annotated[str, typer.Option(help="A file (.txt, .jsonl, .csv, .csv.gz, .parquet) or tasks:SPLIT:COUNT.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    target: Annotated[list[str] | None, typer.Option(help="Server or gateway, without /v1; may be repeated.")] = None,
    config: Annotated[Path | None, typer.Option(help="A gateway's configuration: every worker listed in it.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Model to ask for; may be repeated.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers of each model to each prompt.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the task stream, and of the requests (plus the sample).")] = 0,
    endpoint: Annotated[str, typer.Option(help="chat or completions.")] = "chat",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight at each target.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one answer.")] = 600.0,
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="Sent as a bearer token.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard what an interrupted run left.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report there.")] = None,
) -> None:
    """Run prompts through live workers; record prompt, answer, correctness, lengths and timings, one row an answer.

    The same command again takes up an interrupted run, and asks again what failed. Exit code 1 if every request failed.
    """
    from envs.collection import CollectionError, Journal, Settings, write_parquet
    from envs.prompts import PromptError, read_questions

    if endpoint not in ("chat", "completions"):
        raise fail(f"--endpoint is chat or completions, not {endpoint}")
    headers = ((b"authorization", f"Bearer {api_key}".encode()),) if api_key else ()
    settings = Settings(
        samples, max_tokens, temperature, seed, endpoint == "chat", concurrency, timeout, headers=headers
    )
    journal_path = out.with_name(f"{out.name}.journal")
    try:
        questions = read_questions(prompts, seed)
        targets = _targets(target or [], config, model or [], settings)
        if fresh:
            journal_path.unlink(missing_ok=True)
        journal = Journal(journal_path, {"prompts": prompts, **settings.fingerprint()})
    except (PromptError, CollectionError) as error:
        raise fail(str(error)) from error
    _run(questions, targets, settings, journal)
    described = {"prompts": prompts, "samples": samples, **settings.fingerprint(), "targets": [t.url for t in targets]}
    write_parquet(journal.rows, out, described)
    journal.close(discard=all(row.error is None for row in journal.rows))
    report = _report(journal.rows, seed, described)
    report.write(json_path)
    report.show(Console(), f"{len(journal.rows)} answers in {out}")
    _judge(journal.rows)


def _targets(urls: list[str], config: Path | None, models: list[str], settings: Settings) -> list[Target]:
    from envs.collection import Target, targets_of

    if not urls and config is None:
        raise fail("nothing to ask: give --target URL or --config FILE")
    listed = _configured(config) if config else []
    wanted = [Target(url, name) for url, name in listed if not models or name in models]
    missing = [name for name in models if name not in {t.model for t in wanted}]
    if urls:
        wanted += asyncio.run(targets_of(urls, missing or models, settings.headers))
    elif missing:
        raise fail(f"{config} has no worker of {', '.join(missing)}")
    if not wanted:
        raise fail(f"{config} lists no worker that is running")
    return wanted


def _configured(config: Path) -> list[tuple[str, str]]:
    """URL and model of every worker that a gateway's configuration lists."""
    import os

    from controller.configuration import load
    from controller.errors import ConfigurationError

    try:
        tree = load(config, os.environ)
    except ConfigurationError as error:
        raise fail(str(error)) from error
    return [(worker.url, pool.model) for pool in tree.pools for worker in pool.workers]


def _run(questions: list[Question], targets: list[Target], settings: Settings, journal: Journal) -> None:
    from envs.collection import collect as run

    models = {target.model for target in targets}
    wanted = len(questions) * len(models) * settings.samples
    with asking() as progress:
        bar = progress.add_task("asking", total=wanted, completed=len(journal.finished), failed=0)
        try:
            asyncio.run(run(questions, targets, settings, journal, counting(progress, bar)))
        except KeyboardInterrupt as error:
            journal.close(discard=False)
            raise fail(f"interrupted; {journal.path} has what came so far: run this again to go on", 130) from error


def asking() -> Progress:
    """Bars on stderr, one a task; each task has the field ``failed``."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("failed {task.fields[failed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def counting(progress: Progress, bar: TaskID) -> Callable[[Row], None]:
    """What moves a bar of :func:`asking` on by a row."""
    failed = 0

    def done(row: Row) -> None:
        nonlocal failed
        failed += row.error is not None
        progress.update(bar, advance=1, failed=failed)

    return done


def _report(rows: list[Row], seed: int, settings: dict[str, object]) -> Report:
    report = Report("collect", seed, settings)
    for model in dict.fromkeys(row.model for row in rows):
        report.row({"model": model}, _summary([row for row in rows if row.model == model]))
    return report


def _summary(rows: list[Row]) -> dict[str, Metric]:
    """Counts, share of right answers (Wilson), and quantiles over what was answered (seconds, tokens)."""
    import numpy as np

    from predictors.intervals import wilson

    def quantile(values: list[float], q: float) -> float | None:
        return float(np.quantile(values, q)) if values else None

    whole = [row for row in rows if row.error is None]
    checked = [row.correct for row in whole if row.correct is not None]
    lengths = [float(row.output_tokens) for row in whole if row.output_tokens is not None]
    first = [row.ttft_s for row in whole if row.ttft_s is not None]
    return {
        "requests": len(rows),
        "failed": len(rows) - len(whole),
        "checked": len(checked),
        "accuracy": wilson(sum(checked), len(checked)) if checked else None,
        "cut": sum(row.finish_reason == "length" for row in whole),
        "output_tokens_p50": quantile(lengths, 0.5),
        "output_tokens_p95": quantile(lengths, 0.95),
        "ttft_p50": quantile(first, 0.5),
        "e2e_p50": quantile([row.e2e_s for row in whole], 0.5),
        "e2e_p99": quantile([row.e2e_s for row in whole], 0.99),
    }


def _judge(rows: list[Row]) -> None:
    errors = [row.error for row in rows if row.error is not None]
    if errors and len(errors) == len(rows):
        raise fail(f"all {len(rows)} requests failed; the first: {errors[0]}", 1)
    if errors:
        message = (
            f"{len(errors)} of {len(rows)} requests failed (run this again to ask them again); the first: {errors[0]}"
        )
        Console(stderr=True).print(message, highlight=False)
