"""Counting letters, words and numbers with a property, one by one."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from envs.families.problem import AnswerKind, Family, Problem, Span
from envs.families.vocabulary import COLOURS, pseudo_word

_LIST_SIZES = {2: (6, 9), 3: (10, 14), 4: (16, 24)}
_NUMBERS = Span(1, 99, 100, 149)


def _problem(question: str, counted: str, steps: list[str], count: int) -> Problem:
    return Problem(
        phrasings=(
            f"How many {question}?\n{counted}",
            f"{counted}\nHow many {question}?",
            f"Count: how many {question}? {counted}",
        ),
        held_out=(f"Look at this: {counted} Tell me how many {question}.",),
        steps=(*steps, f"The count is {count}."),
        answer=str(count),
        kind=AnswerKind.NUMBER,
        practice=(
            f"{counted} How many {question}, please?",
            f"I have this here. {counted} Now, how many {question}?",
            f"Find out how many {question}. {counted}",
            f"Here you see something. {counted} Say how many {question}.",
            f"Question: how many {question}?\n{counted}",
            f"{counted} Count them: how many {question}?",
            f"Given this, how many {question}? {counted}",
        ),
    )


def _letters(rng: Random, test_range: bool) -> Problem:
    word = pseudo_word(rng, rng.randint(3, 4) + 2 * test_range)
    letter = rng.choice(word)
    steps, count = [], 0
    for position, found in enumerate(word, 1):
        count += found == letter
        if found == letter:
            steps.append(f"Letter {position} is {letter}: {count}.")
    return _problem(f"times does the letter '{letter}' occur in this word", f"Word: {word}", steps, count)


def _enumerated(items: list[str], holds: Callable[[str], bool], question: str, noun: str) -> Problem:
    steps, count = [], 0
    for item in items:
        found = holds(item)
        count += found
        steps.append(f"{item}: {f'yes, {count}' if found else 'no'}.")
    return _problem(question, f"{noun}: {', '.join(items)}.", steps, count)


def _repeats(rng: Random, size: int, test_range: bool) -> Problem:
    kinds = rng.sample(COLOURS, 3 + 2 * test_range)
    items = [rng.choice(kinds) for _ in range(size)]
    wanted = rng.choice(items)
    return _enumerated(items, lambda item: item == wanted, f"times does '{wanted}' occur in the list", "List")


def _numbers(rng: Random, size: int, test_range: bool, both: bool) -> Problem:
    items = [str(_NUMBERS.draw(rng, test_range)) for _ in range(size)]
    parity, bound = rng.choice((0, 1)), _NUMBERS.draw(rng, test_range)
    name = ("even", "odd")[parity]
    if both:
        question = f"of the numbers are {name} and greater than {bound}"
        return _enumerated(items, lambda item: int(item) % 2 == parity and int(item) > bound, question, "Numbers")
    if rng.random() < 0.5:
        return _enumerated(items, lambda item: int(item) % 2 == parity, f"of the numbers are {name}", "Numbers")
    return _enumerated(items, lambda item: int(item) > bound, f"of the numbers are greater than {bound}", "Numbers")


def draw(level: int, rng: Random, test_range: bool) -> Problem:
    """Level 1: a letter in a word. 2: a word in a list. 3: numbers with a property. 4: a long list, two properties."""
    if level == 1:
        return _letters(rng, test_range)
    size = rng.randint(*_LIST_SIZES[level])
    if level == 2:
        return _repeats(rng, size, test_range)
    return _numbers(rng, size, test_range, both=level == 4)


FAMILY = Family("counting", draw)
