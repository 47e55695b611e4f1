"""``headway train length`` and ``headway eval length``: the output-length ranker and its baselines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.length_sources import Inputs, Source, kept_out, listed, usable
from cli.missing import fail
from cli.report import Label, Metric, Report

if TYPE_CHECKING:
    from predictors.artifact import Manifest
    from predictors.length.baselines import LengthRanker
    from predictors.length.data import LengthData
    from predictors.length.evaluation import Judged, Table
    from predictors.length.model import FastLength

DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of public data; or HEADWAY_DATA.")]
RowsFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Parquet that headway collect wrote.")]
Sources = Annotated[list[Source] | None, typer.Option(help="May be repeated; all there are, if left out.")]
Tasks = Annotated[int, typer.Option(min=50, help="How many generated tasks the source tasks has.")]
Folds = Annotated[int, typer.Option(min=2, help="By prompt: the same content never straddles two folds.")]
Seed = Annotated[int, typer.Option(min=0, help="Of folds, training, the task stream and the bootstrap.")]
Resamples = Annotated[int, typer.Option(min=100, help="Bootstrap resamples behind each interval.")]
Least = Annotated[int, typer.Option(min=2, help="Judge models with at least so many prompts.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there.")]

_TIMED: Final = 200
"""Prompts that are scored one by one to time a predictor."""


def train(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Models folder; HEADWAY_HOME's if left out.")] = None,
    data: DataDir = None,
    rows: RowsFile = None,
    source: Sources = None,
    name: Annotated[str, typer.Option(help="Name of the artifact: length/NAME.")] = "fast",
    tasks: Tasks = 1500,
    held_out: Annotated[float, typer.Option(min=0.0, max=0.5, help="Share of prompts kept out to judge it.")] = 0.15,
    folds: Folds = 5,
    seed: Seed = 0,
    resamples: Resamples = 1000,
    least: Least = 200,
    json_path: JsonFile = None,
) -> None:
    """Fit the length ranker, judge it by cross-validation and on prompts kept out, and write it as an artifact."""
    from predictors.artifact import ArtifactError
    from predictors.length.evaluation import judge, out_of_fold
    from predictors.length.train import FastRanker, FastSettings

    inputs = Inputs(data, rows, tasks, seed, source)
    parts = inputs.read()
    report = Report("train length", seed, {**inputs.settings(), "held_out": held_out, "folds": folds, "least": least})
    table = _without_held_out(parts, held_out, least)
    with usable(), _steps(2) as step:
        step(f"{folds}-fold cross-validation")
        scores = out_of_fold(lambda: FastRanker(FastSettings(seed=seed)), table, folds, seed)
        step("fitting")
        ranker = FastRanker(FastSettings(seed=seed)).fit(table.data, table.embeddings)
    for label, mask in _masks(table.data).items():
        judged = judge(scores[mask], table.take(label, mask), seed, resamples)
        _row(report, "fast", label, judged, split="in_domain", setting="default")
    kept = listed(parts, held_out, seed)
    _judge_as_is(report, ranker.model_, kept_out(parts, kept), seed, resamples)
    models = out or _home_models()
    try:
        manifest = _write(models, name, ranker, table.data, report, kept)
    except (ArtifactError, OSError) as error:
        raise fail(str(error), code=1) from error
    report.extra("artifact", {"ref": manifest.ref, "path": str(models / manifest.ref)})
    report.write(json_path)
    report.show(Console(), f"{manifest.ref}, written to {models}", ["tau_b"])


def evaluate(
    data: DataDir = None,
    rows: RowsFile = None,
    source: Sources = None,
    artifact: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The artifact judged as shipped; length/fast if left out.")
    ] = None,
    tasks: Tasks = 1500,
    folds: Folds = 5,
    seed: Seed = 0,
    resamples: Resamples = 1000,
    least: Least = 300,
    json_path: JsonFile = None,
) -> None:
    """Kendall's tau-b of length rankers on prompts they never saw: median over models, by source."""
    from predictors.length.baselines import RANKERS, mean_rank_of_others
    from predictors.length.evaluation import judge, out_of_fold

    inputs = Inputs(data, rows, tasks, seed, source)
    parts = inputs.read()
    shipped = _shipped(artifact)
    report = Report("eval length", seed, {**inputs.settings(), "folds": folds, "resamples": resamples, "least": least})
    tables = _tables(parts, least)
    with usable(), _steps(len(tables) * (len(RANKERS) + 1)) as step:
        for table, labels in tables:
            for predictor, make in RANKERS.items():
                step(f"{table.source}: {predictor}")
                judged = judge(out_of_fold(make, table, folds, seed), table, seed, resamples)
                setting = {"setting": "default"} if predictor == "fast" else {}
                cost = _microseconds(make, table) if "all" in labels else None
                for label in labels:
                    _row(report, predictor, label, judged, cost, split="in_domain", **setting)
            step(f"{table.source}: oracle")
            oracle = judge(mean_rank_of_others(table.data.tokens), table, seed, resamples)
            for label in labels:
                _row(report, "oracle", label, oracle, split="in_domain")
    if shipped is not None:
        model, manifest = shipped
        report.extra("artifact", {"ref": manifest.ref})
        _judge_as_is(report, model, kept_out(parts, manifest.held_out), seed, resamples)
    report.write(json_path)
    report.show(Console(), "Kendall's tau-b with each model's output tokens (median over models)", ["tau_b"])


