"""Finding a fact in a given text, directly or by way of another fact."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from envs.families.problem import AnswerKind, Family, Problem, Span
from envs.families.vocabulary import CITIES, JOBS, NAMES

_ROWS = {1: 3, 2: 6, 3: 7, 4: 10}
_AGES = Span(18, 69, 70, 95)


@dataclass(frozen=True, slots=True)
class _Person:
    name: str
    age: int
    job: str
    city: str

    def line(self, style: int) -> str:
        if style == 0:
            return f"{self.name} is {self.age} years old, works as a {self.job} and lives in {self.city}."
        if style == 1:
            return f"{self.name}: age {self.age}, {self.job}, {self.city}."
        return f"In {self.city} lives {self.name}, a {self.job} aged {self.age}."


def _people(rng: Random, count: int, test_range: bool) -> list[_Person]:
    names, jobs = rng.sample(NAMES, count), rng.sample(JOBS, count)
    cities = rng.sample(CITIES, count)
    ages: list[int] = []
    while len(ages) < count:
        if (age := _AGES.draw(rng, test_range)) not in ages:
            ages.append(age)
    return [_Person(n, a, j, c) for n, a, j, c in zip(names, ages, jobs, cities, strict=True)]


def _problem(text: str, question: str, steps: list[str], answer: str, options: tuple[str, ...]) -> Problem:
    return Problem(
        phrasings=(
            f"{text}\n{question}",
            f"Read this text and answer the question.\n{text}\nQuestion: {question}",
            f"{question} Use this text: {text}",
        ),
        held_out=(f"Given the facts below, say: {question}\nFacts: {text}",),
        steps=tuple(steps),
        answer=answer,
        kind=AnswerKind.CHOICE if options else AnswerKind.NUMBER,
        options=options,
        practice=(
            f"Text: {text}\n{question}",
            f"Here is some information. {text} Now tell me: {question}",
            f"{question}\n{text}",
            f"I read this: {text} My question: {question}",
            f"Look at these notes and answer. Notes: {text} {question}",
            f"Find this out: {question}\nSource: {text}",
        ),
    )


def _direct(rng: Random, people: list[_Person], text: str) -> Problem:
    one = rng.choice(people)
    asked = rng.randrange(4)
    steps = [f"The text says about {one.name}: age {one.age}, {one.job}, {one.city}."]
    if asked == 0:
        return _problem(text, f"How old is {one.name}?", steps, str(one.age), ())
    if asked == 1:
        return _problem(text, f"In which city does {one.name} live?", steps, one.city, _all(people, "city"))
    if asked == 2:
        return _problem(text, f"What is the job of {one.name}?", steps, one.job, _all(people, "job"))
    return _problem(text, f"Who lives in {one.city}?", steps, one.name, _all(people, "name"))


def _all(people: list[_Person], field: str) -> tuple[str, ...]:
    return tuple(str(getattr(one, field)) for one in people)


def _two_hops(rng: Random, people: list[_Person], text: str) -> Problem:
    """People call each other in a ring; the question follows the calls."""
    ring = rng.sample(people, len(people))
    calls = [f"{a.name} calls {b.name}." for a, b in zip(ring, [*ring[1:], ring[0]], strict=True)]
    told = f"{text} {' '.join(rng.sample(calls, len(calls)))}"
    first, second, third = ring[0], ring[1], ring[2]
    steps = [f"{first.name} calls {second.name}.", f"{second.name} calls {third.name}."]
    if rng.random() < 0.5:
        steps.append(f"{third.name} lives in {third.city}.")
        question = f"{first.name} calls somebody, who calls another person. In which city does that person live?"
        return _problem(told, question, steps, third.city, _all(people, "city"))
    steps.append(f"{third.name} works as a {third.job}.")
    question = f"{first.name} calls somebody, who calls another person. What is the job of that person?"
    return _problem(told, question, steps, third.job, _all(people, "job"))


def _filtered(rng: Random, people: list[_Person], text: str) -> Problem:
    """The oldest or youngest among those whose age meets a bound."""
    bound = sorted(one.age for one in people)[rng.randrange(2, len(people) - 2)]
    oldest = rng.random() < 0.5
    kept = [one for one in people if (one.age <= bound if oldest else one.age >= bound)]
    steps = [f"{one.name} is {one.age}: {'counts' if one in kept else 'does not count'}." for one in people]
    best = kept[0]
    for one in kept[1:]:
        better = one.age > best.age if oldest else one.age < best.age
        best = one if better else best
        steps.append(f"Next {one.name} with {one.age}; so far {best.name} with {best.age}.")
    steps.append(f"{best.name} lives in {best.city}.")
    who, limit = ("oldest", f"at most {bound}") if oldest else ("youngest", f"at least {bound}")
    question = f"Among the people whose age is {limit}, in which city does the {who} one live?"
    return _problem(text, question, steps, best.city, _all(people, "city"))


def draw(level: int, rng: Random, test_range: bool) -> Problem:
    """Level 1: a fact among three people. 2: among six. 3: two hops. 4: a filter and a comparison over ten."""
    people = _people(rng, _ROWS[level], test_range)
    style = rng.randrange(3)
    text = " ".join(one.line(style) for one in people)
    if level == 3:
        return _two_hops(rng, people, text)
    return _filtered(rng, people, text) if level == 4 else _direct(rng, people, text)


FAMILY = Family("lookup", draw)
