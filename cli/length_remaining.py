"""``headway train remaining`` and ``headway eval remaining``: how many tokens of a running answer are left."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from cli.length_sources import usable
from cli.missing import data_dir, fail
from cli.report import Metric, Report

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from predictors.artifact import Manifest
    from predictors.length.data import LengthData
    from predictors.length.remaining.data import Answers
    from predictors.length.remaining.evaluation import Judged, Sayings
    from predictors.length.remaining.model import RemainingLength
    from predictors.length.remaining.train import Looks, Priors

DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of public data; or HEADWAY_DATA.")]
Folds = Annotated[int, typer.Option(min=2, help="By prompt: the same content never straddles two folds.")]
Seed = Annotated[int, typer.Option(min=0, help="Of folds, training and the bootstrap.")]
Resamples = Annotated[int, typer.Option(min=20, help="Bootstrap resamples, of prompts, behind each interval.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there.")]

_AT: Final = (16, 32, 64, 128, 256, 512)
"""Visible tokens at which it is judged."""
_OTHERS: Final = "other_answers"
_KNOWN: Final = {
    "prompt_and_model": (True, True),
    "prompt": (True, False),
    "text": (False, False),
    _OTHERS: (True, True),
}
"""What is known before the first token: the rank by ``fast``, the model's usual length. ``other_answers`` is no
predictor: the prompt's place is that of the other models' answers to it."""
_NAME: Final = "remaining"


@dataclass(frozen=True)
class _Study:
    """Answers, looks at them, and the length ranker's data with embeddings."""

    answers: Answers
    looks: Looks
    lengths: LengthData
    embeddings: NDArray[Any]
    found: dict[frozenset[str], Priors] = field(default_factory=dict)
    """Priors that were asked for before."""

    def priors(self, groups: set[str]) -> Priors:
        """By a ranker that was fitted on these groups, and on the prompts that have no answer here."""
        from predictors.length.remaining.train import prompt_priors

        here, asked = set(self.answers.groups), frozenset(groups)
        if asked not in self.found:
            known = {group for group in self.lengths.groups if group in groups or group not in here}
            self.found[asked] = prompt_priors(self.answers, self.lengths, self.embeddings, known)
        return self.found[asked]


def train(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Models folder; HEADWAY_HOME's if left out.")] = None,
    data: DataDir = None,
    name: Annotated[str, typer.Option(help="Name of the artifact: length/NAME.")] = _NAME,
    held_out: Annotated[float, typer.Option(min=0.05, max=0.5, help="Share of prompts kept out to judge it.")] = 0.15,
    folds: Folds = 5,
    seed: Seed = 0,
    resamples: Resamples = 200,
    json_path: JsonFile = None,
) -> None:
    """Fit what says how many tokens of a running answer are left, judge it, and write it as an artifact."""
    from predictors.artifact import ArtifactError
    from predictors.length.data import content_hash
    from predictors.length.remaining.evaluation import Knowledge, expected_of, out_of_fold
    from predictors.length.remaining.train import RemainingLearner, RemainingSettings
    from predictors.length.train import grouped_folds

    settings = RemainingSettings(seed=seed)
    report = Report("train remaining", seed, {"held_out": held_out, "folds": folds, "resamples": resamples})
    with usable():
        whole = _study(data, settings.every)
        kept = {
            content_hash(prompt.text)
            for prompt in whole.answers.prompts
            if int(content_hash(prompt.text)[-8:], 16) < held_out * 2**32
        }
        study = _without(whole, kept, settings.every)
        said = out_of_fold(
            study.answers,
            study.looks,
            grouped_folds(study.answers.groups, folds, seed),
            study.priors,
            Knowledge(),
            settings,
        )
        _rows(report, said, study, {"split": "in_domain", "known": "prompt_and_model", "setting": "default"}, resamples)
        known = _mask(study.answers, set(study.answers.groups))
        rank, expected = expected_of(study.priors(set(study.answers.groups)), study.answers, known, Knowledge())
        learner = RemainingLearner(settings).fit(study.answers, rank, expected, study.looks)
    _judge_as_is(report, learner.model_, whole, kept, resamples)
    models = out or _home_models()
    try:
        manifest = _write(models, name, learner, study.answers, report, kept)
    except (ArtifactError, OSError) as error:
        raise fail(str(error), code=1) from error
    report.extra("artifact", {"ref": manifest.ref, "path": str(models / manifest.ref)})
    report.write(json_path)
    report.show(Console(), f"{manifest.ref}, written to {models}", ["tau_b", "mae", "coverage_90"])


