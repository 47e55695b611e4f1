"""Routing tables: prompts, and how well each of several models answered them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictors.quality.model import Price, query_usd

CHARS_PER_TOKEN: Final = 4.0
"""How prompts are counted where a table has no token counts."""
OUTPUT_TOKENS: Final = 200.0
"""Answer length assumed of every model where a table has none."""
_FIXED: Final = ("prompt_id", "task", "prompt")


class TableError(ValueError):
    """A routing table cannot be read: which file, where, and what would be right."""


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """``quality`` (n, M) in [0, 1] of M models' answers to n prompts, and what the answers ``costs`` (n, M).

    ``costs`` is USD, or any unit in which all of a table's costs are; ``sha256`` is of the data as it was read.
    """

    name: str
    ids: tuple[str, ...]
    tasks: tuple[str, ...]
    prompts: tuple[str, ...]
    models: tuple[str, ...]
    quality: NDArray[np.float32]
    costs: NDArray[np.float64]
    prices: tuple[Price, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class Labelled:
    """What estimators learn from and are judged on: one row a prompt.

    ``embeddings`` (n, 256), ``quality`` and ``costs`` (n, M), ``tasks`` (n,) names, ``keys`` (n,) content hashes: rows
    with the same key hold the same prompt and never fall on both sides of a split.
    """

    embeddings: NDArray[np.float32]
    quality: NDArray[np.float32]
    costs: NDArray[np.float64]
    tasks: NDArray[np.str_]
    keys: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: NDArray[Any]) -> Labelled:
        """The rows of an index or a mask."""
        return Labelled(self.embeddings[rows], self.quality[rows], self.costs[rows], self.tasks[rows], self.keys[rows])


def join(first: Labelled, second: Labelled) -> Labelled:
    """The rows of both, of the same models."""
    return Labelled(
        embeddings=np.concatenate([first.embeddings, second.embeddings]),
        quality=np.concatenate([first.quality, second.quality]),
        costs=np.concatenate([first.costs, second.costs]),
        tasks=np.concatenate([first.tasks, second.tasks]),
        keys=np.concatenate([first.keys, second.keys]),
    )


def content_key(prompt: str) -> int:
    """Hash of a prompt that forgives case and white space: duplicates share it."""
    digest = hashlib.sha256(" ".join(prompt.lower().split()).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big")


def label(table: RoutingTable, embeddings: NDArray[np.float32]) -> Labelled:
    """A table with its prompts embedded."""
    keys = np.array([content_key(prompt) for prompt in table.prompts], dtype=np.uint64)
    return Labelled(embeddings, table.quality, table.costs, np.array(table.tasks, dtype=np.str_), keys)


def read_priced(path: Path, prices: Path) -> RoutingTable:
    """A gzipped CSV (``prompt_id, task, prompt``, then a column a model) with list prices from a JSON file.

    A prompt costs characters / :data:`CHARS_PER_TOKEN` input and :data:`OUTPUT_TOKENS` output tokens.

    Raises:
        TableError: a file cannot be read, or does not have that shape.
    """
    models, rows, quality, digest = _read(path)
    listed = read_prices(prices, models, [OUTPUT_TOKENS] * len(models))
    costs = query_usd(listed, [len(prompt) / CHARS_PER_TOKEN for _, _, prompt in rows])
    ids, tasks, prompts = zip(*rows, strict=True)
    return RoutingTable(_stem(path), ids, tasks, prompts, models, quality, costs, listed, digest)


def read_pair(path: Path) -> RoutingTable:
    """A gzipped CSV of two models, the weak one first; the cost is the number of calls to the strong one.

    Raises:
        TableError: the file cannot be read, or does not have that shape.
    """
    models, rows, quality, digest = _read(path)
    if len(models) != 2:
        raise TableError(f"{path}: needs two models, the weak one first, not {list(models)}")
    costs = np.tile([0.0, 1.0], (len(rows), 1))
    nothing = (Price(0.0, 0.0, OUTPUT_TOKENS),) * 2
    ids, tasks, prompts = zip(*rows, strict=True)
    return RoutingTable(_stem(path), ids, tasks, prompts, models, quality, costs, nothing, digest)


_Read = tuple[tuple[str, ...], list[tuple[str, str, str]], NDArray[np.float32], str]
"""Models, (id, task, prompt) of each row, qualities, hash of the file."""


def _read(path: Path) -> _Read:
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TableError(f"{path}: not gzipped UTF-8 text: {error}") from error
    lines = csv.reader(io.StringIO(text, newline=""))
    head = next(lines, [])
    if tuple(head[:3]) != _FIXED or len(head) < 4:
        raise TableError(f"{path}: the columns must be {', '.join(_FIXED)} and then one a model, not {head}")
    rows: list[tuple[str, str, str]] = []
    quality: list[list[float]] = []
    for row in lines:
        quality.append(_qualities(path, lines.line_num, row, len(head)))
        rows.append((row[0], row[1], row[2]))
    if not rows:
        raise TableError(f"{path}: has no rows")
    return tuple(head[3:]), rows, np.array(quality, dtype=np.float32), hashlib.sha256(raw).hexdigest()


def _qualities(path: Path, line: int, row: Sequence[str], width: int) -> list[float]:
    try:
        values = [float(value) for value in row[3:]]
    except ValueError as error:
        raise TableError(f"{path}, line {line}: a quality must be a number: {error}") from error
    if len(row) != width or not all(0 <= value <= 1 for value in values):
        raise TableError(f"{path}, line {line}: needs {width} columns, the qualities from 0 to 1")
    return values


def read_prices(path: Path, models: Sequence[str], output_tokens: Sequence[float]) -> tuple[Price, ...]:
    """List prices of the models from a JSON file: model to ``input_usd_per_mtok`` and ``output_usd_per_mtok``.

    ``output_tokens`` is the length to expect of each model's answers.

    Raises:
        TableError: the file cannot be read, or lacks a model.
    """
    try:
        listed: Mapping[str, Mapping[str, float]] = json.loads(path.read_text(encoding="utf-8"))
        return tuple(
            Price(float(listed[m]["input_usd_per_mtok"]), float(listed[m]["output_usd_per_mtok"]), tokens)
            for m, tokens in zip(models, output_tokens, strict=True)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(f"{path}: needs prices of all of {list(models)}: {type(error).__name__}: {error}") from error


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
