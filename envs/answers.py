"""Answers for simulated workers: a task's worked answer, right or wrong by a skill table, and filler for other prompts.

Everything is decided by hashes, so that the same model gives the same answer to the same prompt, in any process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import ceil, exp
from random import Random

from envs.engines.tokenizer import pieces
from envs.slips import perturb
from envs.tasks import Split, Style, Task, content_hash, generate

_FILLER_MEDIAN = 120.0
"""Median length in tokens of the answer to an unknown prompt, at verbosity 1."""
_FILLER_SIGMA = 0.8
"""Standard deviation of the logarithm of that length."""
_MOST_FILLER = 4096
_FILLER_WORDS = (
    "the", "line", "runs", "from", "one", "end", "to", "other", "and", "every", "train", "keeps", "its", "distance",
    "while", "signal", "at", "next", "station", "shows", "that", "there", "is", "room", "ahead",
)  # fmt: skip


def token_texts(text: str) -> list[str]:
    """A text in the simulated workers' tokens; joined they give the text again."""
    return pieces(text)


class TaskBook:
    """Tasks by the text of their prompts, to recognise them when they come in over HTTP."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._by_prompt = {content_hash(task.prompt): task for task in tasks}

    @classmethod
    def generated(cls, seed: int, count: int, split: Split | str = Split.TEST) -> TaskBook:
        """The first ``count`` distinct tasks of a stream (see :func:`envs.tasks.generate`)."""
        return cls(generate(seed, count, split))

    def __len__(self) -> int:
        return len(self._by_prompt)

    def find(self, prompt: str) -> Task | None:
        """The task with this prompt, whatever its white space; ``None`` if it is not in the book."""
        return self._by_prompt.get(content_hash(prompt))


@dataclass(frozen=True)
class TaskAnswerer:
    """Answers as a model of a given skill would. ``skill`` maps a family to its share of right answers by level.

    ``verbosity`` scales the length of worked answers: below 1 steps are left out, above 1 they are gone over again.
    A family missing from ``skill`` is always answered wrongly.
    """

    book: TaskBook
    model: str
    skill: Mapping[str, Sequence[float]] = field(default_factory=dict)
    verbosity: float = 1.0
    seed: int = 0

    def answer(self, prompt: str, max_tokens: int | None = None) -> list[str]:
        """The answer to a prompt (of a chat: its last message) as token texts, cut after ``max_tokens``."""
        task = self.book.find(prompt)
        return (self._filler(prompt) if task is None else token_texts(self.answer_to(task)))[:max_tokens]

    def answer_to(self, task: Task) -> str:
        """The whole answer to a task."""
        rng = Random(f"{self.seed}/{self.model}/{task.content}/slip")
        worked = task.worked if self.is_right(task) else perturb(task, rng)
        return worked if task.style in (Style.BRIEF, Style.SENTENCE) else at_length(worked, self.verbosity)

    def is_right(self, task: Task) -> bool:
        """Whether this model answers this task rightly: a hash below its skill."""
        return uniform(self.seed, self.model, task.content) < self.chance(task)

    def chance(self, task: Task) -> float:
        """The skill table's entry for the task's family and level."""
        levels = self.skill.get(task.family, ())
        return float(levels[task.level - 1]) if task.level <= len(levels) else 0.0

    def _filler(self, prompt: str) -> list[str]:
        rng = Random(f"{self.seed}/{self.model}/{content_hash(prompt)}/filler")
        length = _FILLER_MEDIAN * self.verbosity * exp(_FILLER_SIGMA * rng.gauss(0.0, 1.0))
        wanted = min(_MOST_FILLER, max(1, round(length)))
        return token_texts(" ".join(rng.choices(_FILLER_WORDS, k=wanted)).capitalize())[:wanted]


def uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    return int.from_bytes(sha256("/".join(map(str, parts)).encode()).digest()[:7], "big") / 2**56


def at_length(worked: str, verbosity: float) -> str:
    """A worked answer with steps left out, or gone over again, to ``verbosity`` times its length.

    The last line, which states the answer, always stays.
    """
    *steps, last = worked.split("\n")
    if not steps or verbosity == 1.0:
        return worked
    if verbosity < 1.0:
        return "\n".join([*steps[len(steps) - ceil(verbosity * len(steps)) :], last])
    wanted = verbosity * len(token_texts(worked))
    length, extra = len(token_texts(worked)), 0
    lines = list(steps)
    while length < wanted:
        lines.append(f"Once more: {steps[extra % len(steps)]}")
        length += len(token_texts(lines[-1]))
        extra += 1
    return "\n".join([*lines, last])