def evaluate(
    data: DataDir = None,
    artifact: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The artifact judged as shipped; length/remaining if left out.")
    ] = None,
    folds: Folds = 5,
    seed: Seed = 0,
    resamples: Resamples = 200,
    json_path: JsonFile = None,
) -> None:
    """Tau-b, error and calibration of what is said to be left of running answers, beside what knows less."""
    from predictors.length.remaining.evaluation import Knowledge, out_of_fold, priors_of_others
    from predictors.length.remaining.train import RemainingSettings
    from predictors.length.train import grouped_folds

    settings = RemainingSettings(seed=seed)
    report = Report("eval remaining", seed, {"folds": folds, "resamples": resamples, "every": settings.every})
    shipped = _shipped(artifact)
    with usable():
        study = _study(data, settings.every)
        parts = grouped_folds(study.answers.groups, folds, seed)
        others = priors_of_others(study.answers)
        for known, (prompt, model) in _KNOWN.items():
            asked = (lambda _: others) if known == _OTHERS else study.priors
            said = out_of_fold(study.answers, study.looks, parts, asked, Knowledge(prompt, model), settings)
            labels = {"split": "in_domain", "known": known, "setting": "default"}
            _rows(report, said, study, labels, resamples)
    if shipped is not None:
        loaded, manifest = shipped
        report.extra("artifact", {"ref": manifest.ref})
        _judge_as_is(report, loaded, study, set(manifest.held_out["arena"]["groups"]), resamples)
        report.row({"predictor": "shipped", "setting": "cost"}, _microseconds(loaded, study.answers))
    report.write(json_path)
    report.show(Console(), "Tokens left of running answers", ["tau_b", "mae", "coverage_90"])


def _study(data: Path | None, every: int) -> _Study:
    from predictors.embedding import Embedder
    from predictors.length.data import read_arena
    from predictors.length.remaining.data import ARENA_ANSWERS, read_answers
    from predictors.length.remaining.train import look_at

    folder = data_dir(data, ARENA_ANSWERS)
    answers, lengths = read_answers(folder), read_arena(folder)
    embeddings = Embedder().embed([prompt.text for prompt in lengths.prompts])
    return _Study(answers, look_at(answers, every), lengths, embeddings)


def _without(study: _Study, kept: set[str], every: int) -> _Study:
    """The study as if the prompts ``kept`` were not there."""
    from predictors.length.remaining.train import look_at

    answers = study.answers.take(~_mask(study.answers, kept))
    stays = _mask(study.lengths, kept)
    return _Study(answers, look_at(answers, every), study.lengths.take(~stays), study.embeddings[~stays])


def _mask(table: Answers | LengthData, groups: set[str]) -> NDArray[Any]:
    import numpy as np

    return np.array([group in groups for group in table.groups], dtype=np.bool_)


def _judge_as_is(report: Report, model: RemainingLength, study: _Study, kept: set[str], resamples: int) -> None:
    """The artifact itself on answers to prompts that nothing was trained on, nor scaled by."""
    from predictors.length.remaining.evaluation import Knowledge, expected_of, sayings
    from predictors.length.remaining.train import look_at

    away = _mask(study.answers, kept)
    if not away.any():
        return
    priors = study.priors(set(study.answers.groups) - kept)
    rank, expected = expected_of(priors, study.answers, ~away, Knowledge())
    part = study.answers.take(away)
    looks = look_at(part, int(report.settings.get("every", 32)))
    said = {"shipped": sayings(model, looks, rank[away], expected[away])["remaining"]}
    held = _Study(part, looks, study.lengths, study.embeddings)
    _rows(report, said, held, {"split": "held_out", "known": "prompt_and_model", "setting": "shipped"}, resamples)


