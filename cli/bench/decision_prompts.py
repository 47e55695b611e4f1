"""Prompts for the decision bench: real ones where the data folder has them, else the task suite's; no two alike."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cli.missing import fail

__all__ = ["distinct", "read"]

_ARENA = "lengths/arena_prompts.csv.gz"


def read(source: str | None, data: Path | None, seed: int, count: int) -> tuple[str, list[str]]:
    """What the prompts are called, and prompts: of a file, of the data folder, or made here."""
    from envs.prompts import PromptError, read_questions

    folder = data or (Path(os.environ["HEADWAY_DATA"]) if os.environ.get("HEADWAY_DATA") else None)
    arena = None if folder is None else folder / _ARENA
    if source is None and arena is not None and arena.is_file():
        return "arena", [question.prompt for question in read_questions(str(arena), seed)]
    if source is None and data is not None:
        raise fail(f"{data} has no {_ARENA}; --data must name the folder that holds it")
    if source is None:
        from cli.bench.gateway_prompts import prompts

        return "task suite", prompts(count, seed)
    try:
        return source, [question.prompt for question in read_questions(source, seed)]
    except PromptError as error:
        raise fail(str(error)) from error


def distinct(texts: Sequence[str], count: int, seed: int, chars: int | None = None) -> list[str]:
    """So many prompts, all different: the texts in random order, then the beginnings of some and the ends of others.

    ``chars`` makes each of them so long, out of as many as it takes.
    """
    rng = np.random.default_rng(seed)
    order = [str(texts[i]) for i in rng.permutation(len(texts))]
    made: dict[str, None] = {} if chars else dict.fromkeys(order[:count])
    while len(made) < count:
        if chars:
            tag = f" {len(made)}"
            made[_of_size(order, chars - len(tag), rng) + tag] = None
        else:
            first, second = (order[i] for i in rng.integers(len(order), size=2))
            made[f"{_words(first, 0.0, 0.5)} {_words(second, 0.5, 1.0)} {len(made)}"] = None
    return list(made)


def _of_size(texts: Sequence[str], chars: int, rng: np.random.Generator) -> str:
    parts: list[str] = []
    while sum(map(len, parts)) + len(parts) - 1 < chars:
        parts.append(texts[int(rng.integers(len(texts)))])
    return "\n".join(parts)[:chars]


def _words(text: str, start: float, end: float) -> str:
    words = text.split(" ")
    return " ".join(words[round(start * len(words)) : round(end * len(words))])
