"""A request inside a simulated engine, and what an engine has done so far."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import NamedTuple

from envs.engines.base import EngineRequest

Key = tuple[int, int, int]


class SchedulingPolicy(StrEnum):
    """vLLM's ``--scheduling-policy``."""

    FCFS = "fcfs"
    PRIORITY = "priority"


class Stage(Enum):
    """Where a sequence stands inside the engine."""

    COMING = 0
    WAITING = 1
    PREFILL = 2
    DECODE = 3
    ENDED = 4


@dataclass(frozen=True, slots=True)
class EngineTotals:
    """Counters since the engine was made or reset."""

    steps: int = 0
    prefill_tokens: int = 0
    """Computed ones: a recomputed prompt counts again."""
    output_tokens: int = 0
    preemptions: int = 0


class StepRun(NamedTuple):
    """Consecutive steps of the same members. Times in picoseconds; ``context`` is the first step's S."""

    start: int
    first: int
    """Duration of the first step."""
    growth: int
    """How much longer each step is than the one before."""
    steps: int
    prefill: int
    """Prompt tokens in the step."""
    batch: int
    """Decoding sequences."""
    context: int
    tokens: int
    """Tokens of output that each step produces."""


class Sequence:
    """One request's mutable state. ``key`` orders the queue; its maximum among the running is preempted first.

    While decoding, with ``n`` the engine's step counter, the sequence has ``produced_at_join + n - joined`` tokens of
    output and a context of ``base + n`` tokens.
    """

    __slots__ = (
        "base",
        "entry",
        "finish",
        "id",
        "joined",
        "key",
        "output_tokens",
        "produced",
        "prompt_tokens",
        "shown",
        "stage",
    )

    def __init__(self, request: EngineRequest, key: Key, entry: int) -> None:
        self.id = request.id
        self.prompt_tokens = request.prompt_tokens
        self.output_tokens = request.output_tokens
        self.key = key
        self.entry = entry
        self.stage = Stage.COMING
        self.produced = 0
        self.joined = 0
        self.base = 0
        self.finish = 0
        self.shown = 0

    @property
    def context(self) -> int:
        """Tokens to prefill: the prompt, and after a preemption the output so far."""
        return self.prompt_tokens + self.produced

    def join(self, step: int) -> None:
        """Start decoding after the engine's step counter reached ``step``; one token was just produced."""
        self.stage = Stage.DECODE
        self.produced += 1
        self.joined = step
        self.base = self.prompt_tokens + self.produced - step
        self.finish = step + self.output_tokens - self.produced

    def produced_by(self, step: int) -> int:
        """Tokens of output once the counter stands at ``step``."""
        return self.produced + step - self.joined if self.stage is Stage.DECODE else self.produced
