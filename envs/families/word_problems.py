"""Stories in which a number of things changes, one event after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from envs.families.problem import AnswerKind, Family, Problem, Span
from envs.families.vocabulary import ITEMS, NAMES

_EVENTS = {1: 1, 2: 2, 3: 4, 4: 7}
_START = {1: Span(5, 20, 21, 29), 2: Span(10, 50, 51, 69), 3: Span(20, 90, 91, 120), 4: Span(40, 200, 201, 260)}
_CHANGE = {1: Span(2, 9, 10, 14), 2: Span(3, 20, 21, 29), 3: Span(4, 40, 41, 55), 4: Span(5, 80, 81, 99)}


@dataclass(frozen=True, slots=True)
class _Event:
    told: str
    step: str
    after: int


def _gain(rng: Random, who: str, thing: str, count: int, change: int) -> _Event:
    told = rng.choice(
        (
            f"{who} buys {change} more {thing}.",
            f"A friend gives {who} another {change} {thing}.",
            f"Then {who} finds {change} {thing} in a drawer.",
        )
    )
    return _Event(told, f"{who} gains {change}: {count} + {change} = {count + change}.", count + change)


def _loss(rng: Random, who: str, thing: str, count: int, change: int) -> _Event:
    change = min(change, count - 1)
    told = rng.choice(
        (
            f"{who} gives away {change} {thing}.",
            f"{who} sells {change} of the {thing}.",
            f"On the way home {change} {thing} get lost.",
        )
    )
    return _Event(told, f"{who} loses {change}: {count} - {change} = {count - change}.", count - change)


def _packs(rng: Random, who: str, thing: str, count: int, change: int) -> _Event:
    packs, size = rng.randint(2, 6), max(2, change // 3)
    gained = packs * size
    told = f"{who} gets {packs} bags with {size} {thing} in each."
    step = f"The bags hold {packs} * {size} = {gained}, so there are {count} + {gained} = {count + gained}."
    return _Event(told, step, count + gained)


def _doubled(rng: Random, who: str, thing: str, count: int, change: int) -> _Event:
    told = f"By the next week the number of {thing} has doubled."
    return _Event(told, f"It doubles: {count} * 2 = {count * 2}.", count * 2)


def _halved(rng: Random, who: str, thing: str, count: int, change: int) -> _Event:
    if count % 2:
        return _loss(rng, who, thing, count, change)
    told = f"{who} gives exactly half of the {thing} to {rng.choice([n for n in NAMES if n != who])}."
    return _Event(told, f"Half is left: {count} / 2 = {count // 2}.", count // 2)


_Make = Callable[[Random, str, str, int, int], _Event]
_SIMPLE: tuple[_Make, ...] = (_gain, _loss)
_ALL: tuple[_Make, ...] = (_gain, _gain, _loss, _loss, _packs, _packs, _doubled, _halved)


def _chosen(rng: Random, level: int, count: int) -> _Make:
    make = rng.choice(_SIMPLE if level == 1 else _ALL)
    if make is _doubled and count > 1000:
        return _loss
    return _gain if make in (_loss, _halved) and count < 3 else make


def draw(level: int, rng: Random, test_range: bool) -> Problem:
    """Level 1: one event. 2: two. 3: four. 4: seven."""
    who, thing = rng.choice(NAMES), rng.choice(ITEMS)
    start = count = _START[level].draw(rng, test_range)
    events: list[_Event] = []
    for _ in range(_EVENTS[level]):
        make = _chosen(rng, level, count)
        events.append(make(rng, who, thing, count, _CHANGE[level].draw(rng, test_range)))
        count = events[-1].after
    story = " ".join(event.told for event in events)
    return Problem(
        phrasings=(
            f"{who} has {start} {thing}. {story} How many {thing} are there now?",
            f"At first {who} has {start} {thing}. {story} How many are left in the end?",
            f"{who} starts with {start} {thing}. {story} What is the number of {thing} now?",
        ),
        held_out=(f"There are {start} {thing} on {who}'s table. {story} Find how many {thing} {who} ends up with.",),
        steps=(f"{who} starts with {start}.", *(event.step for event in events)),
        answer=str(count),
        kind=AnswerKind.NUMBER,
        practice=(
            f"{who} owns {start} {thing}. {story} How many {thing} does {who} have now?",
            f"In a box of {who} there are {start} {thing}. {story} How many {thing} are in it in the end?",
            f"{who} counts {start} {thing}. {story} Tell me how many {thing} there are after all that.",
            f"To begin with, {who} has {start} {thing}. {story} So how many {thing} remain?",
            f"{who} collects {thing} and has {start} of them. {story} What is the count at the end?",
            f"Yesterday {who} had {start} {thing}. {story} How many would {who} count now?",
        ),
    )


FAMILY = Family("word_problems", draw)
