"""The loop collect → train → serve, on answers of the ladder's own: does a deployment's traffic teach it its lengths?

    python -m benchmarks.length_loop collect --out DIR [--model large] [--target URL]
    python -m benchmarks.length_loop train --out DIR
    python -m benchmarks.length_loop judge --out DIR [--json FILE]
    python -m benchmarks.length_loop burst --out DIR [--json FILE] [--plot FILE] [--target URL]

``collect`` asks a real vLLM server for answers at temperature 0.7 (``headway collect``): one each to prompts of the
task suite's train split, which are learned from, and several each to prompts of its validation and test splits, which
share no problem with them and judge. The test split also has wordings of its own; with ``--practice`` a share of what
is learned from is worded in further ways too, as traffic is. ``train`` fits ``length/fast`` to the first (``headway
train length --rows``) and writes an artifact. ``judge`` compares it with rankers that know less, as a share of the
noise ceiling: how well a prompt's other samples order a sample. ``burst`` serves the artifact in a gateway before the
same model, whose answers are its own (``benchmarks.live_burst``); ``oracle`` there is the mean length of the samples.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from envs.tasks import generate, task_at

if TYPE_CHECKING:
    from predictors.length.evaluation import Table
    from predictors.length.model import FastLength

_NAME: Final = "ladder"
_LEARNED: Final = "train"
_JUDGING: Final = ("validation", "test")
_BASELINES: Final = ("lexical", "wordllama", "ridge", "lambdarank")
_PRACTICE: Final = 0.7
"""Share of phrasings, and of instructions, that are not the suite's own, in prompts of more wordings."""
_SEATS: Final = 16
_MOST_TOKENS: Final = 1024
_LEAST: Final = 100
"""Prompts behind a row."""

Out = Annotated[Path, typer.Option(help="Folder of rows, artifact and reports.")]
Model = Annotated[str, typer.Option(help="Of the ladder: small, medium or large.")]
TargetUrl = Annotated[str | None, typer.Option("--target", help="A server that runs already; else one is started.")]
Temperature = Annotated[float, typer.Option(help="Of all answers.")]
Seed = Annotated[int, typer.Option(help="Of prompts, requests, training and the bootstrap.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the report there.")]
app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def collect(
    out: Out,
    model: Model = "large",
    learned: Annotated[int, typer.Option(help="Prompts to learn from, one answer each.")] = 5000,
    judging: Annotated[int, typer.Option(help="Prompts of each split that judges.")] = 500,
    samples: Annotated[int, typer.Option(help="Answers to each of those.")] = 8,
    practice: Annotated[float, typer.Option(min=0, max=1, help="Share of those learned from in more wordings.")] = 0.0,
    temperature: Temperature = 0.7,
    target: TargetUrl = None,
    seed: Seed = 1,
) -> None:
    """Ask the model. The same command again goes on where it was interrupted, and leaves what is there."""
    from cli.collect import collect as ask

    sources = {split: f"tasks:{split}:{judging}" for split in _JUDGING}
    sources[_LEARNED] = f"tasks:{_LEARNED}:{learned}"
    if practice:
        sources[_LEARNED] = str(out / "train.jsonl")
        write_prompts(out / "train.jsonl", learned, practice, seed)
    with _server(model, target) as url:
        for split, source in sources.items():
            path = rows_of(out, split)
            if path.exists():
                continue
            ask(
                prompts=source,
                out=path,
                target=[url],
                samples=1 if split == _LEARNED else samples,
                max_tokens=_MOST_TOKENS,
                temperature=temperature,
                seed=seed,
                concurrency=_SEATS,
                json_path=path.with_suffix(".json"),
            )


@app.command()
def train(
    out: Out,
    folds: Annotated[int, typer.Option(help="Of the cross-validation beside it.")] = 5,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples behind each interval.")] = 300,
    seed: Seed = 0,
) -> None:
    """Fit ``length/fast`` to the collected rows; none is held out, since other splits judge."""
    from cli.length import train as fit
    from cli.length_sources import Source

    fit(
        out=out / "home" / "models",
        rows=rows_of(out, _LEARNED),
        source=[Source.ROWS],
        name=_NAME,
        held_out=0.0,
        folds=folds,
        resamples=resamples,
        seed=seed,
        json_path=out / "train-report.json",
    )


