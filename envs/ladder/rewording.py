"""Prompts worded a little differently than the suite words them, so that models do not hang on its exact wordings.

What carries the problem (numbers, names, quoted and listed words) stays; words of the frame are left out or replaced,
and a clause of words without meaning may stand before or after. The suite's wordings and ranges for test are not used.
"""

from __future__ import annotations

import re
from random import Random
from typing import Final

from envs.families.vocabulary import ITEMS, JOBS, pseudo_word
from envs.tasks import Style, Task

_FRAME: Final = frozenset(
    re.findall(
        r"\w+",
        """a also an and answer are arrange calculate can check comes compute count detail do does down end ends express
        find following for from get give given going help here how i if in is it just let live lives look me much name
        now of on once order person please put question read result results say see show some something solve start
        starts step steps take tell text than that the then there these they this to true use value want we what which
        who will with word work works write you your""",
    )
)
_KEPT: Final = frozenset(
    re.findall(r"\w+", "and answer check detail from in show step steps than to true with word work works write")
)
"""Of the frame, but they tell which problem it is, or how much of the work is wanted."""
_LEFT_OUT: Final = 0.08
_REPLACED: Final = 0.08
_CLAUSE: Final = 0.6
_WORD: Final = re.compile(r"[A-Za-z]+|[^A-Za-z]+")
_FILLERS: Final = tuple(sorted(_FRAME)) + ITEMS + JOBS


def reworded(task: Task, rng: Random) -> str:
    """The task's prompt in other words; asks for the same, in the same style."""
    text = "".join(_kept(piece, rng) for piece in _WORD.findall(task.prompt))
    if task.style is Style.OPEN and rng.random() < _CLAUSE:
        # Any words that do not ask for a form leave it open.
        return f"{_clause(rng)} {text}" if rng.random() < 0.5 else f"{text} {_clause(rng)}"
    return text


def _kept(piece: str, rng: Random) -> str:
    word = piece.lower()
    if word not in _FRAME or word in _KEPT or len(word) < 2:
        return piece
    draw = rng.random()
    if draw < _LEFT_OUT:
        return ""
    return _filler(rng) if draw < _LEFT_OUT + _REPLACED else piece


def _filler(rng: Random) -> str:
    return pseudo_word(rng, rng.randint(1, 3)) if rng.random() < 0.4 else rng.choice(_FILLERS)


def _clause(rng: Random) -> str:
    words = " ".join(_filler(rng) for _ in range(rng.randint(2, 8)))
    return f"{words[0].upper()}{words[1:]}{rng.choice('.?:')}"
