"""The verifiable task suite: generated prompts whose answers can be checked, in an unlimited, seeded stream.

Nine families in four levels. A wording is a phrasing of the question together with an instruction that asks for the
bare answer, a sentence, the way to it, or the way and a check, or that leaves it open, and then a good answer is as
detailed as the problem is hard: so the length of an answer depends on the instruction and on the problem.

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


_FEW_STEPS = 2
"""A problem of so few steps is answered with the last of them, unless the prompt asks for all."""


class Split(StrEnum):
    """Which part of the suite a problem belongs to: 80, 10 and 10 % of all problems."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Style(StrEnum):
    """How much of the work the prompt asks to see."""

    BRIEF = "brief"
    SENTENCE = "sentence"
    OPEN = "open"
    """It does not say: the work is shown where there is some."""
    STEPS = "steps"
    CHECKED = "checked"


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt, a good answer in full (``worked``), and the answer alone in canonical form (``answer``)."""

    family: str
    level: int
    wording: str
    """Phrasing, instruction and style, for example ``0/7/steps``; ``t`` marks what is kept for test, ``p`` what is for
    practice."""
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
    _Instruction("Answer in one sentence.", Style.SENTENCE),
    _Instruction("", Style.OPEN),
    _Instruction("Please help me with this.", Style.OPEN),
    _Instruction("Here is a question for you.", Style.OPEN, first=True),
    _Instruction("Can you solve this for me?", Style.OPEN, first=True),
    _Instruction("Show your work.", Style.STEPS),
    _Instruction("Explain step by step.", Style.STEPS),
    _Instruction("Please tell me how you get there.", Style.STEPS),
    _Instruction("Work through the following and write down every step.", Style.STEPS, first=True),
    _Instruction("Show every step, then check the result.", Style.CHECKED),
    _Instruction("Solve this carefully, in detail, and verify your answer at the end.", Style.CHECKED, first=True),
)
_PRACTICE_INSTRUCTIONS = (
    _Instruction("Only the answer, no words around it.", Style.BRIEF),
    _Instruction("Keep it to the bare result.", Style.BRIEF),
    _Instruction("Do not explain.", Style.BRIEF),
    _Instruction("I just want the result:", Style.BRIEF, first=True),
    _Instruction("One sentence will do.", Style.SENTENCE),
    _Instruction("Say it in a single sentence:", Style.SENTENCE, first=True),
    _Instruction("I would like to know this.", Style.OPEN),
    _Instruction("Thanks!", Style.OPEN),
    _Instruction("My teacher asked me this.", Style.OPEN, first=True),
    _Instruction("Have a look at this:", Style.OPEN, first=True),
    _Instruction("Go through it step by step.", Style.STEPS),
    _Instruction("Take me along, one step after the other.", Style.STEPS),
    _Instruction("Give the whole working.", Style.STEPS),
    _Instruction("Write down how it is done:", Style.STEPS, first=True),
    _Instruction("Do it step by step, and test the result afterwards.", Style.CHECKED),
    _Instruction("Give your thoughts, and go over them again.", Style.CHECKED),
    _Instruction("First the steps, then a check, please:", Style.CHECKED, first=True),
)
"""Never in the suite itself: further instructions for those who train on it."""
_TEST_INSTRUCTIONS = (
    _Instruction("No explanation, only the final value.", Style.BRIEF),
    _Instruction("I could use some help here.", Style.OPEN),
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
    practice: float = 0.0,
) -> Task:
    """The task at a place of the stream; a pure function of its arguments.

    ``practice`` is the share of phrasings, and of instructions, taken from more than the suite itself uses: variety for
    those who train on it. The problems stay the same.

    Raises:
        ValueError: an unknown family or level, or practice outside the train split.
    """
    rng = Random(f"headway-tasks/{seed}/{Split(split)}/{index}")
    if practice and Split(split) is not Split.TRAIN:
        raise ValueError(f"practice wordings are for the train split, not for {split}")
    family, level = rng.choice(_chosen(families)), rng.choice(_checked(levels))
    return _draw(family, level, Split(split), rng, practice)


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


def _draw(family: Family, level: int, split: Split, rng: Random, practice: float) -> Task:
    while True:
        test_range = split is Split.TEST and rng.random() < _TEST_ONLY
        problem = family.draw(level, rng, test_range)
        content = content_hash(problem.phrasings[0])
        if split_of(content) is split:
            return _worded(family, level, problem, content, split, rng, practice)


def _worded(
    family: Family, level: int, problem: Problem, content: str, split: Split, rng: Random, practice: float
) -> Task:
    test = split is Split.TEST
    share, mark = (_TEST_ONLY, "t") if test else (practice, "p")
    rare = problem.held_out if test else problem.practice
    phrasing, question = _picked(problem.phrasings, rare, share, mark, rng)
    rare_instructions = _TEST_INSTRUCTIONS if test else _PRACTICE_INSTRUCTIONS
    order, instruction = _picked(_INSTRUCTIONS, rare_instructions, share, mark, rng)
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


def _picked(usual: Sequence[_T], rare: Sequence[_T], share: float, mark: str, rng: Random) -> tuple[str, _T]:
    """One of the usual choices or, in a share of cases, of the rare ones; with its label."""
    taken = share > 0.0 and rng.random() < share
    choices = rare if taken else usual
    place = rng.randrange(len(choices))
    return f"{mark * taken}{place}", choices[place]


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
        return f"The answer is {answer}."
    if style is Style.OPEN:
        few = len(problem.steps) <= _FEW_STEPS
        return (
            f"{problem.steps[-1]} The answer is {answer}." if few else "\n".join((*problem.steps, f"Answer: {answer}"))
        )
    lines = [rng.choice(("Let us go step by step.", "Here are the steps.")), *problem.steps]
    if style is Style.CHECKED:
        lines += ["Now the check, one step after the other.", *(f"Again: {step}" for step in problem.steps)]
        lines.append("The check agrees.")
    return "\n".join([*lines, f"Answer: {answer}"])
