"""What ``benchmarks.peers`` asks: recorded conversations of several tenants, the same for every gateway.

Each tenant has a system prompt of its own, with which all its conversations begin; a later turn carries all earlier
ones and their recorded answers. Conversations begin by a Poisson process that has gone on for long before the load
does, so that first and later turns come at their steady rates from the start; a burst of first turns comes in the
middle.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from envs.engines import tokenizer

Message = Mapping[str, str]
_WORDS: Final[Sequence[str]] = """
the of and to in for with that this from have will your about their which when there more some other into only
than could time over most made where much before right mean same great back think form every near last tell does
city tree cross farm hard start story press night real life stop food state never light group music river book
carry began idea fish north once base hear horse watch color face wood main open seem next white walk ease paper
often until mile feet care second plain girl usual young ready above ever list though feel talk bird soon body
family direct pose leave song measure door product black short class wind question happen complete ship area
half rock order fire south problem piece told knew pass since whole king space heard best hour better true
during five
""".split()  # noqa: SIM905
_LEAST_SENTENCE, _MOST_SENTENCE = 8, 16
_HEAVY_SHARE: Final = 0.5
_SPREAD: Final = (0.67, 1.33)
"""Of the lengths of system prompts, around their mean."""
_SHARE_OF_CONTEXT: Final = 0.9
"""Tokens are counted without the model's own tokenizer; so much of what there is for the prompt is used."""


class WorkloadError(ValueError):
    """The workload cannot be made, or is none: what is wrong, and what would be right."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and how its answer is recorded: its text, and how many tokens it had."""

    text: str
    answer: str
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, asked ``at`` so many seconds after the load begins; before it (below 0) it only stands in what later
    turns carry."""

    at: float
    question: Question


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation."""

    name: str
    tenant: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the load is like. ``rate`` is requests/s without the burst, ``think_s`` the mean time between two turns."""

    name: str
    rate: float
    seconds: float
    burst: int
    tenants: int = 6
    turns: int = 4
    think_s: float = 6.0
    system_words: int = 1500
    max_tokens: int = 2048
    context: int = 8192
    scale: float = 1.0
    seed: int = 0

    def check(self) -> None:
        """Raises WorkloadError."""
        if self.tenants < 2:
            raise WorkloadError(f"one tenant is heavy, the others are light: 2 or more, not {self.tenants}")
        if min(self.rate, self.seconds, self.turns, self.think_s, self.scale) <= 0 or self.burst < 0:
            raise WorkloadError("rate, seconds, turns, think time and scale must be above 0, and the burst not below")
        if self.room < 2 * self.system_words:
            raise WorkloadError(
                f"{self.context} tokens leave {max(self.room, 0):.0f} for prompts beside {self.max_tokens} for answers,"
                f" too few for system prompts of {self.system_words}; give a smaller --system-words or --max-tokens"
            )

    @property
    def room(self) -> float:
        """Tokens that a prompt may have."""
        return _SHARE_OF_CONTEXT * (self.context - self.max_tokens)


@dataclass(frozen=True, slots=True)
class Workload:
    """All that is asked. ``systems`` has each tenant's system prompt; the first tenant is the heavy one."""

    shape: Shape
    source: str
    """Whose prompts and lengths these are."""
    systems: Mapping[str, str]
    sessions: tuple[Session, ...]

    @property
    def requests(self) -> int:
        """How many are asked."""
        return sum(turn.at >= 0 for session in self.sessions for turn in session.turns)

    def messages(self, session: Session, turn: int, salt: str = "") -> list[Message]:
        """The chat of one turn. ``salt`` stands before all else: runs of different salts share no prefix."""
        said: list[Message] = [{"role": "system", "content": f"[{salt}] {self.systems[session.tenant]}"}]
        for one in session.turns[:turn]:
            said.append({"role": "user", "content": one.question.text})
            said.append({"role": "assistant", "content": one.question.answer})
        return [*said, {"role": "user", "content": session.turns[turn].question.text}]

    def write(self, path: Path) -> None:
        """As gzipped JSON. What is asked several times is written once."""
        questions = list(dict.fromkeys(turn.question for session in self.sessions for turn in session.turns))
        numbers = {question: number for number, question in enumerate(questions)}
        document = {
            "shape": asdict(self.shape),
            "source": self.source,
            "systems": dict(self.systems),
            "questions": [asdict(question) for question in questions],
            "sessions": [
                [session.name, session.tenant, [[turn.at, numbers[turn.question]] for turn in session.turns]]
                for session in self.sessions
            ],
        }
        path.write_bytes(gzip.compress(json.dumps(document).encode(), mtime=0))


def read(path: Path) -> Workload:
    """What :meth:`Workload.write` wrote. Raises WorkloadError."""
    try:
        document: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        questions = [Question(**each) for each in document["questions"]]
        sessions = tuple(
            Session(name, tenant, tuple(Turn(at, questions[number]) for at, number in turns))
            for name, tenant, turns in document["sessions"]
        )
        return Workload(Shape(**document["shape"]), document["source"], document["systems"], sessions)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise WorkloadError(f"{path} is not a load: {error}; `load` makes one") from error