def _tables(parts: Mapping[Source, LengthData], least: int) -> list[tuple[Table, list[str]]]:
    """What is judged, each with the labels of its rows: every source, and all of them (the same, if there is one)."""
    from predictors.length.data import merge

    tables = [(_embedded(source, part, least), [str(source)]) for source, part in parts.items()]
    if len(tables) == 1:
        return [(table, [*labels, "all"]) for table, labels in tables]
    return [*tables, (_embedded("all", merge(list(parts.values())), least), ["all"])]


def _without_held_out(parts: Mapping[Source, LengthData], share: float, least: int) -> Table:
    from predictors.length.data import merge
    from predictors.length.evaluation import held_out_mask

    whole = merge(list(parts.values()))
    away = held_out_mask(whole, share, [source for source in parts if source is not Source.TASKS])
    return _embedded("all", whole.take(~away), least)


def _embedded(source: str, data: LengthData, least: int) -> Table:
    from predictors.embedding import Embedder
    from predictors.length.evaluation import Table, judged_columns

    embeddings = Embedder().embed([prompt.text for prompt in data.prompts])
    return Table(source, data, embeddings, judged_columns(data, least))


def _masks(data: LengthData) -> dict[str, Any]:
    """Rows by source, and all of them."""
    import numpy as np

    sources = np.asarray(data.sources)
    return {**{str(s): sources == s for s in dict.fromkeys(data.sources)}, "all": np.ones(len(data), dtype=np.bool_)}


def _judge_as_is(report: Report, model: FastLength, kept: Mapping[str, LengthData], seed: int, resamples: int) -> None:
    """A row for each source: the artifact itself on prompts it was not trained on."""
    from predictors.length.evaluation import judge

    for label, part in kept.items():
        table = _embedded(label, part, least=2)
        ranks = model.predict(part.prompts, table.embeddings).rank
        _row(report, "shipped", label, judge(ranks, table, seed, resamples), split="held_out", setting="shipped")


def _row(
    report: Report, predictor: str, source: str, judged: Judged | None, cost: float | None = None, **labels: Label
) -> None:
    metrics: dict[str, Metric] = {"tau_b": None, "models": None, "prompts": None, "latency_us_p50": cost}
    if judged is not None:
        metrics |= {"tau_b": judged.tau_b, "models": judged.models, "prompts": judged.prompts}
    report.row({"predictor": predictor, "source": source, **labels}, metrics)


def _write(
    models: Path, name: str, ranker: Any, data: LengthData, report: Report, held_out: Mapping[str, Any]
) -> Manifest:
    from predictors.length.card import Facts, write_ranker
    from predictors.types import Interval

    measured = {_metric(labels): values["tau_b"] for labels, values in report.results}
    metrics = {key: value if isinstance(value, Interval) else None for key, value in measured.items()}
    facts = Facts(
        name=name,
        version=_next_version(models, name),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data=data.provenance,
        metrics=metrics,
        held_out=held_out,
        settings={"seed": report.seed, **report.settings},
    )
    return write_ranker(models, ranker, facts)


def _metric(labels: Mapping[str, Label]) -> str:
    """``tau_b`` of all sources, ``tau_b_arena``, ``held_out_tau_b_arena`` …"""
    prefix = "held_out_tau_b" if labels["split"] == "held_out" else "tau_b"
    return prefix if labels["source"] == "all" else f"{prefix}_{labels['source']}"


def _next_version(models: Path, name: str) -> int:
    """Above what is in this folder, and above what ships, which would hide it."""
    from controller.store import shipped_models
    from predictors.artifact import next_version
    from predictors.length.model import KIND

    shipped = shipped_models()
    return max(next_version(folder, KIND, name) for folder in (models, shipped) if folder is not None)


def _home_models() -> Path:
    from controller.store import home_in

    return home_in(os.environ) / "models"


def _shipped(artifact: Path | None) -> tuple[FastLength, Manifest] | None:
    """The artifact asked for, else the active ``length/fast``; ``None`` where none ships."""
    from controller.errors import StoreError, UnknownArtifact
    from controller.store import ArtifactStore, home_in, shipped_models
    from predictors.artifact import ArtifactError, load_manifest
    from predictors.length.model import FastLength

    try:
        path = artifact or ArtifactStore(shipped_models(), home_in(os.environ)).resolve("length/fast")
        return FastLength.load(path), load_manifest(path)
    except UnknownArtifact:
        return None
    except (ArtifactError, StoreError) as error:
        raise fail(str(error), code=1) from error


def _microseconds(make: Callable[[], LengthRanker], table: Table) -> float:
    """Median time to embed and score one prompt."""
    import numpy as np

    from predictors.embedding import Embedder

    ranker, embedder = make().fit(table.data, table.embeddings), Embedder()
    times = []
    for prompt in table.data.prompts[:_TIMED]:
        begun = time.perf_counter_ns()
        ranker.rank([prompt], embedder.embed([prompt.text]))
        times.append(time.perf_counter_ns() - begun)
    return float(np.median(times)) / 1000


@contextmanager
def _steps(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr; the function names the step that begins."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        begun = False

        def step(name: str) -> None:
            nonlocal begun
            progress.update(task, description=name, advance=1 if begun else 0)
            begun = True

        yield step
        progress.update(task, advance=1)
