"""``headway train length`` and ``headway eval length``: the output-length ranker and its baselines."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from cli.length_judging import (
    METRICS,
    Judging,
    Seen,
    Step,
    embedded,
    joined,
    read_features,
    row,
    steps,
    tables_of,
    with_features,
)
from cli.length_sources import Inputs, Source, kept_out, listed, usable
from cli.missing import fail
from cli.report import Label, Report

if TYPE_CHECKING:
    from predictors.artifact import Manifest
    from predictors.length.data import LengthData
    from predictors.length.evaluation import Table
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

FeaturesFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="npz that predictors.length.deep.features writes, for the row deep."),
]
_MAP_FOLDS: Final = 5
"""Of prompts held out, between which each model's own map is fitted."""
Plots = Annotated[Path | None, typer.Option(metavar="DIR", help="Draw the results there, as PNG.")]


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
    from predictors.length.evaluation import judge, mapped, out_of_fold
    from predictors.length.train import FastRanker, FastSettings

    inputs = Inputs(data, rows, tasks, seed, source)
    parts = inputs.read()
    report = Report("train length", seed, {**inputs.settings(), "held_out": held_out, "folds": folds, "least": least})
    table = _without_held_out(parts, held_out, least)
    with usable(), steps(2) as step:
        step(f"{folds}-fold cross-validation")
        scores = out_of_fold(lambda: FastRanker(FastSettings(seed=seed)), table, folds, seed)
        step("fitting")
        ranker = FastRanker(FastSettings(seed=seed)).fit(table.data, table.embeddings)
    for label, mask in _masks(table.data).items():
        part = table.take(label, mask)
        judged = judge(scores[mask], part, seed, resamples, mapped(scores[mask], part, folds, seed))
        row(report, "fast", label, judged, split="in_domain", setting="default")
    kept = listed(parts, held_out, seed)
    report.extra("chosen", ranker.chosen_)
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
    fit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows to fit rankers on, to judge them by --rows alone.")
    ] = None,
    source: Sources = None,
    artifact: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The artifact judged as shipped; length/fast if left out.")
    ] = None,
    tasks: Tasks = 1500,
    folds: Folds = 5,
    seed: Seed = 0,
    resamples: Resamples = 1000,
    least: Least = 300,
    features: FeaturesFile = None,
    plots: Plots = None,
    json_path: JsonFile = None,
) -> None:
    """Length rankers on prompts they never saw: order, lengths and quantiles, median over models, by source.

    Split in_domain is cross-validation by prompt within a source, leave_one_out is trained on all other sources, and
    transfer on the rows of --fit, whose prompts are left out of those that judge. tau_b_short is tau-b among a model's
    shortest 30 % of answers. mae (tokens) and coverage_90, the share of answers no longer than the predicted 0.9
    quantile, are after each model's own map, fitted without the prompts it is judged by. Where rows hold several
    samples of a prompt, tau_b_sample is with a single one's length, and share_of_ceiling is that over noise_ceiling.
    """
    from predictors.length.baselines import RANKERS, feature_rankers

    if fit is not None and (rows is None or set(source or [Source.ROWS]) != {Source.ROWS}):
        raise fail("--fit FILE needs --rows FILE to judge by, and no other source")
    inputs = Inputs(data, rows, tasks, seed, [Source.ROWS] if fit is not None else source)
    parts = inputs.read()
    shipped = _shipped(artifact)
    settings = {"folds": folds, "resamples": resamples, "least": least, "features": str(features) if features else None}
    report = Report("eval length", seed, {**inputs.settings(), **settings, "fit": str(fit) if fit else None})
    seen: list[Seen] = []
    if fit is not None:
        how = partial(Judging, report, folds, seed, resamples, least)
        seen = _transfer(report, how, parts[Source.ROWS], fit, shipped)
        _finish(report, seen, plots, json_path)
        return
    states = read_features(features) if features is not None else {}
    deep = feature_rankers() if features is not None else {}
    tables = tables_of(parts, least)
    alone = [table for table, _ in tables if table.source != "all"]
    count = len(tables) * (len(RANKERS) + len(deep) + 1) + (len(alone) > 1) * len(alone) * (len(RANKERS) + len(deep))
    with usable(), steps(count) as step:
        judging = Judging(report, folds, seed, resamples, least, step)
        for table, labels in tables:
            seen += judging.in_domain(table, labels, RANKERS)
            known = with_features(table, states)
            if known is not None:
                seen += judging.in_domain(known, labels, deep, features=features.name if features else None)
            seen += judging.ceilings(table, labels)
        for table in alone if len(alone) > 1 else []:
            others = joined("others", [other for other in alone if other is not table], least)
            judging.leave_one_out(table, others, RANKERS)
            known, learned = with_features(table, states), with_features(others, states)
            if known is not None and learned is not None:
                judging.leave_one_out(known, learned, deep, features=features.name if features else None)
    if shipped is not None:
        model, manifest = shipped
        report.extra("artifact", {"ref": manifest.ref})
        _judge_as_is(report, model, kept_out(parts, manifest.held_out), seed, resamples)
    _finish(report, seen, plots, json_path)


