"""Days of the week and of the calendar."""

from __future__ import annotations

from calendar import isleap, monthrange
from datetime import date, timedelta
from random import Random

from envs.families.problem import AnswerKind, Family, Problem, Span

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_YEARS = Span(1990, 2030, 2031, 2045)
_FEW = Span(2, 6, 7, 12)
_DAYS = {1: Span(2, 12, 13, 16), 2: Span(3, 40, 41, 55), 3: Span(30, 160, 161, 220), 4: Span(60, 300, 301, 380)}


def written(day: date) -> str:
    """``5 March 2024``."""
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def _some_day(rng: Random, test_range: bool) -> date:
    return date(_YEARS.draw(rng, test_range), 1, 1) + timedelta(days=rng.randrange(365))


def _month_end(day: date) -> date:
    return day.replace(day=monthrange(day.year, day.month)[1])


def _weekday(rng: Random, test_range: bool) -> Problem:
    start, days = rng.randrange(7), _FEW.draw(rng, test_range)
    today, end = WEEKDAYS[start], WEEKDAYS[(start + days) % 7]
    steps = [f"{i} day{'s' * (i > 1)} after {today}: {WEEKDAYS[(start + i) % 7]}." for i in range(1, days + 1)]
    return Problem(
        phrasings=(
            f"Today is {today}. What day of the week will it be in {days} days?",
            f"If it is {today} now, which weekday comes {days} days later?",
        ),
        held_out=(f"A parcel sent on a {today} arrives {days} days later. On which weekday does it arrive?",),
        steps=tuple(steps),
        answer=end,
        kind=AnswerKind.CHOICE,
        options=WEEKDAYS,
        practice=(
            f"A shop opens on a {today} and closes {days} days later. Which weekday is that?",
            f"{days} days after a {today}: which day of the week is that?",
            f"We meet on {today}, and again after {days} days. What weekday is the second meeting?",
            f"Starting from {today}, count {days} days forward. Which weekday do you reach?",
            f"Which weekday is {days} days from {today}?",
            f"A film that starts on {today} runs for {days} days. On which weekday does the run end?",
        ),
    )


def _walk(start: date, days: int) -> list[str]:
    """From ``start``, month by month."""
    lines, day, left = [], start, days
    while left > (rest := (_month_end(day) - day).days):
        after = _month_end(day) + timedelta(days=1)
        left -= rest + 1
        lines.append(f"{rest + 1} days from {written(day)} to {written(after)}; {left} left.")
        day = after
    return [*lines, f"{left} days after {written(day)} is {written(day + timedelta(days=left))}."]


def _later(rng: Random, level: int, test_range: bool) -> Problem:
    start, days = _some_day(rng, test_range), _DAYS[level].draw(rng, test_range)
    end = start + timedelta(days=days)
    return Problem(
        phrasings=(
            f"What is the date {days} days after {written(start)}?",
            f"Which date comes {days} days after {written(start)}?",
            f"Add {days} days to {written(start)}. Which date is that?",
        ),
        held_out=(f"A loan made on {written(start)} is due {days} days later. What is the due date?",),
        steps=tuple(_walk(start, days)),
        answer=end.isoformat(),
        kind=AnswerKind.DATE,
        practice=(
            f"Starting on {written(start)}, count {days} days forward. Which date do you reach?",
            f"A letter is written on {written(start)} and answered {days} days later. When is it answered?",
            f"{days} days after {written(start)}: which date is that?",
            f"A plant is bought on {written(start)}. It flowers {days} days later. On which date?",
            f"The fair opens on {written(start)}. Give the date {days} days after that.",
            f"If a course starts on {written(start)} and the exam is {days} days later, when is the exam?",
        ),
    )


def _between(rng: Random, test_range: bool) -> Problem:
    start, days = _some_day(rng, test_range), _DAYS[3].draw(rng, test_range)
    end, day, total = start + timedelta(days=days), start, 0
    steps = []
    while (day.year, day.month) != (end.year, end.month):
        after = _month_end(day) + timedelta(days=1)
        part = (after - day).days
        total += part
        steps.append(f"From {written(day)} to {written(after)}: {part} days, {total} in all.")
        day = after
    steps.append(f"From {written(day)} to {written(end)}: {(end - day).days} days, {days} in all.")
    return Problem(
        phrasings=(
            f"How many days are there from {written(start)} to {written(end)}?",
            f"Count the days between {written(start)} and {written(end)} (the first day not included).",
        ),
        held_out=(f"A journey begins on {written(start)} and ends on {written(end)}. How many days later is that?",),
        steps=tuple(steps),
        answer=str(days),
        kind=AnswerKind.NUMBER,
        unit="day",
        practice=(
            f"How long is it, in days, from {written(start)} to {written(end)}?",
            f"A show opens on {written(start)} and closes on {written(end)}. How many days is that?",
            f"{written(start)} to {written(end)}: how many days?",
            f"From {written(start)} until {written(end)}, how many days pass?",
            f"A seed is planted on {written(start)} and sprouts on {written(end)}. After how many days?",
            f"Tell me the number of days between {written(start)} and {written(end)}.",
        ),
    )


def _weekday_of(rng: Random, test_range: bool) -> Problem:
    start, days = _some_day(rng, test_range), _DAYS[4].draw(rng, test_range)
    first, last = WEEKDAYS[start.weekday()], WEEKDAYS[(start + timedelta(days=days)).weekday()]
    end = start + timedelta(days=days)
    leap = "" if isleap(start.year) else "not "
    steps = [f"{start.year} is {leap}a leap year.", *_walk_total(start, end)]
    steps.append(f"{days} = 7 * {days // 7} + {days % 7}, so move on {days % 7} weekdays from {first}.")
    steps += [f"{first} + {i}: {WEEKDAYS[(start.weekday() + i) % 7]}." for i in range(1, days % 7 + 1)]
    return Problem(
        phrasings=(
            f"{written(start)} is a {first}. What day of the week is {written(end)}?",
            f"Given that {written(start)} falls on a {first}, on which weekday does {written(end)} fall?",
        ),
        held_out=(f"Someone born on {written(start)}, a {first}, celebrates on {written(end)}. Which weekday is it?",),
        steps=tuple(steps),
        answer=last,
        kind=AnswerKind.CHOICE,
        options=WEEKDAYS,
        practice=(
            f"If {written(start)} is a {first}, which weekday is {written(end)}?",
            f"{written(start)} was a {first}. Tell me the weekday of {written(end)}.",
            f"A meeting took place on {first}, {written(start)}. The next is on {written(end)}. What weekday is that?",
            f"We know that {written(start)} is a {first}. So on what day of the week does {written(end)} fall?",
            f"Which day of the week is {written(end)}, if {written(start)} is a {first}?",
        ),
    )


def _walk_total(start: date, end: date) -> list[str]:
    lines, day, total = [], start, 0
    while day < end:
        after = min(end, _month_end(day) + timedelta(days=1))
        total += (after - day).days
        lines.append(f"To {written(after)}: {(after - day).days} days, {total} in all.")
        day = after
    return lines


def draw(level: int, rng: Random, test_range: bool) -> Problem:
    """Level 1: some days on. 2: some weeks on. 3: days between dates. 4: many months on, also as a weekday."""
    if level == 1:
        return _weekday(rng, test_range) if rng.random() < 0.3 else _later(rng, 1, test_range)
    if level == 2:
        return _later(rng, 2, test_range)
    if level == 3:
        return _between(rng, test_range)
    return _weekday_of(rng, test_range) if rng.random() < 0.6 else _later(rng, 4, test_range)


FAMILY = Family("dates", draw)
