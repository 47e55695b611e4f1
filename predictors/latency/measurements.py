"""Measured requests of a live engine, the statistics they are judged by, and what a simulator must give back."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COLUMNS: Final = ("arrival", "prompt_tokens", "output_tokens", "ttft", "e2e", "itl_p50")
CONSTANTS: Final = (
    *("a", "b", "c", "d", "eager_floor_s", "overlap_s", "mixed_floor_s", "wide_s"),
    *("request_overhead_s", "token_overhead_s"),
)
"""A profile's constants that are learned; its limits are known from how the server was started."""


class MeasurementsError(ValueError):
    """A measurements file cannot be used; the message names the file, and the line where there is one."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Per request, in seconds: time to first token, end to end, and the median gap between its tokens.

    ``itl`` is not a number for answers of a single token.
    """

    ttft: Floats
    e2e: Floats
    itl: Floats

    def statistics(self) -> dict[str, float]:
        """``{ttft,itl,e2e}_{mean,p50,p90,p99}``."""
        found = {}
        for name, values in (("ttft", self.ttft), ("itl", self.itl), ("e2e", self.e2e)):
            known = values[~np.isnan(values)]
            if not len(known):
                known = np.array([np.nan])
            found[f"{name}_mean"] = float(known.mean())
            for q in (50, 90, 99):
                found[f"{name}_p{q}"] = float(np.percentile(known, q))
        return found


@dataclass(frozen=True, slots=True)
class Measurements:
    """A run: when each request was sent (seconds from the start), its sizes (tokens), and its latencies.

    An open loop has no ``concurrency``: requests left at their times. In a closed loop, so many were in flight, each
    followed by the next, in the order of the rows; there ``arrival`` is what was measured, not what was asked for.
    """

    name: str
    arrival: Floats
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    measured: Latencies
    sha256: str
    """Of the file."""
    concurrency: int | None = None

    def __len__(self) -> int:
        return len(self.arrival)


@dataclass(frozen=True, slots=True)
class Slopes:
    """Derivatives of each request's latencies, each (n, k), by the k constants of :data:`CONSTANTS`, in their order."""

    ttft: Floats
    e2e: Floats
    itl: Floats


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a simulator made of a load. While the schedule stays the same, latencies are linear in the constants.

    ``arrival`` (s) is when each request was sent: of a closed loop, that too is simulated.
    """

    latencies: Latencies
    slopes: Slopes
    arrival: Floats


@dataclass(frozen=True, slots=True)
class SimulatedLoop:
    """What a simulator made of a closed loop: output tokens/s, and their derivatives (k,)."""

    tokens_per_s: float
    slopes: Floats


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """A closed-loop run: ``concurrency`` requests of equal sizes kept in flight, and the output tokens/s that gave."""

    concurrency: int
    prompt_tokens: int
    output_tokens: int
    requests: int
    tokens_per_s: float


def signed_errors(simulated: Latencies, measured: Latencies) -> dict[str, float]:
    """(simulated - measured) / measured of every statistic; not a number where nothing above zero was measured."""
    truth = measured.statistics()
    found = simulated.statistics()
    return {name: found[name] / value - 1.0 if value > 0.0 else np.nan for name, value in truth.items()}


def read_measurements(path: Path) -> Measurements:
    """Read a CSV with the columns :data:`COLUMNS`, and perhaps ``error``: rows that have one are left out.

    Raises:
        MeasurementsError: unreadable, a column is missing, a value is not a number, or no row is usable.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MeasurementsError(f"{path}: {error.strerror}") from error
    rows = list(csv.DictReader(content.decode("utf-8", errors="replace").splitlines()))
    missing = set(COLUMNS) - set(rows[0] if rows else ())
    if missing:
        raise MeasurementsError(f"{path}: no column {', '.join(sorted(missing))}" if rows else f"{path}: no rows")
    columns = _columns(rows, path)
    return Measurements(
        name=path.stem,
        arrival=columns["arrival"] - columns["arrival"].min(),
        prompt_tokens=columns["prompt_tokens"].astype(np.int64),
        output_tokens=columns["output_tokens"].astype(np.int64),
        measured=Latencies(columns["ttft"], columns["e2e"], columns["itl_p50"]),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _columns(rows: list[dict[str, str]], path: Path) -> Mapping[str, Floats]:
    values: list[list[float]] = []
    for line, row in enumerate(rows, start=2):
        if row.get("error"):
            continue
        try:
            values.append([_number(name, row[name]) for name in COLUMNS])
        except (TypeError, ValueError) as error:
            raise MeasurementsError(f"{path}:{line}: {error}") from error
    if not values:
        raise MeasurementsError(f"{path}: every row has an error")
    array = np.asarray(values, dtype=np.float64)
    return {name: array[:, column] for column, name in enumerate(COLUMNS)}


def _number(name: str, text: str) -> float:
    """A cell's value; an answer of one token has no inter-token time."""
    if name == "itl_p50" and text.strip().lower() in ("", "nan"):
        return math.nan
    try:
        value = float(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a number: {name} {text!r}") from error
    least = {"ttft": 1e-9, "e2e": 1e-9, "prompt_tokens": 1.0, "output_tokens": 1.0}.get(name, 0.0)
    if not least <= value < math.inf:
        wanted = "above 0" if least > 0 else "not below 0"
        raise ValueError(f"{name}: must be finite and {wanted}, not {text}")
    return value
