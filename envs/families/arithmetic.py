"""Sums, differences and products, worked digit by digit and by partial products."""

from __future__ import annotations

from random import Random

from envs.families.problem import AnswerKind, Family, Problem, Span

_PLACES = ("ones", "tens", "hundreds", "thousands", "ten thousands", "hundred thousands")
_SMALL = Span(2, 12, 13, 19)
_TWO_DIGITS = Span(13, 89, 90, 99)
_THREE_DIGITS = Span(112, 899, 900, 998)
_DIGIT = Span(3, 8, 9, 9)


def added(a: int, b: int) -> list[str]:
    """Column addition of two non-negative integers, a line for each column and one for the sum."""
    if a + b < 20:
        return [f"{a} + {b} = {a + b}."]
    lines, carry = [], 0
    for index in range(max(len(str(a)), len(str(b)))):
        x, y = a // 10**index % 10, b // 10**index % 10
        total = x + y + carry
        carried = f" + {carry}" if carry else ""
        carry = total // 10
        told = f", write {total % 10} and carry 1" if carry else ""
        lines.append(f"{_PLACES[index].capitalize()}: {x} + {y}{carried} = {total}{told}.")
    return [*lines, f"So {a} + {b} = {a + b}."]


def subtracted(a: int, b: int) -> list[str]:
    """``a - b`` with ``a >= b >= 0``: first the tens and more, then the ones."""
    tens, ones = b - b % 10, b % 10
    if not tens or not ones:
        return [f"{a} - {b} = {a - b}."]
    return [f"{a} - {tens} = {a - tens}.", f"{a - tens} - {ones} = {a - b}.", f"So {a} - {b} = {a - b}."]


def multiplied(a: int, b: int) -> list[str]:
    """Partial products over the digits of ``b``."""
    parts = [int(d) * 10**i for i, d in enumerate(reversed(str(b))) if d != "0"][::-1]
    if len(parts) < 2:
        return [f"{a} * {b} = {a * b}."]
    lines, total = [f"{b} = {' + '.join(map(str, parts))}."], 0
    for part in parts:
        total += a * part
        lines.append(f"{a} * {part} = {a * part}, which makes {total} so far.")
    return [*lines, f"So {a} * {b} = {a * b}."]


def _problem(expression: str, value: int, steps: list[str]) -> Problem:
    spoken = expression.replace("*", "times").replace("+", "plus").replace("-", "minus")
    return Problem(
        phrasings=(
            f"What is {expression}?",
            f"Compute {expression}.",
            f"Calculate the value of {expression}.",
            f"Work out {expression}, please.",
            f"How much is {spoken}?",
        ),
        held_out=(f"If you evaluate {expression}, which number do you get?", f"Find the value of {spoken}."),
        steps=tuple(steps),
        answer=str(value),
        kind=AnswerKind.NUMBER,
        practice=(
            f"{expression} = ?",
            f"I need the result of {expression}.",
            f"Please do this sum: {expression}.",
            f"Can you tell me what {spoken} makes?",
            f"What does {spoken} come to?",
            f"Someone types {expression} into a calculator. What does it show?",
            f"The exercise is {spoken}. What comes out?",
        ),
    )


def _pair(rng: Random, span: Span, test_range: bool) -> Problem:
    a, b = span.draw(rng, test_range), span.draw(rng, test_range)
    if rng.random() < 0.5:
        return _problem(f"{a} + {b}", a + b, added(a, b))
    a, b = max(a, b), min(a, b)
    return _problem(f"{a} - {b}", a - b, subtracted(a, b))


def _product(rng: Random, left: Span, right: Span, test_range: bool) -> Problem:
    a, b = left.draw(rng, test_range), right.draw(rng, test_range)
    return _problem(f"{a} * {b}", a * b, multiplied(a, b))


def _mixed(rng: Random, test_range: bool) -> Problem:
    a, b = _THREE_DIGITS.draw(rng, test_range), _TWO_DIGITS.draw(rng, test_range)
    c, d = _TWO_DIGITS.draw(rng, test_range), _DIGIT.draw(rng, test_range)
    plus = rng.random() < 0.5
    first, second = a * b, c * d
    steps = ["Multiplication comes first.", *multiplied(a, b), *multiplied(c, d)]
    steps += added(first, second) if plus else subtracted(first, second)
    return _problem(f"{a} * {b} {'+' if plus else '-'} {c} * {d}", first + second if plus else first - second, steps)


def draw(level: int, rng: Random, test_range: bool) -> Problem:
    """Level 1: small numbers. 2: two digits. 3: three digits, or two by two digits. 4: two products combined."""
    if level == 1:
        return _pair(rng, _SMALL, test_range)
    if level == 4:
        return _mixed(rng, test_range)
    pair, left, right = (_TWO_DIGITS, _TWO_DIGITS, _DIGIT) if level == 2 else (_THREE_DIGITS, _TWO_DIGITS, _TWO_DIGITS)
    return _pair(rng, pair, test_range) if rng.random() < 0.6 else _product(rng, left, right, test_range)


FAMILY = Family("arithmetic", draw)