def _transfer(
    report: Report,
    how: Callable[[Step], Judging],
    data: LengthData,
    fit: Path,
    shipped: tuple[FastLength, Manifest] | None,
) -> list[Seen]:
    """For rankers fitted on another file, the ceilings, and the artifact, if that file is what it was trained on."""
    import numpy as np

    from predictors.length.baselines import RANKERS
    from predictors.length.data import COLLECTED, read_collected

    with usable():
        learned = read_collected(fit)
    known = set(learned.groups)
    unseen = data.take(np.array([group not in known for group in data.groups], dtype=np.bool_))
    report.extra("prompts_also_in_fit", len(data) - len(unseen))
    if not len(unseen):
        raise fail(f"every prompt of the rows to judge is also in {fit}; collect others")
    with usable(), steps(len(RANKERS) + 1) as step:
        judging = how(step)
        table, training = (embedded(Source.ROWS, part, judging.least) for part in (unseen, learned))
        seen = judging.transfer(table, training, RANKERS) + judging.ceilings(table, [table.source], "transfer")
    if shipped is not None:
        model, manifest = shipped
        digests = {source.sha256 for source in manifest.data if source.name == COLLECTED}
        if digests == {source.sha256 for source in learned.provenance}:
            report.extra("artifact", {"ref": manifest.ref})
            _judge_as_is(report, model, {table.source: unseen}, judging.seed, judging.resamples)
    return seen


def _finish(report: Report, seen: list[Seen], plots: Path | None, json_path: Path | None) -> None:
    report.write(json_path)
    if plots is not None:
        from cli.length_plots import draw

        draw(seen, plots)
    noise = ["tau_b_sample", "share_of_ceiling"]
    several = [name for name in noise if any(name in metrics for _, metrics in report.results)]
    report.show(Console(), "Length rankers (median over models)", [*METRICS, *several, "latency_us_p50"])


def _without_held_out(parts: Mapping[Source, LengthData], share: float, least: int) -> Table:
    from predictors.length.data import merge
    from predictors.length.evaluation import held_out_mask

    whole = merge(list(parts.values()))
    away = held_out_mask(whole, share, [source for source in parts if source is not Source.TASKS])
    return embedded("all", whole.take(~away), least)


def _masks(data: LengthData) -> dict[str, Any]:
    """Rows by source, and all of them."""
    import numpy as np

    sources = np.asarray(data.sources)
    return {**{str(s): sources == s for s in dict.fromkeys(data.sources)}, "all": np.ones(len(data), dtype=np.bool_)}


def _judge_as_is(report: Report, model: FastLength, kept: Mapping[str, LengthData], seed: int, resamples: int) -> None:
    """A row for each source: the artifact itself on prompts it was not trained on."""
    from predictors.length.evaluation import against_noise, judge, mapped

    for label, part in kept.items():
        table = embedded(label, part, least=2)
        ranks = model.predict(part.prompts, table.embeddings).rank
        judged = judge(ranks, table, seed, resamples, mapped(ranks, table, _MAP_FOLDS, seed))
        noise = against_noise(ranks, table, seed, resamples, least=2)
        row(report, "shipped", label, judged, noise=noise, split="held_out", setting="shipped")


def _write(
    models: Path, name: str, ranker: Any, data: LengthData, report: Report, held_out: Mapping[str, Any]
) -> Manifest:
    from predictors.length.card import Facts, write_ranker
    from predictors.types import Interval

    measured = {_metric(labels, name): values[name] for labels, values in report.results for name in METRICS}
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


def _metric(labels: Mapping[str, Label], name: str) -> str:
    """``tau_b`` of all sources, ``tau_b_arena``, ``held_out_tau_b_arena`` …"""
    prefix = f"held_out_{name}" if labels["split"] == "held_out" else name
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