def make(shape: Shape, questions: Sequence[Question], source: str) -> Workload:
    """Draw it: the same shape and questions, the same workload.

    Raises:
        WorkloadError: the shape is impossible, or no question fits into the context.
    """
    shape.check()
    rng = np.random.default_rng(shape.seed)
    tenants = ["heavy", *(f"light-{number}" for number in range(1, shape.tenants))]
    light = (1.0 - _HEAVY_SHARE) / (shape.tenants - 1)
    shares = [_HEAVY_SHARE, *[light] * (shape.tenants - 1)]
    least, most = (round(shape.system_words * edge) for edge in _SPREAD)
    sizes = rng.integers(least, most, shape.tenants, endpoint=True)
    systems = {
        tenant: f"You are the assistant of {tenant}. {prose(int(size), rng)}"
        for tenant, size in zip(tenants, sizes, strict=True)
    }
    costs = [_tokens(question) for question in questions]
    drawn = []
    for number, (start, count) in enumerate(_starts(shape, rng)):
        tenant = str(rng.choice(tenants, p=shares))
        room = shape.room - tokenizer.count(systems[tenant])
        at = start
        turns: list[Turn] = []
        for which in rng.permutation(len(questions)):
            if len(turns) == count:
                break
            if room < costs[which]:
                continue
            room -= costs[which]
            turns.append(Turn(at, questions[which]))
            at += float(rng.exponential(shape.think_s))
        asked = tuple(turn for turn in turns if turn.at < shape.seconds)
        if asked and asked[-1].at >= 0:
            drawn.append(Session(f"s{number:05d}", tenant, asked))
    if not drawn:
        raise WorkloadError("nothing would be asked: no question fits into the context, or the load is too short")
    return Workload(shape, source, systems, tuple(drawn))


def _starts(shape: Shape, rng: np.random.Generator) -> Iterator[tuple[float, int]]:
    """When each session begins, and how many turns it has. Of the burst, all within a second, one each."""
    mean_turns = (1 + shape.turns) / 2
    before = 3.0 * shape.turns * shape.think_s
    expected = shape.rate / mean_turns * (before + shape.seconds)
    for at in np.sort(rng.uniform(-before, shape.seconds, rng.poisson(expected))):
        yield float(at), int(rng.integers(1, shape.turns, endpoint=True))
    for at in np.sort(rng.uniform(0.0, 1.0, shape.burst)):
        yield shape.seconds / 2 + float(at), 1


def _tokens(question: Question) -> int:
    return tokenizer.count(question.text) + question.output_tokens + 2 * tokenizer.PER_MESSAGE


def prose(words: int, rng: np.random.Generator) -> str:
    """So many English words, in sentences that mean nothing; a word is about a token."""
    drawn = [_WORDS[i] for i in rng.integers(0, len(_WORDS), words)]
    sentences, at = [], 0
    while at < words:
        size = int(rng.integers(_LEAST_SENTENCE, _MOST_SENTENCE))
        sentences.append(" ".join(drawn[at : at + size]).capitalize() + ".")
        at += size
    return " ".join(sentences)


def arena_questions(
    data: Path, held_out: Sequence[str], *, answers_of: str | None, scale: float, max_tokens: int, seed: int
) -> tuple[list[Question], str]:
    """The arena prompts of the groups ``held_out`` with the recorded lengths of one model's answers, and whose they
    are. By default the model with most answers of all. Lengths are multiplied by ``scale`` and kept below
    ``max_tokens``; the texts of answers, which are not recorded, are prose of as many words.

    Raises:
        LengthDataError: the files are missing or have other columns.
        WorkloadError: no such model, or it answered none of these prompts.
    """
    from predictors.length.data import read_arena

    table = read_arena(data)
    answered = ~np.isnan(table.tokens)
    if answers_of is not None and answers_of not in table.models:
        raise WorkloadError(f"there are no answers of {answers_of!r}; there are of {', '.join(table.models)}")
    model = int(answered.sum(axis=0).argmax()) if answers_of is None else table.models.index(answers_of)
    known, rng = frozenset(held_out), np.random.default_rng(seed)
    found = []
    for row in np.flatnonzero(answered[:, model]):
        if table.groups[row] in known:
            tokens = int(np.clip(round(table.tokens[row, model] * scale), 1, max_tokens - 1))
            found.append(Question(table.prompts[row].text, prose(tokens, rng), tokens))
    if not found:
        raise WorkloadError(f"{table.models[model]} answered none of the {len(known)} prompts that were held out")
    return found, f"{len(found)} arena prompts that length/fast was not fitted on, lengths of {table.models[model]}"


def task_questions(count: int, seed: int) -> tuple[list[Question], str]:
    """Tasks of the verifiable suite's test split, with good answers; for models that answer them by themselves."""
    from envs.tasks import Split, generate

    tasks = generate(seed, count, Split.TEST)
    questions = [Question(task.prompt, task.worked, max(1, tokenizer.count(task.worked))) for task in tasks]
    return questions, f"{count} tasks of the test split, seed {seed}"
