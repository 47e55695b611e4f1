"""The same figures over columns of numbers, for runs of so many requests that an object for each would not fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controller.objectives.outcome import Objective

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ServedColumns:
    """:class:`~controller.objectives.Served` for n requests: each field (n,), in seconds from the request's arrival.

    ``latency`` is NaN unless a complete answer came, ``ttft`` NaN where no first token did, ``deadline`` infinite where
    there is none.
    """

    latency: Floats
    ttft: Floats
    output_tokens: Integers
    deadline: Floats

    def __post_init__(self) -> None:
        sizes = {column.shape for column in (self.latency, self.ttft, self.output_tokens, self.deadline)}
        if len(sizes) != 1 or self.latency.ndim != 1:
            raise ValueError(f"columns must have one length, not {sorted(sizes)}")

    def __len__(self) -> int:
        return len(self.latency)

    @property
    def complete(self) -> Flags:
        """Whether a complete answer came."""
        return ~np.isnan(self.latency)

    @property
    def in_time(self) -> Flags:
        """Whether it came by the deadline."""
        return self.latency <= self.deadline

    @property
    def tpot(self) -> Floats:
        """Seconds per output token after the first, 0 for a single token; NaN without a complete answer."""
        gaps = self.output_tokens - 1
        mean: Floats = np.where(gaps > 0, (self.latency - self.ttft) / np.maximum(gaps, 1), 0.0)
        mean[np.isnan(self.latency) | np.isnan(self.ttft)] = np.nan
        return mean

    @property
    def normalised(self) -> Floats:
        """End-to-end seconds per output token; infinite without a complete answer."""
        return np.where(self.complete, self.latency / np.maximum(self.output_tokens, 1), np.inf)

    def met(self, objective: Objective) -> Flags:
        """Whether each request kept its deadline and every limit of the objective."""
        kept = self.in_time.copy()
        limits = ((self.ttft, objective.ttft_s), (self.tpot, objective.tpot_s), (self.latency, objective.e2e_s))
        for values, limit in limits:
            if limit is not None:
                kept &= values <= limit
        return kept

    def availability(self) -> float | None:
        """As :func:`~controller.objectives.availability`."""
        return float(self.in_time.mean()) if len(self) else None

    def attainment(self, objective: Objective) -> float | None:
        """As :func:`~controller.objectives.attainment`."""
        return float(self.met(objective).mean()) if len(self) else None

    def goodput(self, seconds: float, objective: Objective | None = None) -> float:
        """As :func:`~controller.objectives.goodput`."""
        if not seconds > 0:
            raise ValueError(f"a run lasts longer than {seconds} s")
        return float(self.met(objective or Objective()).sum()) / seconds

    def normalised_latency(self, q: float | None = None) -> float | None:
        """As :func:`~controller.objectives.normalised_latency`."""
        values = self.normalised
        if q is not None:
            return column_quantile(values, q)
        return float(values.mean()) if len(self) else None


def column_quantile(values: Floats, q: float) -> float | None:
    """As :func:`~controller.objectives.quantile`, of a column (n,) that may hold infinite values."""
    if not 0 <= q <= 1:
        raise ValueError(f"a quantile lies between 0 and 1, not at {q}")
    if not len(values):
        return None
    position = q * (len(values) - 1)
    low = math.floor(position)
    high = min(low + 1, len(values) - 1)
    parted = np.partition(values, (low, high))
    below, above = float(parted[low]), float(parted[high])
    return below if position == low or below == above else below + (position - low) * (above - below)
