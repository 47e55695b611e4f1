"""The verifiable task suite: generated prompts whose answers can be checked, in an unlimited, seeded stream.

Nine families in four levels. A wording is a phrasing of the question together with an instruction that asks for the
bare answer, a sentence, the way to it, or the way and a check: so the length of a good answer depends on the prompt.

The hash of a problem's canonical question decides its split, so that train, validation and test never share one,
whatever the seed and the wording. Some phrasings, instructions and number ranges occur in the test split only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from hashlib import sha256
from itertools import count
from random import Random
from typing import TypeVar

from envs.families import FAMILIES, LEVELS, AnswerKind, Family, Problem
from envs.families.dates import written
from envs.families.measures import MEASURES
from envs.grading import Expected, is_right

_T = TypeVar("_T")

FAMILY_NAMES: tuple[str, ...] = tuple(family.name for family in FAMILIES)
_MOST_REPEATS = 500
"""So many repeated prompts in a row mean that a restriction leaves no more distinct ones."""
_TEST_ONLY = 0.3
"""Share of test prompts that have a number range, a phrasing, or an instruction kept for test (each by itself)."""


class Split(StrEnum):
    """Which part of the suite a problem belongs to: 80, 10 and 10 % of all problems."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Style(StrEnum):
    """How much of the work the prompt asks to see."""

    BRIEF = "brief"
    SENTENCE = "sentence"
    STEPS = "steps"
    CHECKED = "checked"


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt, a good answer in full (``worked``), and the answer alone in canonical form (``answer``)."""

    family: str
    level: int
    wording: str
    """Phrasing, instruction and style, for example ``0/7/steps``; a ``t`` marks what is kept for test."""
    prompt: str
    worked: str
    answer: str
    kind: AnswerKind
    content: str
    """Hash of the problem, the same for all its wordings."""
    unit: str = ""
    options: tuple[str, ...] = ()

    @property
    def split(self) -> Split:
        """Decided by the content alone."""
        return split_of(self.content)

    @property
    def style(self) -> Style:
        """How much of the work the prompt asks to see."""
        return Style(self.wording.rsplit("/", 1)[1])

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as a chat."""
        return [{"role": "user", "content": self.prompt}]


@dataclass(frozen=True, slots=True)
class _Instruction:
    text: str
    style: Style
    first: bool = False
    """Whether it comes before the question."""


_INSTRUCTIONS = (
    _Instruction("Give only the answer.", Style.BRIEF),
    _Instruction("Reply with the result and nothing else.", Style.BRIEF),
    _Instruction("Just the answer, please:", Style.BRIEF, first=True),
    _Instruction("", Style.SENTENCE),
    _Instruction("Answer in one sentence.", Style.SENTENCE),
    _Instruction("Here is a question for you.", Style.SENTENCE, first=True),
    _Instruction("Show your work.", Style.STEPS),
    _Instruction("Explain step by step.", Style.STEPS),
    _Instruction("Work through the following and write down every step.", Style.STEPS, first=True),
    _Instruction("Show every step, then check the result.", Style.CHECKED),
    _Instruction("Solve this carefully, in detail, and verify your answer at the end.", Style.CHECKED, first=True),
)
_TEST_INSTRUCTIONS = (
    _Instruction("No explanation, only the final value.", Style.BRIEF),
    _Instruction("Walk me through it.", Style.STEPS),
    _Instruction("I want to see the reasoning and a second look at it.", Style.CHECKED),
)


def content_hash(text: str) -> str:
    """Identity of a text up to white space: 16 hexadecimal digits."""
    return sha256(" ".join(text.split()).encode()).hexdigest()[:16]


def split_of(content: str) -> Split:
    """The split that a content hash falls into."""
    share = int(content[:8], 16) / 2**32
    if share < 0.8:
        return Split.TRAIN
    return Split.VALIDATION if share < 0.9 else Split.TEST


def task_at(
    seed: int,
    index: int,
    split: Split | str = Split.TRAIN,
    families: Sequence[str] | None = None,
    levels: Sequence[int] = LEVELS,
) -> Task:
    """The task at a place of the stream; a pure function of its arguments.

    Raises:
        ValueError: an unknown family or level.
    """
    rng = Random(f"headway-tasks/{seed}/{Split(split)}/{index}")
    family, level = rng.choice(_chosen(families)), rng.choice(_checked(levels))
    return _draw(family, level, Split(split), rng)


