"""What every engine can do: the simulator, and a live server behind HTTP, are the same thing to the code above.

Times are seconds on one clock shared by all engines of a fleet; sizes are tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from controller.values import swift

RequestId = str


class EnginePhase(StrEnum):
    """Where an engine stands in its life; it works on requests only while ``READY``."""

    STARTING = "starting"
    READY = "ready"
    SLEEPING = "sleeping"
    WAKING = "waking"
    FAILED = "failed"


class EventKind(StrEnum):
    """What can happen to a request. ``FINISHED``, ``ABORTED`` and ``REJECTED`` end it."""

    FIRST_TOKEN = "first_token"
    TOKENS = "tokens"
    FINISHED = "finished"
    ABORTED = "aborted"
    REJECTED = "rejected"


@swift
@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One request as an engine sees it.

    ``output_tokens`` is the true length of the answer, at least 1: an engine knows it, nothing above it may.
    ``priority`` counts only under priority scheduling; lower is earlier. ``arrival`` is when the client sends it.
    ``prefix`` is the chain of block hashes of the prompt, for engines that have a prefix cache.
    """

    id: RequestId
    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    arrival: float = 0.0
    prefix: tuple[int, ...] = ()


@swift
@dataclass(frozen=True, slots=True)
class EngineEvent:
    """Something the client of a request sees at time ``at``. ``output_tokens`` counts all tokens so far."""

    kind: EventKind
    id: RequestId
    at: float
    output_tokens: int = 0
    cached_tokens: int = 0
    """Of the first token and the end: prompt tokens that the engine found in its prefix cache."""


@swift
@dataclass(frozen=True, slots=True)
class EngineState:
    """One reading of an engine's own gauges, as its ``/metrics`` page would show them."""

    at: float
    running: int
    waiting: int
    kv_usage: float
    """Share of the KV cache in use, 0 to 1."""
    preemptions: int = 0
    phase: EnginePhase = EnginePhase.READY
    prefix_queries: int = 0
    """Prompt tokens that were looked up in the prefix cache so far; 0 without one."""
    prefix_hits: int = 0
    """And found there."""


@runtime_checkable
class Engine(Protocol):
    """One model server.

    ``advance`` returns events in order of time, each exactly once; an engine's clock never goes back. Requests are
    submitted with an ``arrival`` not earlier than the clock.

    A simulated engine's clock stands still until it is advanced. A live engine's is real time: it goes on by itself, so
    a request whose arrival has passed is simply late and is sent at once; ``advance`` waits, and may give events that
    came while it woke up, a little after ``until``; and since nobody can look ahead, ``next_event_at`` says when it is
    worth looking again. ``tests/envs/engines/conformance.py`` is what all of them pass.
    """

    @property
    def now(self) -> float:
        """The engine's clock, in seconds: how far it has been advanced, or real time."""
        ...

    def submit(self, request: EngineRequest) -> None:
        """Take a request. One that can never run is answered by a ``REJECTED`` event.

        Raises:
            ValueError: the id is in use, a size is not positive, or the arrival lies before the clock.
        """
        ...

    def cancel(self, request_id: RequestId) -> bool:
        """Abort a request now; an ``ABORTED`` event follows. False if it has already ended or was never known."""
        ...

    def advance(self, until: float) -> list[EngineEvent]:
        """Let time pass up to and including ``until``; what happened meanwhile."""
        ...

    def next_event_at(self) -> float | None:
        """No event comes before this time unless something is submitted or cancelled; ``None`` when none is due.

        Advancing to it always makes progress, though it may bring no event yet.
        """
        ...

    def state(self) -> EngineState:
        """The engine's gauges at its clock."""
        ...
