"""What is asked at each arrival: tasks of the suite, lengths of a trace, lengths drawn from distributions, drift.

A source draws from one generator of its own. Most give requests in a stream; one whose requests depend on the time
(:class:`Blend`, :class:`Scaled`) is a :class:`TimedSource` and is asked at each arrival's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

import numpy as np

from envs.families import LEVELS
from envs.tasks import Split, Task, stream
from envs.workloads.processes import above_zero
from envs.workloads.requests import Arrival, Lengths

Request = Task | Lengths


class RequestSource(Protocol):
    """Says what is asked at each arrival."""

    def requests(self, rng: np.random.Generator) -> Iterator[Request]:
        """Tasks or lengths, without end."""
        ...


class TimedSource(Protocol):
    """Says what is asked at a time."""

    def asking(self, rng: np.random.Generator) -> Callable[[float], Request]:
        """A function from the time of an arrival, in seconds and ascending, to its request."""
        ...


Source = RequestSource | TimedSource


def asking(source: Source, rng: np.random.Generator) -> Callable[[float], Request]:
    """Any source as a function of time. It raises ``StopIteration`` when a finite source has no more."""
    if hasattr(source, "asking"):
        return source.asking(rng)
    requests = source.requests(rng)
    return lambda _: next(requests)


@dataclass(frozen=True, slots=True)
class TaskSource:
    """Tasks of one stream of the suite. Its seed is its own, so that workers can hold the same book."""

    seed: int
    split: Split = Split.TEST
    families: tuple[str, ...] | None = None
    levels: tuple[int, ...] = LEVELS

    def requests(self, rng: np.random.Generator) -> Iterator[Request]:
        """The stream in its order."""
        return iter(stream(self.seed, self.split, self.families, self.levels))


@dataclass(frozen=True, slots=True)
class GivenTasks:
    """Tasks from a list, in its order, and from its start again when it ends."""

    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("no tasks to draw from")

    def requests(self, rng: np.random.Generator) -> Iterator[Request]:
        """The list, over and over."""
        return (self.tasks[index % len(self.tasks)] for index in count())


@dataclass(frozen=True, slots=True)
class LengthSource:
    """Requests drawn with replacement from known lengths, for example those of a trace."""

    lengths: tuple[Lengths, ...]

    def __post_init__(self) -> None:
        if not self.lengths:
            raise ValueError("no lengths to draw from")

    @classmethod
    def sampled(cls, arrivals: Iterable[Arrival], at_most: int = 10_000, seed: int = 0) -> LengthSource:
        """A uniform sample of a trace's lengths, however long it is; their prefixes are left behind.

        Reservoir sampling (Vitter 1985, algorithm R): the trace is read once and ``at_most`` lengths are kept.
        """
        rng, kept, seen = np.random.default_rng(seed), list[Lengths](), 0
        for arrival in arrivals:
            if arrival.lengths is None:
                continue
            seen += 1
            place = seen - 1 if seen <= at_most else int(rng.integers(seen))
            if place < at_most:
                kept[place : place + 1] = [replace(arrival.lengths, prefix=())]
        return cls(tuple(kept))

    def requests(self, rng: np.random.Generator) -> Iterator[Request]:
        """Uniform draws."""
        while True:
            yield self.lengths[int(rng.integers(len(self.lengths)))]


@dataclass(frozen=True, slots=True)
class LogNormalLengths:
    """Log-normal prompts and answers, in tokens: ``exp`` of normals around the log of the median.

    ``correlation`` is between the two normals. Draws are cut to 1 … ``longest_prompt`` / ``longest_output``.
    """

    prompt_median: float
    output_median: float
    prompt_sigma: float = 1.0
    output_sigma: float = 1.0
    correlation: float = 0.0
    longest_prompt: int = 131_072
    longest_output: int = 8_192

    def __post_init__(self) -> None:
        above_zero(prompt_median=self.prompt_median, output_median=self.output_median)
        above_zero(longest_prompt=self.longest_prompt, longest_output=self.longest_output)
        if min(self.prompt_sigma, self.output_sigma) < 0 or not -1 <= self.correlation <= 1:
            raise ValueError(f"sigmas must not be below 0, and correlation be from -1 to 1, not {self}")

    def requests(self, rng: np.random.Generator) -> Iterator[Request]:
        """Two normals a request."""
        rest = float(np.sqrt(1.0 - self.correlation**2))
        while True:
            ours, other = rng.standard_normal(2).tolist()
            prompt = self.prompt_median * np.exp(self.prompt_sigma * ours)
            output = self.output_median * np.exp(self.output_sigma * (self.correlation * ours + rest * other))
            yield Lengths(_cut(prompt, self.longest_prompt), _cut(output, self.longest_output))


@dataclass(frozen=True, slots=True)
class Histogram:
    """Token counts and how often each comes; the weights need not add up to 1."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.tokens or len(self.tokens) != len(self.weights) or min(self.tokens) < 1:
            raise ValueError("a histogram needs a weight for each token count, and counts of 1 or more")
        if min(self.weights) < 0 or sum(self.weights) <= 0:
            raise ValueError("weights must not be below 0, and one must be above")

    def draws(self, rng: np.random.Generator) -> Iterator[int]:
        """Token counts, without end."""
        edges = np.cumsum(self.weights)
        last = int(np.flatnonzero(self.weights)[-1])
        while True:
            places = np.searchsorted(edges, rng.random(256) * edges[-1], side="right")
            yield from (self.tokens[min(place, last)] for place in places.tolist())


