"""Conversion of units, from one factor to sums of mixed amounts."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from random import Random

from envs.families.measures import MEASURES, Measure
from envs.families.problem import AnswerKind, Family, Problem, Span

_LADDERS = (
    ("km", "m", "cm", "mm"),
    ("t", "kg", "g", "mg"),
    ("l", "cl", "ml"),
    ("week", "day", "h", "min", "s"),
    ("dollar", "cent"),
)
_COUNT = Span(2, 60, 61, 80)
_TENTHS = Span(11, 299, 301, 399)
_PARTS = Span(2, 40, 41, 55)


def decimal(value: Fraction) -> str:
    """A finite decimal, without needless zeros."""
    text = f"{float(value):.9f}".rstrip("0").rstrip(".")
    return text or "0"


def _problem(amount: str, to: Measure, value: Fraction, steps: list[str]) -> Problem:
    return Problem(
        phrasings=(
            f"Convert {amount} to {to.plural}.",
            f"How many {to.plural} are {amount}?",
            f"Express {amount} in {to.plural}.",
            f"What is {amount} in {to.plural}?",
        ),
        held_out=(f"Somebody measures {amount}. State this in {to.plural}.", f"Give {amount} as {to.plural}."),
        steps=tuple(steps),
        answer=decimal(value),
        kind=AnswerKind.NUMBER,
        unit=to.symbol,
        practice=(
            f"{amount}: how much is that in {to.plural}?",
            f"I have {amount}. How many {to.plural} is that?",
            f"Change {amount} into {to.plural}.",
            f"Write {amount} in {to.plural}.",
            f"A label says {amount}. What would it say in {to.plural}?",
            f"How much is {amount}, counted in {to.plural}?",
            f"Turn {amount} into {to.plural}, please.",
        ),
    )


def _hops(rng: Random, hops: int) -> list[Measure]:
    ladder = rng.choice([names for names in _LADDERS if len(names) > hops])
    start = rng.randrange(len(ladder) - hops)
    return [MEASURES[name] for name in ladder[start : start + hops + 1]]


def _named(value: Fraction, measure: Measure) -> str:
    return f"{decimal(value)} {measure.names[0] if value == 1 else measure.plural}"


def _down(value: Fraction, way: list[Measure]) -> tuple[list[str], Fraction]:
    steps = []
    for big, small in pairwise(way):
        factor = big.factor / small.factor
        after = value * factor
        steps.append(f"1 {big.names[0]} is {decimal(factor)} {small.plural}.")
        steps.append(f"{decimal(value)} * {decimal(factor)} = {decimal(after)}, so {_named(after, small)}.")
        value = after
    return steps, value


def _single(rng: Random, test_range: bool) -> Problem:
    big, small = _hops(rng, 1)
    count, factor = Fraction(_COUNT.draw(rng, test_range)), big.factor / small.factor
    if rng.random() < 0.5:
        steps, value = _down(count, [big, small])
        return _problem(_named(count, big), small, value, steps)
    amount = count * factor
    steps = [f"1 {big.names[0]} is {decimal(factor)} {small.plural}."]
    steps.append(f"{decimal(amount)} / {decimal(factor)} = {decimal(count)}.")
    return _problem(_named(amount, small), big, count, steps)


def _chain(rng: Random, hops: int, test_range: bool) -> Problem:
    way = _hops(rng, hops)
    amount = Fraction(_TENTHS.draw(rng, test_range), 10)
    steps, value = _down(amount, way)
    return _problem(_named(amount, way[0]), way[-1], value, steps)


def _compound(rng: Random, parts: int, test_range: bool) -> Problem:
    """A sum of amounts in different units of one quantity, wanted in the smallest of them."""
    names = rng.choice([names for names in _LADDERS if len(names) >= 3])
    start = rng.randrange(len(names) - 2)
    ladder = [MEASURES[name] for name in names[start : start + 3]]
    measures = sorted(rng.choices(ladder[:-1], k=parts), key=lambda m: -m.factor)
    to = ladder[ladder.index(measures[-1]) + 1]
    amounts = [Fraction(_PARTS.draw(rng, test_range)) for _ in measures]
    steps, total = [], Fraction(0)
    for amount, measure in zip(amounts, measures, strict=True):
        way = ladder[ladder.index(measure) : ladder.index(to) + 1]
        lines, value = _down(amount, way)
        steps += lines
        if total:
            steps.append(f"{decimal(total)} + {decimal(value)} = {decimal(total + value)}.")
        total += value
    shown = " plus ".join(_named(a, m) for a, m in zip(amounts, measures, strict=True))
    return _problem(shown, to, total, steps)


def draw(level: int, rng: Random, test_range: bool) -> Problem:
    """Level 1: one factor. 2: decimals, or two factors. 3: three factors, or two amounts. 4: four to five amounts."""
    if level == 1:
        return _single(rng, test_range)
    if level == 2:
        return _chain(rng, rng.choice((1, 2)), test_range)
    if level == 3:
        return _chain(rng, 3, test_range) if rng.random() < 0.3 else _compound(rng, 2, test_range)
    return _compound(rng, rng.choice((4, 5)), test_range)


FAMILY = Family("units", draw)
