"""Orders to be pieced together from clues, and truth values to be evaluated."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from envs.families.problem import AnswerKind, Family, Problem
from envs.families.vocabulary import NAMES, ORDINALS

_PEOPLE = {1: 3, 2: 4, 3: 6, 4: 8}
_DEPTH = {1: 1, 2: 2, 3: 3, 4: 4}
_RELATIONS = (("taller than", "tallest"), ("older than", "oldest"), ("faster than", "fastest"))
_TEST_RELATION = ("richer than", "richest")


def _order(rng: Random, level: int, test_range: bool) -> Problem:
    people = rng.sample(NAMES, _PEOPLE[level])
    relation, most = _TEST_RELATION if test_range else rng.choice(_RELATIONS)
    clues = [f"{a} is {relation} {b}." for a, b in pairwise(people)]
    place = rng.randrange(1, len(people)) if level > 2 else 0
    wanted = f"the {ORDINALS[place] + ' ' if place else ''}{most}"
    shown = " ".join(rng.sample(clues, len(clues)))
    steps = [f"{clue[:-1]}, which gives {' > '.join(people[: i + 2])}." for i, clue in enumerate(clues)]
    steps.append(f"In this order {people[place]} is {wanted}.")
    return Problem(
        phrasings=(
            f"{shown} Who is {wanted}?",
            f"Who is {wanted}? Clues: {shown}",
            f"These things are true. {shown} Name the person who is {wanted}.",
        ),
        held_out=(f"Read the clues: {shown} Which of them must be {wanted}?",),
        steps=tuple(steps),
        answer=people[place],
        kind=AnswerKind.CHOICE,
        options=tuple(people),
        practice=(
            f"We know this: {shown} So who is {wanted}?",
            f"{shown} Which person is {wanted}?",
            f"Some friends compare themselves. {shown} Find {wanted}.",
            f"{shown} From this, tell me who is {wanted}.",
            f"Can you say who is {wanted}? {shown}",
        ),
    )


def _said(value: bool) -> str:
    return "true" if value else "false"


def _expression(rng: Random, depth: int, values: dict[str, bool], steps: list[str]) -> tuple[str, bool]:
    """A random Boolean expression; appends its evaluation to ``steps``."""
    if depth == 0:
        name = rng.choice(sorted(values))
        return name, values[name]
    left, a = _expression(rng, depth - 1, values, steps)
    if rng.random() < 0.25:
        text, value = f"(not {left})", not a
    else:
        right, b = _expression(rng, max(0, depth - rng.choice((1, 1, 2))), values, steps)
        word = rng.choice(("and", "or"))
        text, value = f"({left} {word} {right})", (a and b) if word == "and" else (a or b)
    steps.append(f"{text} is {_said(value)}.")
    return text, value


def _boolean(rng: Random, level: int, test_range: bool) -> Problem:
    letters = "UVWXYZ" if test_range else "ABCDEFGH"
    values = {name: rng.random() < 0.5 for name in sorted(rng.sample(letters, min(2 + level, 5)))}
    steps: list[str] = []
    text, value = _expression(rng, _DEPTH[level], values, steps)
    given = ", ".join(f"{name} is {_said(v)}" for name, v in values.items())
    shown = text[1:-1]
    return Problem(
        phrasings=(
            f"Suppose {given}. Is this true or false: {shown}?",
            f"Let {given}. Evaluate: {shown}. Answer true or false.",
            f"{given[0].upper()}{given[1:]}. True or false: {shown}?",
        ),
        held_out=(f"We know that {given}. Decide whether the statement '{shown}' is true or false.",),
        steps=tuple(steps),
        answer=_said(value),
        kind=AnswerKind.CHOICE,
        options=("true", "false"),
        practice=(
            f"{given[0].upper()}{given[1:]}. What is the truth value of: {shown}?",
            f"Given {given}: is it true or false that {shown}?",
            f"With {given}, work out if this is true or false: {shown}.",
            f"Is {shown} true or false, when {given}?",
            f"Take these values: {given}. True or false? {shown}",
            f"Say if '{shown}' is true or false, given that {given}.",
        ),
    )


def draw(level: int, rng: Random, test_range: bool) -> Problem:
    """Orders of 3, 4, 6 and 8 people; expressions 1 to 4 deep."""
    return _order(rng, level, test_range) if rng.random() < 0.6 else _boolean(rng, level, test_range)


FAMILY = Family("logic", draw)