@app.command()
def judge(
    out: Out,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples behind each interval.")] = 1000,
    seed: Seed = 0,
    json_path: JsonFile = None,
) -> None:
    """Order on prompts that nothing was fitted to, beside baselines fitted to the same rows, and the noise ceiling."""
    from rich.console import Console

    from cli.length_judging import Judging, embedded, steps
    from cli.report import Report
    from predictors.length.baselines import RANKERS
    from predictors.length.data import read_collected

    learned = embedded("rows", read_collected(rows_of(out, _LEARNED)), _LEAST)
    report = Report(
        "benchmarks length_loop", seed, {"out": str(out), "prompts": len(learned.data), "resamples": resamples}
    )
    kinds = {
        (split, kind): table
        for split in _JUDGING
        for kind, table in _kinds(embedded("rows", read_collected(rows_of(out, split)), _LEAST), out, split).items()
    }
    known = set(learned.data.groups)
    if shared := sum(group in known for table in kinds.values() for group in table.data.groups):
        raise typer.BadParameter(f"{shared} prompts that judge were learned from: collect them anew")
    artifacts = {"fast": _artifact(f"length/{_NAME}", out / "home"), "shipped": _artifact("length/fast", None)}
    with steps(len(kinds) * (len(_BASELINES) + len(artifacts) + 1)) as step:
        judging = Judging(report, folds=5, seed=seed, resamples=resamples, least=_LEAST, step=step)
        fitted = {name: RANKERS[name]().fit(learned.data, learned.embeddings) for name in _BASELINES}
        for (split, kind), table in kinds.items():
            where = {"judged_by": split, "wording": kind}
            for name, ranker in fitted.items():
                scores = ranker.rank(table.data.prompts, table.embeddings)
                judging.scored(name, table, scores, "transfer", **where)
            for name, model in artifacts.items():
                scores = model.predict(table.data.prompts, table.embeddings).rank
                judging.scored(name, table, scores, "transfer", **where)
            judging.ceilings(table, [table.source], "transfer", **where)
    report.write(json_path)
    shown = ("tau_b", "tau_b_sample", "share_of_ceiling", "mae", "coverage_90")
    report.show(Console(width=200), "On answers of the model's own", shown)


@app.command()
def burst(
    out: Out,
    model: Model = "large",
    requests: Annotated[int, typer.Option(help="At once.")] = 400,
    repetitions: Annotated[int, typer.Option(help="Bursts of each policy.")] = 3,
    temperature: Temperature = 0.7,
    minutes: Annotated[float, typer.Option(help="No run is begun after so long.")] = 30.0,
    target: TargetUrl = None,
    seed: Seed = 0,
    json_path: JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the ratios here.")] = None,
) -> None:
    """Bursts of test prompts on the model itself: in order of arrival, by both artifacts, and by the samples' mean."""
    from benchmarks import live_burst
    from benchmarks.live_burst_drive import FCFS, ORACLE

    load, told = out / "burst-load.gz", out / "burst-told.jsonl"
    live_burst.own_load(rows_of(out, _JUDGING[-1]), load, requests, repetitions, seed)
    told.unlink(missing_ok=True)
    with _server(model, target, "--no-enable-prefix-caching") as url:
        live_burst.run(
            url,
            model,
            load,
            told,
            policy=[FCFS, ORACLE, "fast", "shipped"],
            max_inflight=_SEATS,
            minutes=minutes,
            own_answers=True,
            temperature=temperature,
            serve=[f"fast=length/{_NAME}", "shipped=length/fast"],
            home=out / "home",
        )
    live_burst.report(told, load, json_path, plot)


def write_prompts(path: Path, count: int, practice: float, seed: int) -> None:
    """Different prompts of the train split, as JSON lines; a share of them in more wordings than the suite has."""
    usual = generate(seed, count - round(count * practice))
    prompts = dict.fromkeys(task.prompt for task in usual)
    places = itertools.count()
    while len(prompts) < count:
        prompts.setdefault(task_at(seed, next(places), practice=_PRACTICE).prompt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))


def rows_of(out: Path, split: str) -> Path:
    """Where a split's answers are."""
    return out / f"{split}.parquet"


@contextmanager
def _server(model: str, target: str | None, *extra: str) -> Iterator[str]:
    """The URL of a server of this model: the one given, or one that runs as long as the context lasts."""
    from envs.ladder.serving import Seating, checkpoints, serving

    if target is not None:
        yield target
        return
    with (
        TemporaryDirectory(prefix="headway-loop-") as logs,
        serving(checkpoints([model]), Path(logs), Seating(_SEATS, extra=extra)) as (served,),
    ):
        yield served.url


def _kinds(table: Table, out: Path, split: str) -> Mapping[str, Table]:
    """All prompts; and of a split that has wordings of its own, those with them and those without."""
    from envs.collection import read_parquet
    from envs.ladder.judging import kept_for_test

    wordings = {row.prompt: str(row.wording) for row in read_parquet(rows_of(out, split))[0]}
    new = np.array([kept_for_test(wordings[prompt.text]) for prompt in table.data.prompts], dtype=np.bool_)
    if not new.any():
        return {"all": table}
    return {"all": table, "usual": table.take(table.source, ~new), "test": table.take(table.source, new)}


def _artifact(ref: str, home: Path | None) -> FastLength:
    from controller.store import ArtifactStore, shipped_models
    from predictors.length.model import FastLength

    return FastLength.load(ArtifactStore(shipped_models(), home).resolve(ref))


if __name__ == "__main__":
    app()
