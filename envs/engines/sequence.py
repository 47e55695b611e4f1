"""How a simulated engine schedules, and what it has done so far."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class SchedulingPolicy(StrEnum):
    """vLLM's ``--scheduling-policy``."""

    FCFS = "fcfs"
    PRIORITY = "priority"


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