def stream(
    seed: int,
    split: Split | str = Split.TRAIN,
    families: Sequence[str] | None = None,
    levels: Sequence[int] = LEVELS,
) -> Iterator[Task]:
    """Tasks without end. A prompt of a small family may come again; :func:`generate` leaves repeats out."""
    return (task_at(seed, index, split, families, levels) for index in count())


def generate(
    seed: int,
    n: int,
    split: Split | str = Split.TRAIN,
    families: Sequence[str] | None = None,
    levels: Sequence[int] = LEVELS,
) -> list[Task]:
    """The first ``n`` tasks of the stream that have distinct prompts.

    Raises:
        ValueError: so many distinct prompts cannot be found.
    """
    tasks: dict[str, Task] = {}
    repeats = 0
    source = stream(seed, split, families, levels)
    while len(tasks) < n:
        task = next(source)
        repeats = repeats + 1 if task.prompt in tasks else 0
        tasks.setdefault(task.prompt, task)
        if repeats > _MOST_REPEATS:
            raise ValueError(f"only {len(tasks)} distinct prompts of {families} at levels {levels}, not {n}")
    return list(tasks.values())


def grade(task: Task, text: str) -> bool:
    """Whether a model's answer is right. Form is forgiven (case, punctuation, units, number formats, lead-ins)."""
    return is_right(Expected(task.answer, task.kind, task.unit, task.options), text)


def _chosen(families: Sequence[str] | None) -> list[Family]:
    names = FAMILY_NAMES if families is None else tuple(families)
    unknown = [name for name in names if name not in FAMILY_NAMES]
    if unknown or not names:
        raise ValueError(f"unknown task family {unknown or names}; there are {', '.join(FAMILY_NAMES)}")
    return [family for family in FAMILIES if family.name in names]


def _checked(levels: Sequence[int]) -> Sequence[int]:
    if not levels or any(level not in LEVELS for level in levels):
        raise ValueError(f"levels are {LEVELS}, not {tuple(levels)}")
    return levels


def _draw(family: Family, level: int, split: Split, rng: Random) -> Task:
    while True:
        test_range = split is Split.TEST and rng.random() < _TEST_ONLY
        problem = family.draw(level, rng, test_range)
        content = content_hash(problem.phrasings[0])
        if split_of(content) is split:
            return _worded(family, level, problem, content, split, rng)


def _worded(family: Family, level: int, problem: Problem, content: str, split: Split, rng: Random) -> Task:
    phrasing, question = _picked(problem.phrasings, problem.held_out, split, rng)
    order, instruction = _picked(_INSTRUCTIONS, _TEST_INSTRUCTIONS, split, rng)
    return Task(
        family=family.name,
        level=level,
        wording=f"{phrasing}/{order}/{instruction.style}",
        prompt=_prompt(question, instruction),
        worked=_answered(problem, instruction.style, rng),
        answer=problem.answer,
        kind=problem.kind,
        content=content,
        unit=problem.unit,
        options=problem.options,
    )


def _picked(usual: Sequence[_T], held_out: Sequence[_T], split: Split, rng: Random) -> tuple[str, _T]:
    """One of the usual choices or, in the test split only, of those kept for it; with its label."""
    held = split is Split.TEST and rng.random() < _TEST_ONLY
    choices = held_out if held else usual
    place = rng.randrange(len(choices))
    return f"{'t' * held}{place}", choices[place]


def _prompt(question: str, instruction: _Instruction) -> str:
    parts = (instruction.text, question) if instruction.first else (question, instruction.text)
    return ("\n" if "\n" in question else " ").join(part for part in parts if part)


def shown(kind: AnswerKind, answer: str, unit: str = "") -> str:
    """A canonical answer as people write it."""
    if kind is AnswerKind.DATE:
        return written(date.fromisoformat(answer))
    if not unit:
        return answer
    return f"{answer} {MEASURES[unit].names[0] if answer == '1' else MEASURES[unit].plural}"


def _answered(problem: Problem, style: Style, rng: Random) -> str:
    answer = shown(problem.kind, problem.answer, problem.unit)
    if style is Style.BRIEF:
        return answer
    if style is Style.SENTENCE:
        return rng.choice((f"The answer is {answer}.", f"{problem.steps[-1]} The answer is {answer}."))
    lines = [rng.choice(("Let us go step by step.", "Here are the steps.")), *problem.steps]
    if style is Style.CHECKED:
        lines += ["Now the check, one step after the other.", *(f"Again: {step}" for step in problem.steps)]
        lines.append("The check agrees.")
    return "\n".join([*lines, f"Answer: {answer}"])