@dataclass(frozen=True, slots=True)
class EmpiricalLengths:
    """Prompts and answers from two histograms, independent of each other."""

    prompt: Histogram
    output: Histogram

    def requests(self, rng: np.random.Generator) -> Iterator[Request]:
        """A draw from each, from streams of their own."""
        ours, other = rng.spawn(2)
        pairs = zip(self.prompt.draws(ours), self.output.draws(other), strict=True)
        return (Lengths(prompt, output) for prompt, output in pairs)


@dataclass(frozen=True, slots=True)
class Trend:
    """A number that goes straight from ``before`` to ``after`` between two times; suddenly, if they are equal."""

    before: float
    after: float
    start: float
    end: float

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError(f"a trend ends at or after its start, not at {self.end} before {self.start}")

    def value_at(self, at: float) -> float:
        """The number at a time: ``before`` until the start, ``after`` from the end on."""
        if at >= self.end:
            return self.after
        if at <= self.start:
            return self.before
        return self.before + (self.after - self.before) * (at - self.start) / (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Blend:
    """A mix of two sources that drifts: each request comes from ``after`` with a probability that follows ``share``."""

    before: Source
    after: Source
    share: Trend

    def __post_init__(self) -> None:
        if not (0 <= self.share.before <= 1 and 0 <= self.share.after <= 1):
            raise ValueError(f"the share must stay between 0 and 1, not {self.share}")

    def asking(self, rng: np.random.Generator) -> Callable[[float], Request]:
        """Each source, and the choice between them, has a stream of its own."""
        ours, theirs, choice = rng.spawn(3)
        early, late = asking(self.before, ours), asking(self.after, theirs)
        return lambda at: late(at) if choice.random() < self.share.value_at(at) else early(at)


@dataclass(frozen=True, slots=True)
class Scaled:
    """Lengths that drift: each prompt and answer of a source times a factor that follows a trend."""

    source: Source
    prompt: Trend | None = None
    output: Trend | None = None

    def __post_init__(self) -> None:
        for trend in filter(None, (self.prompt, self.output)):
            above_zero(before=trend.before, after=trend.after)

    def asking(self, rng: np.random.Generator) -> Callable[[float], Request]:
        """The source's requests. Prefixes are dropped: other lengths are other text. Tasks raise ``TypeError``."""
        inner = asking(self.source, rng)

        def ask(at: float) -> Lengths:
            sizes = lengths_only(inner(at))
            prompt, output = _times(sizes.prompt_tokens, self.prompt, at), _times(sizes.output_tokens, self.output, at)
            return Lengths(prompt, output, prefix_block=sizes.prefix_block)

        return ask


def lengths_only(request: Request) -> Lengths:
    """The request, if it is lengths; a task has no sizes before it is tokenised and answered."""
    if isinstance(request, Lengths):
        return request
    raise TypeError("this needs a source of lengths, such as LengthSource or LogNormalLengths, not of tasks")


def _times(tokens: int, trend: Trend | None, at: float) -> int:
    return tokens if trend is None else max(1, round(tokens * trend.value_at(at)))


def _cut(tokens: float, longest: int) -> int:
    return int(min(max(round(tokens), 1), longest))
