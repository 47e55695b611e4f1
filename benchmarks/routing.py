"""Routers on the nine-model table under one protocol, beside figures measured elsewhere for the same protocol.

    python -m benchmarks.routing --data DIR [--json FILE] [--repeats 5]

Known tasks: ``--repeats`` random 70/30 splits, figures averaged over them (an interval is the average of the splits'
intervals over prompts). New tasks: one task left out at a time. AIQ counts nothing left of a router's cheapest point.
The columns ``…_elsewhere`` come from an independent implementation on an edition of the table with 6,108 rows; its AIQ
of new tasks may be averaged over tasks, ours is over all prompts: there only the order compares.
The last table is what the shipped artifacts cost: microseconds of scoring a prompt, embedding not included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from cli.missing import data_dir
from cli.report import Report
from cli.routing_sources import NINE, NINE_PRICES, embedded
from controller.errors import StoreError
from controller.store import ArtifactStore, shipped_models
from predictors.quality.evaluation import Judgement, Metrics, QualityEstimator, Study, judge
from predictors.quality.frontier import LeftRule
from predictors.quality.knn import KnnEstimator
from predictors.quality.model import KnnQuality
from predictors.quality.neighbours import KnnSettings
from predictors.quality.splits import NEVER, Split, by_task
from predictors.quality.table import Labelled, read_priced
from predictors.quality.train import RidgeQuality, default_estimator
from predictors.types import Interval


def _knn(k: int, kappa: float = 0.0, power: float = 0.0) -> Callable[[], QualityEstimator]:
    return lambda: KnnEstimator(KnnSettings(k, kappa, power))


ROUTERS: Final[Mapping[str, Callable[[], QualityEstimator]]] = {
    **{f"knn_{k}": _knn(k) for k in (5, 10, 40, 100)},
    **{f"shrink_{kappa}": _knn(100, kappa) for kappa in (20, 100)},
    "weighted_100": _knn(100, 1.0, 2.0),
    "ridge": RidgeQuality,
    "default": default_estimator,
}
ELSEWHERE: Final[Mapping[tuple[str, Split], tuple[float, float | None]]] = {
    ("random", Split.IN_DOMAIN): (0.424, None),
    ("random", Split.LEAVE_ONE_OUT): (0.418, None),
    ("zero", Split.IN_DOMAIN): (0.6146, 0.5795),
    ("zero", Split.LEAVE_ONE_OUT): (0.6146, 0.6011),
    ("knn_5", Split.IN_DOMAIN): (0.579, 0.579),
    ("knn_5", Split.LEAVE_ONE_OUT): (0.543, 0.558),
    ("knn_10", Split.IN_DOMAIN): (0.609, 0.599),
    ("knn_10", Split.LEAVE_ONE_OUT): (0.567, 0.575),
    ("knn_40", Split.IN_DOMAIN): (0.632, 0.615),
    ("knn_40", Split.LEAVE_ONE_OUT): (0.584, 0.588),
    ("knn_100", Split.IN_DOMAIN): (0.643, 0.625),
    ("knn_100", Split.LEAVE_ONE_OUT): (0.594, 0.592),
    ("shrink_20", Split.IN_DOMAIN): (0.644, 0.626),
    ("shrink_20", Split.LEAVE_ONE_OUT): (0.595, 0.589),
    ("shrink_100", Split.IN_DOMAIN): (0.637, 0.620),
    ("shrink_100", Split.LEAVE_ONE_OUT): (0.607, 0.591),
    ("ridge", Split.IN_DOMAIN): (0.624, 0.608),
    ("ridge", Split.LEAVE_ONE_OUT): (0.575, 0.586),
    ("oracle", Split.IN_DOMAIN): (0.797, 0.791),
    ("oracle", Split.LEAVE_ONE_OUT): (0.800, None),
}
_TIMED: Final = 300


def main(
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of public data; or HEADWAY_DATA.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Random 70/30 splits.")] = 5,
    resamples: Annotated[int, typer.Option(min=10, help="Bootstrap resamples behind each interval.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits and the bootstrap.")] = 0,
) -> None:
    """Compare routers with each other, and with figures measured elsewhere."""
    folder = data_dir(data, NINE)
    table = read_priced(folder / NINE, folder / NINE_PRICES)
    labelled = embedded(table)
    how = Judgement(seed, resamples, LeftRule.ZERO)
    settings = {"repeats": repeats, "resamples": resamples, "left_of_cheapest_point": how.left.value}
    report, console = Report("benchmark routing", seed, settings), Console()
    for split in (Split.IN_DOMAIN, Split.LEAVE_ONE_OUT):
        part = Report(report.command, seed, settings)
        studies = list(_studies(table.name, labelled, split, repeats, seed))
        judged = [
            _judge(study, how) for study in track(studies, split.value, console=Console(stderr=True), transient=True)
        ]
        for router, metrics in _averaged(judged).items():
            accuracy, aiq = ELSEWHERE.get((router, split), (None, None))
            shown = {**metrics, "accuracy_elsewhere": accuracy, "aiq_elsewhere": aiq}
            part.row({"router": router}, shown)
            report.row({"table": table.name, "split": split.value, "router": router}, shown)
        part.show(console, split.value, ("accuracy", "accuracy_elsewhere", "aiq", "aiq_elsewhere"))
    _time(report, labelled, console)
    report.write(json_path)


def _studies(name: str, data: Labelled, split: Split, repeats: int, seed: int) -> Iterator[Study]:
    if split is Split.LEAVE_ONE_OUT:
        yield Study(name, split, data, by_task(data, len(set(data.tasks.tolist()))))
        return
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        yield Study(name, split, data, np.where(rng.random(len(data)) < 0.3, 0, NEVER))


def _judge(study: Study, how: Judgement) -> dict[str, Metrics]:
    predicted = {name: study.predict(make) for name, make in ROUTERS.items()}
    return judge(predicted, study.references(), study.judged, how)


def _averaged(judged: Sequence[Mapping[str, Metrics]]) -> dict[str, Metrics]:
    return {
        router: {name: _mean([one[router][name] for one in judged]) for name in metrics}
        for router, metrics in judged[0].items()
    }


def _mean(intervals: Sequence[Interval | None]) -> Interval | None:
    defined = [(one.value, one.lo, one.hi) for one in intervals if one is not None]
    return Interval(*np.mean(defined, axis=0).tolist()) if defined else None


def _time(report: Report, data: Labelled, console: Console) -> None:
    """Microseconds of ``KnnQuality.predict``, one prompt at a time: median, and the middle 95 % of calls."""
    part = Report(report.command, None, {})
    for ref in ("quality/llmrouter", "quality/ladder"):
        try:
            model = KnnQuality.load(ArtifactStore(shipped_models(), None).resolve(ref))
        except StoreError as error:
            console.print(f"{ref} is not timed: {error}", markup=False)
            continue
        times = []
        for row in range(_TIMED):
            begun = time.perf_counter_ns()
            model.predict(data.embeddings[row : row + 1])
            times.append((time.perf_counter_ns() - begun) / 1000)
        lo, middle, hi = np.quantile(times, (0.025, 0.5, 0.975)).tolist()
        for one in (report, part):
            one.row({"artifact": ref}, {"predict_us": Interval(middle, lo, hi)})
    part.show(console, "cost of a prompt")


if __name__ == "__main__":
    typer.run(main)
