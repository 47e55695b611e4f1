"""What length rankers learn from: prompts, and how long the answers of one or more models to each of them were."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.artifact import DataSource
from predictors.types import Prompt

ARENA: Final = "arena"
TASKS: Final = "tasks"
COLLECTED: Final = "rows"
ARENA_PROMPTS: Final = "lengths/arena_prompts.csv.gz"
ARENA_LENGTHS: Final = "lengths/arena_lengths.csv.gz"
_ARENA_LICENCE: Final = "Apache-2.0 (arena-hard-auto, arena-bench)"


class LengthDataError(ValueError):
    """Rows cannot be used: what is wrong, in which file, and what would be right."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as a plain row. ``group`` identifies the prompt's content; all rows of a group stay in one fold."""

    prompt: Prompt
    model: str
    output_tokens: int
    group: str | None = None
    """``None`` for the hash of the prompt's text up to white space."""


@dataclass(frozen=True, slots=True)
class LengthData:
    """Prompts (n) with the lengths of answers: row i of ``tokens`` (n, M) is in tokens, NaN where a model has none.

    Where models answered a prompt several times, ``tokens`` are means, and ``samples`` (n, M, k) each answer's, NaN
    where there are fewer than k; ``None`` where no prompt has several.
    """

    prompts: tuple[Prompt, ...]
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    models: tuple[str, ...]
    tokens: NDArray[np.float64]
    provenance: tuple[DataSource, ...]
    samples: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> LengthData:
        """The given rows, by position or by mask."""
        chosen = np.arange(len(self))[rows]
        sources = tuple(self.sources[i] for i in chosen)
        return LengthData(
            tuple(self.prompts[i] for i in chosen),
            tuple(self.groups[i] for i in chosen),
            sources,
            self.models,
            self.tokens[chosen],
            tuple(replace(source, rows=sources.count(source.name)) for source in self.provenance),
            None if self.samples is None else self.samples[chosen],
        )


def content_hash(text: str) -> str:
    """Identity of a text up to white space: 16 hexadecimal digits."""
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def from_answers(answers: Iterable[Answer], source: str, licence: str, digest: str | None = None) -> LengthData:
    """Gather rows: one row a distinct prompt, several answers of one model to it averaged.

    ``digest`` is the SHA-256 of the data as read; by default, of the rows themselves.

    Raises:
        LengthDataError: there is no row.
    """
    lengths: dict[tuple[str, Prompt], dict[str, list[int]]] = {}
    for answer in answers:
        group = answer.group or content_hash(answer.prompt.text)
        lengths.setdefault((group, answer.prompt), {}).setdefault(answer.model, []).append(answer.output_tokens)
    if not lengths:
        raise LengthDataError(f"the source {source!r} has no rows with output lengths")
    models = tuple(sorted({model for row in lengths.values() for model in row}))
    tokens = np.full((len(lengths), len(models)), np.nan)
    most = max(len(values) for row in lengths.values() for values in row.values())
    samples = np.full((len(lengths), len(models), most), np.nan)
    for i, row in enumerate(lengths.values()):
        for model, values in row.items():
            tokens[i, models.index(model)] = float(np.mean(values))
            samples[i, models.index(model), : len(values)] = values
    prompts = tuple(prompt for _, prompt in lengths)
    provenance = DataSource(source, licence, digest or _digest(prompts, tokens), len(prompts))
    groups = tuple(group for group, _ in lengths)
    sources = (source,) * len(prompts)
    return LengthData(prompts, groups, sources, models, tokens, (provenance,), samples if most > 1 else None)


def merge(parts: Sequence[LengthData]) -> LengthData:
    """One table of several sources; a model keeps a column to itself in each source."""
    models = tuple(model for part in parts for model in part.models)
    tokens = np.full((sum(map(len, parts)), len(models)), np.nan)
    most = max(1 if part.samples is None else part.samples.shape[2] for part in parts)
    samples = np.full((*tokens.shape, most), np.nan)
    row = column = 0
    for part in parts:
        own = part.tokens[:, :, None] if part.samples is None else part.samples
        samples[row : row + len(part), column : column + len(part.models), : own.shape[2]] = own
        tokens[row : row + len(part), column : column + len(part.models)] = part.tokens
        row, column = row + len(part), column + len(part.models)
    return LengthData(
        tuple(prompt for part in parts for prompt in part.prompts),
        tuple(group for part in parts for group in part.groups),
        tuple(source for part in parts for source in part.sources),
        models,
        tokens,
        tuple(source for part in parts for source in part.provenance),
        samples if most > 1 else None,
    )


def read_arena(folder: Path) -> LengthData:
    """The arena prompts with the answer lengths of 22 models, from the data folder (its README has the provenance).

    Raises:
        LengthDataError: a file is missing or has other columns.
    """
    digest = hashlib.sha256()
    prompts = {
        row["prompt_id"]: row["prompt"] for row in _rows(folder / ARENA_PROMPTS, ("prompt_id", "prompt"), digest)
    }
    wanted = ("prompt_id", "model", "output_tokens")
    answers = [
        Answer(Prompt(prompts[row["prompt_id"]]), row["model"], int(row["output_tokens"]))
        for row in _rows(folder / ARENA_LENGTHS, wanted, digest)
    ]
    return from_answers(answers, ARENA, _ARENA_LICENCE, digest.hexdigest())


def read_collected(path: Path, licence: str = "the operator's own") -> LengthData:
    """Rows that ``headway collect`` wrote; failed requests are left out. A column ``max_tokens``, where there is one,
    is each request's own limit.

    Raises:
        LengthDataError: the file cannot be read, or lacks a column.
    """
    import pyarrow
    import pyarrow.parquet

    wanted = ("prompt", "model", "output_tokens", "error")
    try:
        table = pyarrow.parquet.read_table(path)
        missing = [name for name in wanted if name not in table.column_names]
        if missing:
            raise LengthDataError(f"{path} has no column {', '.join(missing)}; it must be written by headway collect")
        rows = table.select([*wanted, *(name for name in ("max_tokens",) if name in table.column_names)]).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise LengthDataError(f"{path} cannot be read as Parquet: {error}") from error
    answers = (
        Answer(Prompt(row["prompt"], row.get("max_tokens")), row["model"], row["output_tokens"])
        for row in rows
        if row["error"] is None and row["output_tokens"] is not None
    )
    return from_answers(answers, COLLECTED, licence, hashlib.sha256(path.read_bytes()).hexdigest())


def _rows(path: Path, columns: Sequence[str], digest: hashlib._Hash) -> list[Mapping[str, str]]:
    try:
        raw = path.read_bytes()
        digest.update(raw)
        reader = csv.DictReader(io.StringIO(gzip.decompress(raw).decode(), newline=""))
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise LengthDataError(f"{path} has no column {', '.join(missing)}; its columns are {reader.fieldnames}")
        return list(reader)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise LengthDataError(f"{path} cannot be read: {error}") from error


def _digest(prompts: Sequence[Prompt], tokens: NDArray[np.float64]) -> str:
    digest = hashlib.sha256(tokens.tobytes())
    for prompt in prompts:
        digest.update(f"{prompt!r}\n".encode())
    return digest.hexdigest()
