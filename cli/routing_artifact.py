"""What a quality artifact says of itself, and judging the one that ships on the rows that it lists as kept out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.markup import escape

from cli.missing import fail
from cli.routing_rows import NAME
from cli.routing_sources import NINE, PAIR, Inputs, Source, kept_out

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from predictors.quality.card import Facts
    from predictors.quality.evaluation import Metrics, Study
    from predictors.quality.table import RoutingTable
    from predictors.types import Interval

NAMES: Final = {Source.LLMROUTER: "llmrouter", Source.ROUTELLM: "routellm", Source.TASKS: "ladder", Source.ROWS: NAME}
_DATA: Final = {
    Source.LLMROUTER: NINE,
    Source.ROUTELLM: PAIR,
    Source.TASKS: "graded answers of simulated workers to envs/tasks.py, split=train",
    Source.ROWS: "graded answers of live workers (headway collect)",
}
_PURPOSE: Final = {
    Source.LLMROUTER: "Predicts, for a prompt, how well each of nine open models answers it. It shows what the router "
    "does on public\ndata; for your own models, train one on your own graded answers.",
    Source.ROUTELLM: "Predicts, for a prompt, whether a weak and a strong model answer it rightly.",
    Source.TASKS: "Predicts, for a prompt of the task suite, how often each of three **simulated** workers answers it "
    "rightly. The\nsimulated ladder's skill is an assumption (see the profiles' cards), so this artifact is for demos, "
    "tests and simulated\nenvironments; it says nothing about any real model.",
    Source.ROWS: "Predicts, for a prompt like those collected, how often each of the models below answers it rightly.",
}
_COSTS: Final = {
    Source.LLMROUTER: "List prices of the table; every answer is counted as 200 tokens, a prompt as characters / 4.",
    Source.ROUTELLM: "No prices: in the evaluation the cost of a prompt is 1 where the strong model is called, else 0.",
    Source.TASKS: "Prices are the profile's GPU time (32 requests in flight, 512 tokens of context each) at its hourly "
    "price,\nand the expected tokens the mean of the observed answers: assumptions of the simulated ladder as well.",
    Source.ROWS: "The expected tokens are the mean of the answers. Without a list of prices a token costs the time "
    "that it took,\nan hour of one request at 1 USD: then ratios alone mean something.",
}
_LIMITS: Final = {
    Source.LLMROUTER: (
        "On whole new tasks it is about as accurate as always taking the best single model, not better; unguarded "
        "routers learned\n  from this table are worse. `headway eval routing` (split `leave_one_out`) measures it.",
        "The guard's quantile was chosen by looking at leave-one-task-out on this very table.",
        "14 public English benchmarks; many are multiple choice, and chat is not among them.",
    ),
    Source.ROUTELLM: ("MMLU and GSM8K alone; on new subjects the gain over a coin flip is small.",),
    Source.TASKS: (
        "It learned from one sampled answer a prompt and worker, never from the skill tables that drive the workers.",
        "An embedding tells families apart well, levels (larger numbers, more steps) only in part.",
        "No guard: prompts outside the task suite are caught by the out-of-distribution flag alone.",
    ),
    Source.ROWS: (
        "It knows the prompts that were collected; others may differ; the out-of-distribution flag tells most.",
        "An embedding tells kinds of tasks apart well, how hard one is only in part.",
    ),
}

_BESIDE: Final = {
    "zero_policy": ("aiq", "accuracy", "brier", "ece"),
    "best_single": ("accuracy", "cost"),
    "zero": ("aiq",),
    "random": ("aiq", "accuracy"),
    "oracle": ("aiq", "accuracy"),
}
"""Metrics of other routers that the manifest keeps for comparison."""


class Draft(NamedTuple):
    """Facts of the card and the manifest, and the rows kept out."""

    facts: Facts
    held_out: Mapping[str, Any]


def compose(
    source: Source,
    table: RoutingTable,
    study: Study,
    judged: Mapping[str, Metrics],
    place: tuple[Path, str | None, str],
) -> Draft:
    """What the next version of ``quality/NAME`` says of itself. ``place``: models folder, name, licence of the data."""
    from predictors.artifact import DataSource
    from predictors.quality.card import Facts

    models, name, licence = place
    called = name or NAMES[source]
    rows, held_out = len(study.training), _held_out(source, table, study)
    facts = Facts(
        name=called,
        version=_next_version(models, called),
        purpose=_PURPOSE[source],
        data=[DataSource(_DATA[source], licence, table.sha256, rows)],
        metrics=_flat(judged),
        held_out=f"{len(study.judged)} prompts: {held_out[_DATA[source]]['rule']}.",
        costs=_COSTS[source],
        limits=_LIMITS[source],
    )
    return Draft(facts, held_out)


def shipped_study(source: Source, inputs: Inputs) -> tuple[Study, NDArray[np.float32]] | None:
    """The shipped artifact of a source: the rows that it lists as kept out, and its predictions for them.

    ``None`` where none ships, or where it was trained on another edition of the data.
    """
    from controller.errors import StoreError, UnknownArtifact
    from controller.store import ArtifactStore, shipped_models
    from predictors.quality.model import KnnQuality

    try:
        knn = KnnQuality.load(ArtifactStore(shipped_models(), None).resolve(f"quality/{NAMES[source]}"))
    except UnknownArtifact:
        return None
    except StoreError as error:
        raise fail(escape(str(error)), 1) from error
    table = inputs.read(source)
    study = kept_out(source, table, inputs)
    listed = knn.manifest.held_out if knn.manifest else {}
    if listed.get(_DATA[source]) != _held_out(source, table, study)[_DATA[source]] or knn.models_ != table.models:
        return None
    return study, knn.predict(study.judged.embeddings).quality


def _held_out(source: Source, table: RoutingTable, study: Study) -> dict[str, Any]:
    """As a manifest lists it."""
    if source is Source.TASKS:
        return {_DATA[source]: {"rule": "the task suite's test split, which shares no problem with the train split"}}
    ids = [table.ids[row] for row in study.judged_rows]
    rule = "one prompt in ten, by hash of its content"
    return {_DATA[source]: {"rule": rule, "sha256": table.sha256, "ids": ids}}


def _flat(judged: Mapping[str, Metrics]) -> dict[str, Interval | None]:
    """``aiq`` of the artifact itself; ``zero_aiq``, ``best_single_accuracy`` … of the routers beside it."""
    metrics: dict[str, Interval | None] = dict(judged["default"])
    for router, wanted in _BESIDE.items():
        metrics |= {f"{router}_{metric}": judged[router][metric] for metric in wanted}
    return metrics


def _next_version(models: Path, name: str) -> int:
    """Above what is in this folder, and above what ships, which would hide it."""
    from controller.store import shipped_models
    from predictors.artifact import next_version
    from predictors.quality.model import KIND

    return max(next_version(folder, KIND, name) for folder in (models, shipped_models()) if folder is not None)
