"""Edits of a made-up word, one after the other, spelled out."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from envs.families.problem import AnswerKind, Family, Problem
from envs.families.vocabulary import pseudo_word

_EDITS = {1: 1, 2: 2, 3: 3, 4: 5}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TEST_SYLLABLES = 1
"""Words of the test ranges are one syllable longer than any other."""


def spelled(word: str) -> str:
    """``c-a-t``."""
    return "-".join(word)


def _reverse(rng: Random, word: str) -> tuple[str, str]:
    return "reverse the word", word[::-1]


def _replace(rng: Random, word: str) -> tuple[str, str]:
    old = rng.choice(word)
    new = rng.choice([c for c in _LETTERS if c != old])
    return f"replace every '{old}' with '{new}'", word.replace(old, new)


def _remove(rng: Random, word: str) -> tuple[str, str]:
    letter = rng.choice(word)
    left = word.replace(letter, "")
    return (f"remove every '{letter}'", left) if len(left) >= 2 else _reverse(rng, word)


def _append(rng: Random, word: str) -> tuple[str, str]:
    tail = pseudo_word(rng, 1)
    return f"append '{tail}' at the end", word + tail


def _prepend(rng: Random, word: str) -> tuple[str, str]:
    head = pseudo_word(rng, 1)
    return f"put '{head}' in front", head + word


def _swap(rng: Random, word: str) -> tuple[str, str]:
    return "swap the first and the last letter", word[-1] + word[1:-1] + word[0]


def _double(rng: Random, word: str) -> tuple[str, str]:
    letter = rng.choice(word)
    return f"double every '{letter}'", word.replace(letter, letter * 2)


def _drop_first(rng: Random, word: str) -> tuple[str, str]:
    return ("delete the first letter", word[1:]) if len(word) > 3 else _append(rng, word)


_Make = Callable[[Random, str], tuple[str, str]]
_MAKERS: tuple[_Make, ...] = (_reverse, _replace, _remove, _append, _prepend, _swap, _double, _drop_first)


def _edited(rng: Random, word: str, count: int) -> tuple[list[str], list[str], str]:
    told: list[str] = []
    steps = [f"The word is {spelled(word)}."]
    for make in rng.sample(_MAKERS, count):
        what, word = make(rng, word)
        told.append(what)
        steps.append(f"{what.capitalize()}: {spelled(word)}, that is {word}.")
    return told, steps, word


def draw(level: int, rng: Random, test_range: bool) -> Problem:
    """Level 1: one edit. 2: two. 3: three. 4: five, of a longer word."""
    word = pseudo_word(rng, rng.randint(2, 3) + (level == 4) + _TEST_SYLLABLES * 2 * test_range)
    told, steps, result = _edited(rng, word, _EDITS[level])
    orders = told[0] if len(told) == 1 else ", then ".join(told)
    return Problem(
        phrasings=(
            f"Take the word '{word}' and {orders}. What do you get?",
            f"Start from '{word}'; {orders}. Which word results?",
            f"Do this with the word '{word}': {orders}. Give the resulting word.",
        ),
        held_out=(f"Somebody writes down '{word}'. They {orders}. What is written there now?",),
        steps=tuple(steps),
        answer=result,
        kind=AnswerKind.WORD,
        practice=(
            f"The word is '{word}'. {orders[0].upper()}{orders[1:]}. Which word is it now?",
            f"I have the word '{word}' and want to {orders}. What will it be?",
            f"Write '{word}' on paper, then {orders}. What does the paper say?",
            f"'{word}': {orders}. The result?",
            f"If you {orders}, what becomes of '{word}'?",
            f"Please {orders}. The word is '{word}'. Tell me the new word.",
        ),
    )


FAMILY = Family("string_edits", draw)
