"""What a fleet cost: GPU-hours and dollars, from what its workers did when."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from controller.types import WorkerName, WorkerPhase

_HOUR_S = 3600.0
BILLED: frozenset[WorkerPhase] = frozenset(WorkerPhase)
"""Phases that are paid for: all of them, since a worker that starts, sleeps or has failed still holds its machine."""


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """A worker was in a phase from ``start`` to ``end`` (seconds), on ``gpus`` GPUs at a price for all of them."""

    worker: WorkerName
    phase: WorkerPhase
    start: float
    end: float
    gpus: float = 1.0
    usd_per_hour: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and self.start <= self.end < math.inf):
            raise ValueError(f"{self.worker}: a span ends at a finite time, not before it starts: {self}")
        if not (self.gpus >= 0 and self.usd_per_hour >= 0):
            raise ValueError(f"{self.worker}: GPUs and price must not be negative: {self}")

    @property
    def hours(self) -> float:
        """How long it lasted."""
        return (self.end - self.start) / _HOUR_S


@dataclass(frozen=True, slots=True)
class PhaseChange:
    """At a time (seconds), a worker went into a phase; ``None``: it is gone, and its machine given back."""

    at: float
    worker: WorkerName
    phase: WorkerPhase | None


def spans(
    changes: Iterable[PhaseChange],
    until: float,
    *,
    gpus: Mapping[WorkerName, float] | None = None,
    usd_per_hour: Mapping[WorkerName, float] | None = None,
) -> list[PhaseSpan]:
    """The spans between changes, the last of each worker up to ``until``; 1 GPU and 0 dollars for who is not named.

    Raises:
        ValueError: a worker's changes are not in order of time, or come after ``until``.
    """
    found: list[PhaseSpan] = []
    current: dict[WorkerName, PhaseChange] = {}

    def close(change: PhaseChange, end: float) -> None:
        name = change.worker
        price, count = (usd_per_hour or {}).get(name, 0.0), (gpus or {}).get(name, 1.0)
        if change.phase is not None:
            found.append(PhaseSpan(name, change.phase, change.at, end, count, price))
        elif end < change.at:
            raise ValueError(f"{name}: a change at {change.at} comes after {end}")

    for change in changes:
        if (before := current.get(change.worker)) is not None:
            close(before, change.at)
        current[change.worker] = change
    for last in current.values():
        close(last, until)
    return found


def gpu_hours(held: Iterable[PhaseSpan], billed: Collection[WorkerPhase] = BILLED) -> float:
    """Σ GPUs × hours over the phases that are billed.

    Raises:
        ValueError: two spans of one worker overlap, so that time would count twice.
    """
    return math.fsum(span.gpus * span.hours for span in _apart(held) if span.phase in billed)


def dollars(held: Iterable[PhaseSpan], billed: Collection[WorkerPhase] = BILLED) -> float:
    """Σ price × hours over the phases that are billed.

    Raises:
        ValueError: two spans of one worker overlap, so that time would count twice.
    """
    return math.fsum(span.usd_per_hour * span.hours for span in _apart(held) if span.phase in billed)


def _apart(held: Iterable[PhaseSpan]) -> list[PhaseSpan]:
    ordered = sorted(held, key=lambda span: (span.worker, span.start, span.end))
    for before, after in pairwise(ordered):
        if before.worker == after.worker and after.start < before.end:
            raise ValueError(f"{before.worker}: {before} and {after} overlap")
    return ordered
