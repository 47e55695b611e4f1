"""What a task family hands over: a problem, before it is worded as a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random

LEVELS = (1, 2, 3, 4)


class AnswerKind(StrEnum):
    """How an answer is compared."""

    NUMBER = "number"
    """A decimal number, perhaps with a unit."""
    SEQUENCE = "sequence"
    """Words or numbers in a given order."""
    WORD = "word"
    """One string of letters."""
    DATE = "date"
    """A day of the calendar; canonical form ``2024-03-05``."""
    CHOICE = "choice"
    """One of ``Problem.options``."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question in several phrasings, the way to its answer, and the answer in canonical form.

    ``phrasings[0]`` is canonical: its hash is the problem's identity, whatever the wording. ``held_out`` phrasings are
    used in the test split only, ``practice`` where models train and ask for more variety. ``steps`` are whole lines, in
    order.
    """

    phrasings: tuple[str, ...]
    held_out: tuple[str, ...]
    steps: tuple[str, ...]
    answer: str
    kind: AnswerKind
    unit: str = ""
    """Unit of a number, as in :mod:`envs.families.measures`; empty for a plain number."""
    options: tuple[str, ...] = ()
    practice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A range of integers (inclusive) for all splits, and one for the test split alone."""

    low: int
    high: int
    test_low: int
    test_high: int

    def draw(self, rng: Random, test_range: bool) -> int:
        """One integer of the chosen range."""
        return rng.randint(self.test_low, self.test_high) if test_range else rng.randint(self.low, self.high)


Draw = Callable[[int, Random, bool], Problem]
"""(level 1 to 4, randomness, whether to use the number ranges kept for test) to a problem."""


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of task. ``draw`` makes an unlimited supply of problems of each level."""

    name: str
    draw: Draw
