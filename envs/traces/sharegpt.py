"""ShareGPT: conversations that people shared, JSON, without times.

An array (or JSON lines) of ``{"id": …, "conversations": [{"from": "human" | "gpt" | …, "value": text}, …]}``, as in
ShareGPT_V3_unfiltered_cleaned_split.json and as ``vllm bench serve --dataset-name sharegpt`` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from envs.traces.reading import TokenCount, TraceError, estimated_tokens, json_array, json_lines, opened, part
from envs.workloads import Arrival, ArrivalProcess, Pace, Transcript, Turn, interleaved

_ASKS = frozenset({"human", "user"})
_ANSWERS = frozenset({"gpt", "assistant", "chatgpt", "bing", "bard"})
PREFIX_BLOCK = 64


def read_sharegpt(
    path: Path,
    process: ArrivalProcess,
    *,
    seed: int = 0,
    pace: Pace | None = None,
    count: TokenCount = estimated_tokens,
    start: int = 0,
    limit: int | None = None,
) -> Iterator[Arrival]:
    """Every turn of every conversation, in order of time; ``process`` says when conversations begin.

    A turn's prompt is all that was said before and the new question, and its prefix says so. What is held is the
    conversations that are going on.
    """
    return part(_turns(path, process, seed, pace or Pace(), count), start, limit)


def _turns(path: Path, process: ArrivalProcess, seed: int, pace: Pace, count: TokenCount) -> Iterator[Arrival]:
    clock = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    said = ((name, sizes) for name, sizes in _conversations(path, count) if sizes)
    begun = zip(process.times(clock), said, strict=False)
    talks = (
        (name, _talk(at, sizes, Transcript(f"{path.name} {number}", PREFIX_BLOCK), pace, (seed, number)))
        for number, (at, (name, sizes)) in enumerate(begun)
    )
    return (Arrival(at, lengths=lengths, session=name) for name, (at, lengths) in interleaved(talks))


def _talk(
    at: float, sizes: list[tuple[int, int]], text: Transcript, pace: Pace, seed: tuple[int, int]
) -> Iterator[Turn]:
    rng = np.random.default_rng(seed)
    for question, answer in sizes:
        yield at, text.turn(question, answer)
        at += pace.gap(answer, rng)


def _conversations(path: Path, count: TokenCount) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    for number, row in enumerate(_rows(path), 1):
        try:
            said = [(str(message["from"]).lower(), message["value"]) for message in row["conversations"]]
            turns = [
                (count(question), count(answer))
                for (asks, question), (answers, answer) in pairwise(said)
                if asks in _ASKS and answers in _ANSWERS and question and answer
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise TraceError(f"{path}, conversation {number}: not one of ShareGPT: {error!r}") from error
        yield str(row.get("id", number)), turns


def _rows(path: Path) -> Iterator[Any]:
    with opened(path) as file:
        array = file.read(64).lstrip().startswith("[")
    return json_array(path) if array else (row for _, row in json_lines(path))
