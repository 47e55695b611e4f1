"""``headway train ladder``: the small models that answer the task suite, from nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli.missing import fail, needs
from cli.report import Report

if TYPE_CHECKING:
    from envs.ladder.checkpoint import Validation
    from envs.ladder.shapes import Shape
    from envs.ladder.train import Recipe, Trained

_VALIDATION_SEED = 10_000
_MOST_TOKENS = 1024
_LOGGED = 250
"""Steps between two lines where there is no terminal to show a bar on."""


def train(
    model: Annotated[list[str] | None, typer.Option(help="Member to train; may be repeated. All if left out.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Models folder; HEADWAY_HOME's if left out.")] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where runs are kept until they end; HEADWAY_HOME's training.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Batches; each member's own number if left out.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1408, help="Tokens in a batch, padding included.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="At its highest.")] = None,
    noise: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Share of prompts that are reworded.")] = None,
    practice: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of wordings beyond those of the suite.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and of the order of the data.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare batches.")] = 0,
    validation: Annotated[int, typer.Option(min=1, help="Prompts of the validation split that are asked.")] = 2000,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard what an interrupted run left.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a member that is there, under the next version.")
    ] = False,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there.")] = None,
) -> None:
    """Train the ladder's models on the task suite and write them as vLLM serves them. Goes on where it was stopped."""
    with needs("train"):
        from envs.ladder.checkpoint import folder
        from envs.ladder.shapes import NAMES, shape_of
        from envs.ladder.train import RECIPES
    try:
        shapes = [shape_of(name) for name in dict.fromkeys(model or NAMES)]
    except ValueError as error:
        raise fail(str(error)) from error
    models, kept = out or _home() / "models", state or _home() / "training"
    for shape in shapes:
        if folder(models, shape.name).exists() and not force:
            raise fail(f"{folder(models, shape.name)} exists; --force replaces it, --out DIR writes elsewhere")
    changes: dict[str, Any] = {
        "steps": steps,
        "batch_tokens": batch_tokens,
        "learning_rate": learning_rate,
        "noise": noise,
        "practice": practice,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    chosen = _device(device)
    report = Report("train ladder", seed, {**given, "device": chosen, "workers": workers, "validation": validation})
    for shape in shapes:
        recipe = replace(RECIPES[shape.name], seed=seed, **given)
        file = kept / f"ladder-{shape.name}.pt"
        if fresh:
            file.unlink(missing_ok=True)
        trained = _learn(shape, recipe, file, chosen, workers)
        judged = _validated(trained, validation, chosen)
        _written(models, trained, judged, force)
        file.unlink(missing_ok=True)
        metrics = {
            "accuracy": judged.accuracy(),
            "loss": trained.history[-1][1] if trained.history else None,
            "minutes": trained.seconds / 60,
            "tokens": trained.tokens,
        }
        report.row({"model": shape.name, "split": "validation", "device": trained.device}, metrics)
    report.write(json_path)
    report.show(Console(), f"Written to {models / 'ladder'}")


def _home() -> Path:
    from controller.store import home_in

    return home_in(os.environ)


def _device(wanted: str) -> str:
    import torch

    if wanted not in ("auto", "cpu", "cuda"):
        raise fail(f"--device is cpu, cuda or auto, not {wanted!r}")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise fail("--device cuda: this machine, or this build of torch, has no GPU")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def _learn(shape: Shape, recipe: Recipe, state: Path, device: str, workers: int) -> Trained:
    from envs.ladder.train import Progress as Point
    from envs.ladder.train import StateMismatch
    from envs.ladder.train import train as learn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        line = bar.add_task(shape.name, total=recipe.steps)

        def progress(point: Point) -> None:
            speed = point.tokens / point.seconds / 1000
            name = f"{shape.name}: loss {point.loss:.4f}, {speed:,.0f} k tokens/s"
            bar.update(line, completed=point.step, description=name)
            if not console.is_terminal and point.step % _LOGGED == 0:
                console.print(f"{name}, {point.step} of {recipe.steps}", highlight=False)

        try:
            trained = learn(shape, recipe, state, device=device, workers=workers, progress=progress)
        except StateMismatch as error:
            raise fail(f"{error} (--fresh discards it)") from error
        except OSError as error:
            raise fail(f"{state} cannot be kept: {error}", 1) from error
        except KeyboardInterrupt as error:
            raise fail(f"interrupted; {state} has what was learned so far: the same command goes on", 130) from error
    assert trained is not None, "only stop_after ends a run early"
    return trained


def _validated(trained: Trained, count: int, device: str) -> Validation:
    from envs.ladder.checkpoint import Validation
    from envs.ladder.train import right_answers
    from envs.tasks import Split, generate

    tasks = generate(_VALIDATION_SEED, count, Split.VALIDATION)
    with Console(stderr=True).status(f"{trained.network.shape.name}: answering {count} validation prompts …"):
        right = right_answers(trained.network.to(device), tasks, _MOST_TOKENS)
    trained.network.cpu()
    return Validation(tasks, right)


def _written(models: Path, trained: Trained, judged: Validation, force: bool) -> None:
    from envs.ladder.checkpoint import write_member
    from predictors.artifact import ArtifactError

    try:
        write_member(models, trained, judged, datetime.now(UTC).isoformat(timespec="seconds"), overwrite=force)
    except (ArtifactError, OSError) as error:
        raise fail(str(error), code=1) from error
