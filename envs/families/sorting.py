"""Putting numbers or words in order, by repeatedly taking the least."""

from __future__ import annotations

from random import Random

from envs.families.problem import AnswerKind, Family, Problem, Span
from envs.families.vocabulary import CITIES, NAMES, WORDS

_SIZES = {1: (3, 4), 2: (5, 6), 3: (7, 9), 4: (10, 14)}
_NUMBERS = {1: Span(1, 60, 61, 79), 2: Span(1, 99, 100, 129), 3: Span(1, 400, 401, 499), 4: Span(1, 999, 1000, 1299)}


def _numbers(rng: Random, level: int, size: int, test_range: bool) -> list[str]:
    span = _NUMBERS[level]
    drawn: set[int] = set()
    while len(drawn) < size:
        drawn.add(span.draw(rng, test_range))
    return [str(n) for n in rng.sample(sorted(drawn), size)]


def _taken(items: list[str], ordered: list[str], word: str) -> list[str]:
    left, lines = list(items), []
    for item in ordered[:-1]:
        left.remove(item)
        lines.append(f"{word} is {item}; left: {', '.join(left)}.")
    return [*lines, f"Last comes {ordered[-1]}."]


def draw(level: int, rng: Random, test_range: bool) -> Problem:
    """Level 1: 3 to 4 items. 2: 5 to 6. 3: 7 to 9. 4: 10 to 14."""
    size = rng.randint(*_SIZES[level])
    numeric = rng.random() < 0.6
    items = _numbers(rng, level, size, test_range) if numeric else rng.sample(rng.choice((NAMES, CITIES, WORDS)), size)
    falling = rng.random() < 0.4
    ordered = sorted(items, key=int if numeric else str, reverse=falling)
    if numeric:
        noun, how, word = "numbers", ("descending" if falling else "ascending"), ("Largest" if falling else "Smallest")
    else:
        noun, how, word = "words", ("reverse alphabetical" if falling else "alphabetical"), "Next"
    shown = ", ".join(items)
    return Problem(
        phrasings=(
            f"Sort these {noun} in {how} order: {shown}.",
            f"Put the following {noun} in {how} order: {shown}.",
            f"Arrange in {how} order: {shown}.",
        ),
        held_out=(f"Here are some {noun}: {shown}. What are they in {how} order?",),
        steps=tuple(_taken(items, ordered, word)),
        answer=", ".join(ordered),
        kind=AnswerKind.SEQUENCE,
        practice=(
            f"What is the {how} order of these {noun}: {shown}?",
            f"{shown}: put these {noun} in {how} order.",
            f"Give these {noun} back in {how} order: {shown}.",
            f"I have a list of {noun}: {shown}. I need it in {how} order.",
            f"List in {how} order the {noun} {shown}.",
            f"Bring the {noun} {shown} into {how} order.",
            f"Which is the {how} order? The {noun}: {shown}.",
        ),
    )


FAMILY = Family("sorting", draw)
