"""``headway train router`` and ``headway eval routing``: the quality predictor behind the model router."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.missing import fail, needs
from cli.report import Label, Report
from cli.routing_artifact import compose, shipped_study
from cli.routing_sources import Inputs, Source, kept_out

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from predictors.quality.evaluation import Metrics, QualityEstimator, Study
    from predictors.quality.tuning import TunedKnn

_SHOWN: Final = ("aiq", "accuracy", "gap_closed", "brier")

DataDir = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Folder of public data; or HEADWAY_DATA.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the task suite's prompts and of the bootstrap.")]
Prompts = Annotated[int, typer.Option(min=200, help="Training prompts drawn from the task suite (source tasks).")]
Resamples = Annotated[int, typer.Option(min=10, help="Bootstrap resamples behind each interval.")]
Rows = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="Collected answers (source rows); may be repeated.")
]
Prices = Annotated[
    Path | None, typer.Option(metavar="FILE", help="JSON: model to input_usd_per_mtok and output_usd_per_mtok.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there.")]


def train(
    source: Annotated[Source, typer.Option(help="Whose answers to learn from.")] = Source.LLMROUTER,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Models folder; HEADWAY_HOME's if left out.")] = None,
    data: DataDir = None,
    name: Annotated[str | None, typer.Option(help="Name of the artifact; the source's own if left out.")] = None,
    rows: Rows = None,
    prices: Prices = None,
    licence: Annotated[str, typer.Option(help="Of the collected answers, for the card (source rows).")] = "not stated",
    prompts: Prompts = 6000,
    seed: Seed = 0,
    resamples: Resamples = 1000,
    json_path: JsonFile = None,
) -> None:
    """Fit the quality predictor, judge it on prompts kept out, and write it as a new version of quality/NAME."""
    with needs("train"):
        from predictors.quality.train import PriorQuality, export
    from predictors.artifact import ArtifactError
    from predictors.quality.evaluation import Judgement, judge

    inputs, models = Inputs(data, prompts, seed, rows or [], prices, licence), out or _home_models()
    report = Report("train router", seed, {**inputs.settings([source]), "resamples": resamples})
    with Console(stderr=True).status("reading, embedding, choosing settings and fitting"):
        table = inputs.read(source)
        study = kept_out(source, table, inputs)
        knn = _default(source, study).fit(study.training).knn_
        predicted = {"default": knn.predict(study.judged.embeddings), "zero_policy": study.predict(PriorQuality)}
        judged = judge(predicted, study.references(), study.judged, Judgement(seed, resamples))
    _rows(report, study, judged)
    try:
        draft = compose(source, table, study, judged, (models, name, inputs.licence_of(source)))
        manifest = export(
            models,
            knn,
            draft.facts,
            (table.models, table.prices),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            held_out=draft.held_out,
            settings={"seed": seed, **report.settings},
        )
    except (ArtifactError, OSError) as error:
        raise fail(escape(str(error)), 1) from error
    report.extra("artifact", {"ref": manifest.ref, "path": str(models / manifest.ref)})
    report.write(json_path)
    _show(report)
    Console().print(f"{manifest.ref} written to {models}", highlight=False, markup=False, soft_wrap=True)


def evaluate(
    data: DataDir = None,
    source: Annotated[
        list[Source] | None, typer.Option(help="May be repeated; the two public tables, if left out.")
    ] = None,
    router: Annotated[
        list[str] | None, typer.Option(help="Learned routers, may be repeated; all, if left out.")
    ] = None,
    rows: Rows = None,
    prices: Prices = None,
    prompts: Prompts = 6000,
    seed: Seed = 0,
    resamples: Resamples = 1000,
    json_path: JsonFile = None,
) -> None:
    """Judge routers on held-out prompts: AIQ over all budgets; accuracy and cost where money does not count."""
    from predictors.quality.evaluation import Judgement, judge

    learned, chosen = _estimators(router), source or [Source.LLMROUTER, Source.ROUTELLM]
    inputs, how = Inputs(data, prompts, seed, rows or [], prices), Judgement(seed, resamples)
    report = Report("eval routing", seed, {**inputs.settings(chosen), "resamples": resamples})
    for one in chosen:
        for study in inputs.studies(one):
            predicted = _predict(study, learned, one)
            _rows(report, study, judge(predicted, study.references(), study.judged, how))
        found = shipped_study(one, inputs)
        if found is not None:
            shipped, quality = found
            judged = judge({"shipped": quality}, shipped.references(), shipped.judged, how)
            _rows(report, shipped, {"shipped": judged["shipped"]})
    report.write(json_path)
    _show(report)


def _estimators(asked: Sequence[str] | None) -> Mapping[str, Callable[[], QualityEstimator]]:
    with needs("train"):
        from predictors.quality.train import ESTIMATORS

    unknown = sorted(set(asked or ()) - set(ESTIMATORS))
    if unknown:
        raise fail(f"no learned router is called {', '.join(unknown)}; there are {', '.join(ESTIMATORS)}")
    return {name: ESTIMATORS[name] for name in asked or ESTIMATORS}


def _default(source: Source, study: Study) -> TunedKnn:
    """The estimator that ships for this source; where every task is one of the suite, no guard against new ones."""
    from envs.tasks import FAMILY_NAMES
    from predictors.quality.train import default_estimator, known_tasks_estimator

    known = source is Source.TASKS or (source is Source.ROWS and set(study.data.tasks.tolist()) <= set(FAMILY_NAMES))
    return known_tasks_estimator() if known else default_estimator()


def _predict(
    study: Study, learned: Mapping[str, Callable[[], QualityEstimator]], source: Source
) -> dict[str, NDArray[np.float32]]:
    """Out-of-fold predictions of every router, with a progress bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    predicted = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(learned))
        for name, make in learned.items():
            progress.update(task, description=f"{study.table}, {study.split}: {name}")
            predicted[name] = study.predict((lambda: _default(source, study)) if name == "default" else make)
            progress.advance(task)
    return predicted


def _rows(report: Report, study: Study, judged: Mapping[str, Metrics]) -> None:
    for router, metrics in judged.items():
        labels: dict[str, Label] = {"table": study.table, "split": study.split.value, "router": router}
        if router in ("default", "shipped"):
            labels["setting"] = router
        report.row(labels, dict(metrics))


def _show(report: Report) -> None:
    """A table for each table of labels and split."""
    parts: dict[tuple[Label, Label], Report] = {}
    for labels, metrics in report.results:
        part = parts.setdefault((labels["table"], labels["split"]), Report(report.command, report.seed, {}))
        part.row({"router": labels["router"]}, metrics)
    for (table, split), part in parts.items():
        part.show(Console(), f"{table}, {split}: held-out prompts, 95 % intervals", _SHOWN)


def _home_models() -> Path:
    from controller.store import home_in

    return home_in(os.environ) / "models"
