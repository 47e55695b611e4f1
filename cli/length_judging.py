"""The rows of ``headway eval length``: every predictor on every source, in its domain and from all other sources."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zipfile import BadZipFile

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.missing import fail
from cli.report import Label, Metric, Report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cli.length_sources import Source
    from predictors.length.data import LengthData
    from predictors.length.estimator import LengthEstimator
    from predictors.length.evaluation import Judged, Mapped, Predictable, Table

    Matrix = NDArray[np.float64]
    Make = Callable[[], LengthEstimator]

Step = Callable[[str], None]
"""Names the step that begins."""
METRICS: Final = ("tau_b", "tau_b_short", "mae", "coverage_90")
_TIMED: Final = 200
"""Prompts that are scored one by one to time a predictor."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a predictor said of a table, for the pictures."""

    predictor: str
    table: Table
    scores: Matrix
    lengths: Mapped
    judged: Judged


@dataclass(frozen=True, slots=True)
class Judging:
    """How rows are judged, and where they are written."""

    report: Report
    folds: int
    seed: int
    resamples: int
    least: int
    step: Step

    def in_domain(self, table: Table, labels: Sequence[str], rankers: Mapping[str, Make], **more: Label) -> list[Seen]:
        """Cross-validation by prompt; one row a predictor and label. Timed where a label is ``all``."""
        from predictors.length.evaluation import out_of_fold

        found = []
        for predictor, make in rankers.items():
            self.step(f"{table.source}: {predictor}")
            scores = out_of_fold(make, table, self.folds, self.seed)
            timed = "all" in labels and not more
            cost = microseconds(make().fit(table.data, table.embeddings), table) if timed else None
            found += self._rows(predictor, table, labels, scores, "in_domain", cost, **more)
        return found

    def leave_one_out(self, table: Table, others: Table, rankers: Mapping[str, Make], **more: Label) -> None:
        """Trained on the other sources; only the models' own maps are fitted on this one's."""
        for predictor, make in rankers.items():
            self.step(f"{table.source} from others: {predictor}")
            ranker = make().fit(others.data, others.embeddings)
            scores = ranker.rank(table.data.prompts, table.embeddings)
            self._rows(predictor, table, [table.source], scores, "leave_one_out", None, **more)

    def transfer(self, table: Table, learned: Table, rankers: Mapping[str, Make], **more: Label) -> list[Seen]:
        """Trained on the rows of another file; only the models' own maps are fitted on these. Timed."""
        found = []
        for predictor, make in rankers.items():
            self.step(f"{table.source} from the rows to fit: {predictor}")
            ranker = make().fit(learned.data, learned.embeddings)
            scores = ranker.rank(table.data.prompts, table.embeddings)
            cost = microseconds(ranker, table) if not more else None
            found += self._rows(predictor, table, [table.source], scores, "transfer", cost, **more)
        return found

    def scored(self, predictor: str, table: Table, scores: Matrix, split: str, **more: Label) -> list[Seen]:
        """Scores (n,) that were made elsewhere, by what never saw these rows."""
        self.step(f"{table.source}: {predictor}")
        return self._rows(predictor, table, [table.source], scores, split, None, **more)

    def ceilings(self, table: Table, labels: Sequence[str], split: str = "in_domain", **more: Label) -> list[Seen]:
        """What knows true lengths: other models' answers, and where there are several samples, the model's own."""
        from predictors.length.baselines import mean_rank_of_others
        from predictors.length.evaluation import noise_ceiling

        self.step(f"{table.source}: oracle")
        found = self._rows("oracle", table, labels, mean_rank_of_others(table.data.tokens), split, None, **more)
        ceiling = noise_ceiling(table, self.seed, self.resamples, self.least)
        for label in labels if ceiling is not None else []:
            row(self.report, "noise_ceiling", label, ceiling, None, None, split=split, **more)
        return found

    def _rows(
        self,
        predictor: str,
        table: Table,
        labels: Sequence[str],
        scores: Matrix,
        split: str,
        cost: float | None,
        **more: Label,
    ) -> list[Seen]:
        from predictors.length.evaluation import against_noise, judge, mapped

        lengths = mapped(scores, table, self.folds, self.seed)
        judged = judge(scores, table, self.seed, self.resamples, lengths)
        noise = against_noise(scores, table, self.seed, self.resamples, self.least)
        setting: dict[str, Label] = {"setting": "default"} if predictor == "fast" else {}
        for label in labels:
            row(self.report, predictor, label, judged, cost, noise, split=split, **setting, **more)
        return [] if judged is None else [Seen(predictor, table, scores, lengths, judged)]


