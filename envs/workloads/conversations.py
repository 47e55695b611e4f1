"""Conversations: turns whose prompts grow, so that each begins with all that was said before.

A turn's prompt is the tenant's system prompt, every earlier question and answer, and a new question. Its chain of block
hashes says so: a later turn's chain starts with an earlier one's, and all conversations of a tenant share the blocks of
its system prompt.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice, takewhile

import numpy as np

from envs.workloads.processes import ArrivalProcess, above_zero
from envs.workloads.requests import Arrival, Lengths
from envs.workloads.sources import Source, asking, lengths_only

_STRIDE = 0x9E3779B97F4A7C15
"""Odd, so that the hashes of one text's blocks are all different."""
_MASK = (1 << 63) - 1


class Transcript:
    """Block hashes of a text that only grows: ``system`` tokens that others share, then tokens of its own.

    ``name`` names the text, ``shared`` the text of its first ``system`` tokens. The same names give the same hashes in
    every process.
    """

    __slots__ = ("_block", "_chain", "_own", "_shared", "_system", "tokens")

    def __init__(self, name: str, block: int, *, shared: str = "", system: int = 0) -> None:
        above_zero(block=block)
        self._block = block
        self._own, self._shared, self._system = _key(name), _key(f"system {shared}"), system
        self._chain: list[int] = []
        self.tokens = 0
        self.grow(system)

    def grow(self, tokens: int) -> None:
        """Add so many tokens."""
        self.tokens += tokens
        for index in range(len(self._chain), self.tokens // self._block):
            key = self._shared if (index + 1) * self._block <= self._system else self._own
            self._chain.append((key + index * _STRIDE) & _MASK)

    def turn(self, question: int, answer: int) -> Lengths:
        """Add a question and its answer. The prompt of the turn is everything up to the answer."""
        self.grow(question)
        prompt = self.tokens
        self.grow(answer)
        return Lengths(prompt, answer, tuple(self._chain), self._block)


def _key(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()) & _MASK


@dataclass(frozen=True, slots=True)
class Pace:
    """How the turns of a conversation follow one another, in seconds, in an open-loop picture.

    The next turn comes after the answer, which is taken to need ``first_token_s + token_s`` per token, and after a
    log-normal think time of median ``think_s`` whose logarithm has the standard deviation ``think_sigma``.
    """

    think_s: float = 60.0
    think_sigma: float = 1.0
    first_token_s: float = 0.5
    token_s: float = 0.02

    def __post_init__(self) -> None:
        if min(self.think_s, self.think_sigma, self.first_token_s, self.token_s) < 0:
            raise ValueError(f"times must not be below 0, not {self}")

    def gap(self, answer: int, rng: np.random.Generator) -> float:
        """Seconds from a turn with so many tokens of answer to the next."""
        think = self.think_s * float(np.exp(self.think_sigma * rng.standard_normal()))
        return self.first_token_s + self.token_s * answer + think


@dataclass(frozen=True, slots=True)
class Conversations:
    """How a tenant's people talk. Sizes in tokens.

    ``sizes`` gives each turn its new text (the prompt of its lengths) and its answer. A conversation has a geometric
    number of turns with mean ``turns``, and ends early where the next turn would be longer than ``longest``.
    """

    sizes: Source
    turns: float = 3.5
    pace: Pace = field(default_factory=Pace)
    system: int = 0
    """Tokens of the system prompt that all conversations of a tenant begin with."""
    longest: int = 32_768
    """Most tokens of a prompt and its answer together."""
    prefix_block: int = 64

    def __post_init__(self) -> None:
        above_zero(longest=self.longest, prefix_block=self.prefix_block)
        if self.turns < 1 or self.system < 0:
            raise ValueError(
                f"a conversation has a turn or more on average, and a system prompt of 0 or more, not {self}"
            )
        if self.system + 2 > self.longest:
            raise ValueError(f"a system prompt of {self.system} leaves no room for a turn within {self.longest} tokens")


Turn = tuple[float, Lengths]
"""When a turn comes, and its lengths."""


def interleaved(talks: Iterable[tuple[str, Iterator[Turn]]]) -> Iterator[tuple[str, Turn]]:
    """The turns of named conversations in order of time. Conversations come in the order in which they begin.

    What is held is the conversations that are going on, each with its next turn.
    """
    going: list[tuple[float, int, str, Lengths, Iterator[Turn]]] = []
    for number, (name, turns) in enumerate(talks):
        first = next(turns, None)
        while first is not None and going and going[0][0] <= first[0]:
            yield _next(going)
        if first is not None:
            heapq.heappush(going, (first[0], number, name, first[1], turns))
    while going:
        yield _next(going)


def _next(going: list[tuple[float, int, str, Lengths, Iterator[Turn]]]) -> tuple[str, Turn]:
    at, number, name, lengths, turns = going[0]
    if (following := next(turns, None)) is None:
        heapq.heappop(going)
    else:
        heapq.heapreplace(going, (following[0], number, name, following[1], turns))
    return name, (at, lengths)


def conversations(
    process: ArrivalProcess,
    style: Conversations,
    seed: int,
    *,
    tenant: str = "default",
    duration: float | None = None,
    count: int | None = None,
    max_tokens: int | None = None,
    deadline_s: float | None = None,
) -> Iterator[Arrival]:
    """Turns of conversations that begin when ``process`` says, in order of time.

    ``duration`` ends the workload, turns still to come included; ``count`` is of turns. What is held at a time is the
    conversations that are going on. When they begin, how each runs and what its sizes are come from separate streams.
    """
    clock = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    talks = (
        (name := f"{tenant}-{seed}-{number}", _talk(at, style, name, tenant, (seed, number)))
        for number, at in enumerate(process.times(clock))
    )
    turns = interleaved(talks)
    within = turns if duration is None else takewhile(lambda turn: turn[1][0] < duration, turns)
    return (
        Arrival(at, None, lengths, tenant, max_tokens, deadline_s, name)
        for name, (at, lengths) in islice(within, count)
    )


def _talk(at: float, style: Conversations, name: str, tenant: str, seed: tuple[int, int]) -> Iterator[Turn]:
    """The turns of one conversation. A first turn that is too long is cut."""
    run, content = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    ask = asking(style.sizes, content)
    text = Transcript(name, style.prefix_block, shared=tenant, system=style.system)
    room = style.longest - style.system
    for number in range(int(run.geometric(1.0 / style.turns))):
        sizes = lengths_only(ask(at))
        question, answer = sizes.prompt_tokens, sizes.output_tokens
        if number == 0:
            answer = min(answer, room - 1)
            question = min(question, room - answer)
        if text.tokens + question + answer > style.longest:
            return
        yield at, text.turn(question, answer)
        at += style.pace.gap(answer, run)
