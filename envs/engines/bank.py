"""Simulated engines side by side, so that one call finds what happens next among all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from envs.engines.base import EngineEvent
from envs.engines.kernel.bank import FULL, TOLD_WIDTH, UNKNOWN, next_events
from envs.engines.sim import SimEngine
from envs.engines.timing import PS_PER_S

_EVENTS: Final = 256


class EngineBank:
    """Takes engines from event to event, in order of time and, at one time, in the order given.

    Whoever does something to an engine (submits, cancels, advances it) says so by :meth:`touch`. Between events an
    engine's own clock may lag behind.
    """

    def __init__(self, engines: Sequence[SimEngine]) -> None:
        self.engines = tuple(engines)
        self._due = np.full(len(engines), UNKNOWN, dtype=np.int64)
        self._touched = True
        """Whether anything was done to an engine since what is due was looked up."""
        self._told = np.zeros((_EVENTS, TOLD_WIDTH), dtype=np.int64)
        self._seen = np.zeros(_EVENTS)
        self._one = self._told[:1], self._seen[:1]
        """Where a single event is, as there mostly is."""
        self._gather()

    def _gather(self) -> None:
        words = max((len(engine.memory) for engine in self.engines), default=0)
        self._rows = np.zeros((len(self.engines), words), dtype=np.int64)
        for row, engine in zip(self._rows, self.engines, strict=True):
            engine.move_to(row)

    def touch(self, place: int) -> None:
        """Something was done to the engine of this place."""
        self._due[place] = UNKNOWN
        self._touched = True
        if self.engines[place].memory.base is not self._rows:
            self._gather()

    def advance(self, limit: float) -> tuple[float, list[EngineEvent]] | None:
        """Advance to the next events up to ``limit`` (s): when they come, and what; ``None`` if there are none by then.

        At one time there may be more events than come at once: the next call gives the rest.
        """
        if not (self._touched or min(self._due.tolist()) <= limit * PS_PER_S + 1.0):
            return None
        self._touched = not self.engines
        now, count = next_events(self._rows, self._due, limit, self._told, self._seen)
        if count == 0:
            return None
        events, engines = [], self.engines
        told, seen = self._one if count == 1 else (self._told[:count], self._seen[:count])
        for (place, _, kind, tag, produced, cached), at in zip(told.tolist(), seen.tolist()):  # noqa: B905
            if kind == FULL:
                engines[place].grow()
                self.touch(place)
            else:
                events.append(engines[place].event(at, kind, tag, produced, cached))
        return now, events