def _rows(
    report: Report, said: Mapping[str, Sayings], study: _Study, labels: Mapping[str, str], resamples: int
) -> None:
    from predictors.length.remaining.evaluation import judge

    for predictor, part in said.items():
        for tokens in _AT:
            judged = judge(part, study.looks, study.answers.groups, tokens, report.seed or 0, resamples)
            if judged is not None:
                report.row({"predictor": predictor, "source": "arena", **labels, "tokens": tokens}, _metrics(judged))


def _metrics(judged: Judged) -> dict[str, Metric]:
    return {
        "tau_b": None if math.isnan(judged.tau_b.value) else judged.tau_b,
        "mae": judged.mae,
        "coverage_90": judged.coverage_90,
        "inside_80": judged.inside_80,
        "answers": judged.answers,
    }


def _microseconds(model: RemainingLength, answers: Answers) -> dict[str, Metric]:
    """Time of an update of streams of 2,000 tokens (answers put together), and of one piece without one."""
    import numpy as np

    updates: list[float] = []
    pieces: list[float] = []
    for start in range(0, 200, 20):
        text = "\n\n".join(answers.texts[start : start + 20])[:8000]
        track = model.begin(0.5, 2000.0, every=40)
        for tokens in range(1, 2001):
            begun = time.perf_counter_ns()
            found = track.feed(text[4 * (tokens - 1) : 4 * tokens], tokens)
            (pieces if found is None else updates).append((time.perf_counter_ns() - begun) / 1000)
    p50, p99 = np.percentile(updates, (50, 99))
    return {"update_us_p50": float(p50), "update_us_p99": float(p99), "piece_us_p50": float(np.median(pieces))}


def _write(models: Path, name: str, learner: Any, answers: Answers, report: Report, kept: set[str]) -> Manifest:
    from predictors.artifact import next_version
    from predictors.length.card import Facts
    from predictors.length.model import KIND
    from predictors.length.remaining.card import write_remaining
    from predictors.types import Interval

    metrics: dict[str, Interval | None] = {}
    for labels, values in report.results:
        if labels["predictor"] not in ("remaining", "shipped"):
            continue
        prefix = "held_out_" if labels["split"] == "held_out" else ""
        for metric in ("tau_b", "mae", "coverage_90"):
            value = values[metric]
            metrics[f"{prefix}{metric}_{labels['tokens']}"] = value if isinstance(value, Interval) else None
    facts = Facts(
        name=name,
        version=next_version(models, KIND, name),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data=[answers.provenance],
        metrics=metrics,
        held_out={"arena": {"groups": sorted(kept)}},
        settings={"seed": report.seed, **report.settings},
    )
    return write_remaining(models, learner, facts)


def _home_models() -> Path:
    from controller.store import home_in

    return home_in(os.environ) / "models"


def _shipped(artifact: Path | None) -> tuple[RemainingLength, Manifest] | None:
    """The artifact asked for, else the active ``length/remaining``; ``None`` where none ships."""
    from controller.errors import StoreError, UnknownArtifact
    from controller.store import ArtifactStore, home_in, shipped_models
    from predictors.artifact import ArtifactError, load_manifest
    from predictors.length.remaining.model import RemainingLength

    try:
        path = artifact or ArtifactStore(shipped_models(), home_in(os.environ)).resolve(f"length/{_NAME}")
        return RemainingLength.load(path), load_manifest(path)
    except UnknownArtifact:
        return None
    except (ArtifactError, StoreError) as error:
        raise fail(str(error), code=1) from error
