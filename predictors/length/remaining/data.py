"""Answers as streams: what was visible of each after how many tokens."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.artifact import DataSource
from predictors.length.data import ARENA, ARENA_LENGTHS, ARENA_PROMPTS, LengthDataError, content_hash
from predictors.types import Prompt

__all__ = ["ARENA_ANSWERS", "Answers", "offsets", "read_answers"]

ARENA_ANSWERS: Final = "lengths/arena_answers.csv.gz"
_LICENCE: Final = "Apache-2.0 (arena-bench)"
_PIECE: Final = re.compile(r"\d| ?[^\W\d_]+| ?[^\w\s]{1,3}|\s+|_")
_CHARS_PER_TOKEN: Final = 5.5
"""Of a word that is cut into several tokens; it only spreads a known total over the text."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers (n): ``prompts``, ``groups`` (of the prompts' content), ``models``, ``texts`` and ``tokens`` (n,), the
    length of each in tokens."""

    prompts: tuple[Prompt, ...]
    groups: tuple[str, ...]
    models: tuple[str, ...]
    texts: tuple[str, ...]
    tokens: NDArray[np.int64]
    provenance: DataSource

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Answers:
        """The given rows, by position or by mask."""
        chosen = np.arange(len(self))[rows]
        prompts, groups, models, texts = (
            tuple(column[i] for i in chosen) for column in (self.prompts, self.groups, self.models, self.texts)
        )
        provenance = replace(self.provenance, rows=len(chosen))
        return Answers(prompts, groups, models, texts, self.tokens[chosen], provenance)


def read_answers(folder: Path) -> Answers:
    """The full answers of 8 models to the 300 arena-bench prompts, with their recorded lengths in tokens.

    Raises:
        LengthDataError: a file is missing, has other columns, or an answer has no length.
    """
    digest = hashlib.sha256()
    prompts = {row["prompt_id"]: Prompt(row["prompt"]) for row in _rows(folder / ARENA_PROMPTS, ("prompt",), digest)}
    lengths = {
        (row["prompt_id"], _short(row["model"])): int(row["output_tokens"])
        for row in _rows(folder / ARENA_LENGTHS, ("prompt_id", "model", "output_tokens"), digest)
    }
    rows = [row for row in _rows(folder / ARENA_ANSWERS, ("prompt_id", "model", "answer"), digest) if row["answer"]]
    try:
        tokens = np.array([lengths[row["prompt_id"], _short(row["model"])] for row in rows], dtype=np.int64)
        asked = tuple(prompts[row["prompt_id"]] for row in rows)
    except KeyError as error:
        raise LengthDataError(f"{folder / ARENA_LENGTHS} has no length of the answer to {error}") from error
    return Answers(
        asked,
        tuple(content_hash(prompt.text) for prompt in asked),
        tuple(_short(row["model"]) for row in rows),
        tuple(row["answer"] for row in rows),
        tokens,
        DataSource(ARENA, _LICENCE, digest.hexdigest(), len(rows)),
    )


def offsets(text: str, total: int, tokens: Sequence[int]) -> list[int]:
    """How many characters of ``text`` are visible after so many of its ``total`` tokens.

    The total is the tokenizer's; it is spread over words, digits, marks and white space in proportion to the tokens
    that each of them usually is, and within a word evenly.
    """
    ends, costs = [0], [0.0]
    for piece in _PIECE.finditer(text):
        ends.append(piece.end())
        costs.append(costs[-1] + max(1.0, len(piece[0]) / _CHARS_PER_TOKEN))
    scale = costs[-1] / max(total, 1)
    at = np.interp([count * scale for count in tokens], costs, ends)
    return [int(place) for place in at]


def _short(model: str) -> str:
    """Without the organisation, which one file leaves out."""
    return model.rpartition("/")[2]


def _rows(path: Path, columns: Sequence[str], digest: hashlib._Hash) -> Iterator[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)
    try:
        raw = path.read_bytes()
        reader = csv.DictReader(io.StringIO(gzip.decompress(raw).decode(), newline=""))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise LengthDataError(f"{path} cannot be read: {error}") from error
    digest.update(raw)
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise LengthDataError(f"{path} has no column {', '.join(missing)}; its columns are {reader.fieldnames}")
    yield from reader