def row(
    report: Report,
    predictor: str,
    source: str,
    judged: Judged | None,
    cost: float | None = None,
    noise: Predictable | None = None,
    **labels: Label,
) -> None:
    """A row of a report; what is not defined is ``None``. ``noise``, where there are several samples, adds metrics."""
    metrics: dict[str, Metric] = {name: None if judged is None else getattr(judged, name) for name in METRICS}
    metrics |= {"models": judged.models if judged else None, "prompts": judged.prompts if judged else None}
    if noise is not None:
        metrics |= {"tau_b_sample": noise.tau_b, "share_of_ceiling": noise.share}
    report.row({"predictor": predictor, "source": source, **labels}, {**metrics, "latency_us_p50": cost})


def tables_of(parts: Mapping[Source, LengthData], least: int) -> list[tuple[Table, list[str]]]:
    """What is judged, each with the labels of its rows: every source, and all of them (the same, if there is one)."""
    tables = [embedded(source, part, least) for source, part in parts.items()]
    if len(tables) == 1:
        return [(tables[0], [tables[0].source, "all"])]
    return [*((table, [table.source]) for table in tables), (joined("all", tables, least), ["all"])]


def joined(name: str, tables: Sequence[Table], least: int) -> Table:
    """The rows of all tables."""
    import numpy as np

    from predictors.length.data import merge
    from predictors.length.evaluation import Table, judged_columns

    data = merge([table.data for table in tables])
    return Table(name, data, np.vstack([table.embeddings for table in tables]), judged_columns(data, least))


def embedded(source: str, data: LengthData, least: int) -> Table:
    """A source with its prompts' embeddings, and the models that have at least ``least`` prompts."""
    from predictors.embedding import Embedder
    from predictors.length.evaluation import Table, judged_columns

    embeddings = Embedder().embed([prompt.text for prompt in data.prompts])
    return Table(str(source), data, embeddings, judged_columns(data, least))


def read_features(path: Path) -> dict[str, NDArray[np.float32]]:
    """Features of prompts by :func:`predictors.length.data.content_hash`, from the file that
    ``predictors.length.deep.features`` writes: ``group`` (n,), the hashes, and ``features`` (n, d). Exit code 2 where
    it is not that."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            hashes, states = stored["group"], stored["features"].astype(np.float32)
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise fail(f"{path} is not an npz with group (n,) and features (n, d): {error}") from error
    if hashes.ndim != 1 or states.ndim != 2 or len(hashes) != len(states) or not np.isfinite(states).all():
        raise fail(f"{path} needs finite features (n, d) of each group (n,), not {states.shape} and {hashes.shape}")
    return dict(zip(hashes.astype(str).tolist(), states, strict=True))


def with_features(table: Table, features: Mapping[str, NDArray[np.float32]]) -> Table | None:
    """The rows of a table whose prompts have features, with those as embeddings; ``None`` where none has."""
    import numpy as np

    from predictors.length.data import content_hash

    hashes = [content_hash(prompt.text) for prompt in table.data.prompts]
    known = np.array([text in features for text in hashes], dtype=np.bool_)
    if not known.any():
        return None
    states = np.stack([features[text] for text in hashes if text in features])
    return replace(table, data=table.data.take(known), embeddings=states)


def microseconds(ranker: LengthEstimator, table: Table) -> float:
    """Median time in which a fitted ranker scores one prompt, with its embedding where it reads one."""
    import numpy as np

    from predictors.embedding import Embedder

    embedder = Embedder()
    nothing = np.zeros((1, table.embeddings.shape[1]), dtype=np.float32)
    times = []
    for prompt in table.data.prompts[:_TIMED]:
        begun = time.perf_counter_ns()
        ranker.rank([prompt], embedder.embed_one(prompt.text)[None] if ranker.embeds else nothing)
        times.append(time.perf_counter_ns() - begun)
    return float(np.median(times)) / 1000


@contextmanager
def steps(total: int) -> Iterator[Step]:
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
