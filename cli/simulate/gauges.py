"""Readings of the fleet over time, of which there are never more than a bound, however long the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Gauges", "Reading", "Sampler"]

Floats = npt.NDArray[np.float64]
MOST_SAMPLES: Final = 2_000
_FIELDS: Final = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """The fleet at one moment."""

    waiting: int
    """Requests that wait, at the gateway and in the engines together."""
    running: int
    """Requests in the engines' batches."""
    kv_mean: float
    """Share of the KV cache in use, mean over workers."""
    kv_most: float
    """The same of the fullest one."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """Readings as columns (samples,); ``at`` in seconds from the first arrival.

    ``kv_most`` is ``None`` where the runner reads the mean over workers alone.
    """

    at: Floats
    waiting: Floats
    running: Floats
    kv_mean: Floats
    kv_most: Floats | None


class Sampler:
    """Takes a reading every ``interval`` seconds, and every second one fewer whenever there are ``most``.

    ``span_s`` is how long the run will take as far as is known; three quarters of the samples are meant for that.
    """

    def __init__(self, span_s: float, most: int = MOST_SAMPLES) -> None:
        if most < 2:
            raise ValueError(f"at least 2 samples, not {most}")
        self._interval = max(span_s / (0.75 * most), 0.01)
        self._rows = np.empty((most, 1 + _FIELDS), np.float64)
        self._count = 0
        self._taken = 0

    @property
    def due(self) -> float:
        """When the next reading is to be taken, in seconds."""
        return self._taken * self._interval

    def take(self, reading: Reading) -> None:
        """The reading of the moment that was due."""
        row = (self.due, reading.waiting, reading.running, reading.kv_mean, reading.kv_most)
        self._rows[self._count] = row
        self._count += 1
        self._taken += 1
        if self._count == len(self._rows):
            self._thin()

    def gauges(self) -> Gauges:
        """What was read."""
        return Gauges(*(self._rows[: self._count, column].copy() for column in range(1 + _FIELDS)))

    def _thin(self) -> None:
        kept = self._rows[: self._count : 2]
        self._count = len(kept)
        self._rows[: self._count] = kept.copy()
        self._interval *= 2.0
        self._taken = math.ceil(self._taken / 2)
