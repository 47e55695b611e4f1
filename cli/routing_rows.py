"""Collected answers of several models to the same prompts, as a routing table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from envs.collection import Row
    from predictors.quality.model import Price
    from predictors.quality.table import RoutingTable

NAME: Final = "collected"
_UNNAMED: Final = "all"
"""The task of a prompt that names none."""
_LEAST: Final = 200
"""Fewer prompts teach nothing, and cannot be split."""
_USD_PER_HOUR: Final = 1.0
"""What an hour of a request costs where no prices are given: then only ratios mean something."""


def read_rows(paths: Sequence[Path], prices: Path | None) -> RoutingTable:
    """The prompts that every model answered and whose answers were checked; quality is the share of right answers.

    Without ``prices`` (a JSON file, as of the public tables), a model's tokens cost the time that its answers took.

    Raises:
        TableError: no file was given, one cannot be read, or there is too little in them.
    """
    import numpy as np

    from predictors.quality.model import query_usd
    from predictors.quality.table import RoutingTable, TableError, read_prices

    graded = _graded(paths)
    models = _quickest_first(graded)
    whole = _answered_by_all(graded, len(models))
    if len(models) < 2 or len(whole) < _LEAST:
        raise TableError(
            f"needs at least {_LEAST} prompts with checked answers of each of two models or more; there are "
            f"{len(whole)} of {', '.join(models) or 'no model'}"
        )
    heads = [answers[models[0]][0] for answers in whole.values()]
    quality = [[_mean(bool(row.correct) for row in answers[model]) for model in models] for answers in whole.values()]
    written = {model: _mean(row.output_tokens or 0 for row in graded if row.model == model) for model in models}
    if prices is None:
        listed = tuple(_timed(model, graded, written[model]) for model in models)
    else:
        listed = read_prices(prices, models, [written[model] for model in models])
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths))
    return RoutingTable(
        name=NAME,
        ids=tuple(whole),
        tasks=tuple(row.family or _UNNAMED for row in heads),
        prompts=tuple(row.prompt for row in heads),
        models=models,
        quality=np.array(quality, dtype=np.float32),
        costs=query_usd(listed, [float(row.prompt_tokens or 0) for row in heads]),
        prices=listed,
        sha256=digest.hexdigest(),
    )


def _graded(paths: Sequence[Path]) -> list[Row]:
    from envs.collection import CollectionError, read_parquet
    from predictors.quality.table import TableError

    if not paths:
        raise TableError("no answers: give --rows FILE (headway collect, or headway eval ladder, writes it)")
    try:
        rows = [row for path in paths for row in read_parquet(path)[0]]
    except CollectionError as error:
        raise TableError(str(error)) from error
    return [row for row in rows if row.error is None and row.correct is not None and row.output_tokens is not None]


def _quickest_first(rows: Sequence[Row]) -> tuple[str, ...]:
    """The models, by the mean time of their answers."""
    found = {row.model for row in rows}
    return tuple(sorted(found, key=lambda model: (_mean(row.e2e_s for row in rows if row.model == model), model)))


def _answered_by_all(rows: Iterable[Row], models: int) -> dict[str, dict[str, list[Row]]]:
    """Answers by prompt and model."""
    by: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        by.setdefault(row.prompt_id, {}).setdefault(row.model, []).append(row)
    return {prompt: answers for prompt, answers in by.items() if len(answers) == models}


def _timed(model: str, rows: Iterable[Row], tokens: float) -> Price:
    """The time of a model's answers, all of it laid on their tokens."""
    from predictors.quality.model import Price

    took = _mean(row.e2e_s for row in rows if row.model == model)
    return Price(0.0, took / 3600.0 * _USD_PER_HOUR / max(tokens, 1.0) * 1e6, tokens)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
