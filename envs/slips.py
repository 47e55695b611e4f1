"""Plausible wrong answers, for simulated models that fail, and for testing the grader."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from fractions import Fraction
from random import Random

from envs.families import AnswerKind
from envs.families.units import decimal
from envs.tasks import Task, grade, shown

_ATTEMPTS = 50
_SLIPPED_LINES = 2
"""A slip shows in the last step as well as in the answer."""


def wrong_answer(task: Task, rng: Random) -> str:
    """An answer in canonical form that a careless solver might give."""
    for _ in range(_ATTEMPTS):
        wrong = _SLIPS[task.kind](task, rng)
        if not grade(task, shown(task.kind, wrong, task.unit)):
            return wrong
    raise ValueError(f"no wrong answer found for {task.answer!r} ({task.kind})")


def perturb(task: Task, rng: Random) -> str:
    """The worked answer with a slip in its last steps and, following from it, a wrong result."""
    right, wrong = shown(task.kind, task.answer, task.unit), shown(task.kind, wrong_answer(task, rng), task.unit)
    lines = task.worked.split("\n")
    occurrence = re.compile(rf"(?<![\w.]){re.escape(right)}(?![\w]|\.\d)")
    tail = [occurrence.sub(wrong, line) for line in lines[-_SLIPPED_LINES:]]
    return "\n".join(lines[:-_SLIPPED_LINES] + tail)


def _number(task: Task, rng: Random) -> str:
    value = Fraction(task.answer)
    digits = len(task.answer.split(".")[0].lstrip("-"))
    wrong = rng.choice((value + 1, value - 1, value + 10 ** rng.randrange(digits), value * 10, value + 2))
    return decimal(wrong if wrong >= 0 else value + 1)


def _sequence(task: Task, rng: Random) -> str:
    items = task.answer.split(", ")
    place = rng.randrange(len(items) - 1)
    if rng.random() < 0.3 and len(items) > 3:
        del items[place]
    else:
        items[place], items[place + 1] = items[place + 1], items[place]
    return ", ".join(items)


def _word(task: Task, rng: Random) -> str:
    word, place = task.answer, rng.randrange(len(task.answer))
    kept = word[:place] + word[place + 1 :]
    return rng.choice((kept or word * 2, word[: place + 1] + word[place:], word[::-1], kept + word[place]))


def _date(task: Task, rng: Random) -> str:
    return (date.fromisoformat(task.answer) + timedelta(days=rng.choice((-30, -7, -2, -1, 1, 2, 7, 31)))).isoformat()


def _choice(task: Task, rng: Random) -> str:
    return rng.choice([option for option in task.options if option != task.answer])


_SLIPS: Mapping[AnswerKind, Callable[[Task, Random], str]] = {
    AnswerKind.NUMBER: _number,
    AnswerKind.SEQUENCE: _sequence,
    AnswerKind.WORD: _word,
    AnswerKind.DATE: _date,
    AnswerKind.CHOICE: _choice,
}
