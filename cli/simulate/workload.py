"""The trace that every policy sees, as columns: read, scaled and cut once."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from envs.traces import Trace
    from envs.workloads import Arrival, Lengths

__all__ = ["Ranks", "Workload", "open_workload", "rank_by_length"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
_HASH: Final = 2**63 - 1
_TAU_SAMPLE: Final = 4_000
"""Requests that the rank correlation is measured on."""


@dataclass(frozen=True, slots=True)
class Workload:
    """n requests in order of time, all columns (n,). Times in seconds from the first, sizes in tokens.

    ``max_tokens`` is 0 where the client set no limit, ``deadline_s`` infinite where there is none. ``prefix`` holds the
    chains of block hashes of all requests one after another, that of request i between ``prefix_start[i]`` and the
    next; ``prefix_block`` tokens a hash, ``None`` where the trace has none. A chain begins with the prompt's full
    blocks and runs on into the answer where the trace knows what a later prompt repeats of it.
    """

    at: Floats
    prompt_tokens: Integers
    output_tokens: Integers
    max_tokens: Integers
    deadline_s: Floats
    tenant: Integers
    tenants: tuple[str, ...]
    prefix: Integers
    prefix_start: Integers
    prefix_block: int | None

    def __len__(self) -> int:
        return len(self.at)

    @property
    def span_s(self) -> float:
        """From the first arrival to the last."""
        return float(self.at[-1] - self.at[0]) if len(self) else 0.0

    @property
    def prompt_hashes(self) -> Integers:
        """How many hashes of each chain (n,) are the prompt's: what anybody but an engine can know of it."""
        if self.prefix_block is None:
            return np.zeros(len(self), np.int64)
        return np.minimum(np.diff(self.prefix_start), self.prompt_tokens // self.prefix_block)

    def prefix_of(self, index: int) -> tuple[int, ...]:
        """One request's chain of block hashes."""
        start, end = self.prefix_start[index : index + 2]
        return tuple(self.prefix[start:end].tolist())

    def stretched(self, factor: float) -> Workload:
        """All times, deadlines excepted, multiplied."""
        return replace(self, at=self.at * factor)

    def at_rate(self, rate: float) -> Workload:
        """Times scaled to a mean rate in requests/s. Raises ``ValueError`` where there are not two moments."""
        if not self.span_s > 0:
            raise ValueError("a mean rate needs at least two arrivals at different times")
        return self.stretched((len(self) - 1) / (rate * self.span_s))

    def within(self, tokens: int) -> Workload:
        """Without the requests whose prompt leaves no room for an answer in a context of so many tokens."""
        return self._taken(np.flatnonzero(self.prompt_tokens < tokens))

    def first(self, count: int) -> Workload:
        """The first ``count`` requests."""
        return self._taken(np.arange(min(count, len(self))))

    def _taken(self, rows: Integers) -> Workload:
        if len(rows) == len(self):
            return self
        counts = np.diff(self.prefix_start)[rows]
        kept = [self.prefix[self.prefix_start[row] : self.prefix_start[row + 1]] for row in rows.tolist()]
        return replace(
            self,
            at=self.at[rows] - (self.at[rows[0]] if len(rows) else 0.0),
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            max_tokens=self.max_tokens[rows],
            deadline_s=self.deadline_s[rows],
            tenant=self.tenant[rows],
            prefix=np.concatenate(kept) if kept else self.prefix[:0],
            prefix_start=np.concatenate(([0], np.cumsum(counts))),
        )

    @classmethod
    def of(cls, arrivals: Iterable[Arrival], deadline_s: float | None = None) -> Workload:
        """Read a stream to its end; ``deadline_s`` is for arrivals without one of their own.

        Raises ``ValueError`` for an arrival without lengths, or one that comes before the one in front of it.
        """
        columns, tenants = _Columns(math.inf if deadline_s is None else deadline_s), dict[str, int]()
        for arrival in arrivals:
            columns.take(arrival, tenants.setdefault(arrival.tenant, len(tenants)))
        return columns.workload(tuple(tenants))


class _Columns:
    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._at, self._deadlines = array("d"), array("d")
        self._prompts, self._outputs, self._limits = array("q"), array("q"), array("q")
        self._tenants, self._prefix, self._starts = array("q"), array("q"), array("q", [0])
        self._block: int | None = None

    def take(self, arrival: Arrival, tenant: int) -> None:
        if arrival.lengths is None:
            raise ValueError(f"the request at {arrival.at:g} s has no lengths to be simulated")
        if self._at and arrival.at < self._at[-1]:
            raise ValueError(f"the request at {arrival.at:g} s comes after one at {self._at[-1]:g} s")
        self._at.append(arrival.at)
        self._prompts.append(max(1, arrival.lengths.prompt_tokens))
        self._outputs.append(max(1, min(arrival.lengths.output_tokens, arrival.max_tokens or _HASH)))
        self._limits.append(arrival.max_tokens or 0)
        self._deadlines.append(self._deadline_s if arrival.deadline_s is None else arrival.deadline_s)
        self._tenants.append(tenant)
        self._take_prefix(arrival.lengths)

    def _take_prefix(self, lengths: Lengths) -> None:
        if lengths.prefix:
            self._block = self._block or lengths.prefix_block
            if lengths.prefix_block != self._block:
                raise ValueError(f"prefix blocks of {self._block} and of {lengths.prefix_block} tokens in one trace")
            self._prefix.extend(block & _HASH for block in lengths.prefix)
        self._starts.append(len(self._prefix))

    def workload(self, tenants: tuple[str, ...]) -> Workload:
        def integers(values: array[int]) -> Integers:
            return np.array(values, np.int64)

        at = np.array(self._at, np.float64)
        return Workload(
            at=at - (at[0] if len(at) else 0.0),
            prompt_tokens=integers(self._prompts),
            output_tokens=integers(self._outputs),
            max_tokens=integers(self._limits),
            deadline_s=np.array(self._deadlines, np.float64),
            tenant=integers(self._tenants),
            tenants=tenants,
            prefix=integers(self._prefix),
            prefix_start=integers(self._starts),
            prefix_block=self._block,
        )


def open_workload(
    path: Path,
    format: str | None,
    *,
    start: int = 0,
    limit: int | None = None,
    rate: float | None = None,
    time_scale: float | None = None,
    deadline_s: float | None = None,
    seed: int = 0,
) -> tuple[Workload, str]:
    """The workload of a trace file, and its format's name.

    ``rate`` is the mean rate in requests/s; for a format that has no times, that of the Poisson process which gives
    them. ``time_scale`` multiplies times instead.

    Raises:
        ValueError: no such file or format, a damaged row, no request at all, or a rate that cannot be told.
    """
    from envs.traces import Reading, open_trace
    from envs.workloads import Poisson

    process = None if rate is None else Poisson(rate)
    trace: Trace = open_trace(path, format, Reading(start=start, limit=limit, process=process, seed=seed))
    workload = Workload.of(trace, deadline_s)
    if not len(workload):
        raise ValueError(f"{path}: no request in it" + (f" from row {start} on" if start else ""))
    if rate is not None:
        workload = workload.at_rate(rate)
    elif time_scale is not None:
        workload = workload.stretched(time_scale)
    return workload, trace.format.name


@dataclass(frozen=True, slots=True)
class Ranks:
    """What stands in for a length predictor: a rank a request (n,), higher is longer, and how right it is."""

    values: Floats
    asked: float
    """Kendall's tau with the true length that was asked for."""
    tau: float | None
    """Kendall's tau-b as it came out; ``None`` where all lengths are alike."""


def rank_by_length(output_tokens: Integers, tau: float, seed: int) -> Ranks:
    """Ranks that agree with the true lengths to a Kendall's tau: 1 is an oracle, 0 knows nothing.

    True ranks as normal scores, and noise in the proportion that gives two normal variables this tau,
    ρ = sin(πτ/2) (Greiner 1909). Ties among the lengths make tau-b differ a little from what was asked.
    """
    from scipy.stats import kendalltau, norm, rankdata

    rng = np.random.default_rng(seed)
    rho = math.sin(math.pi * tau / 2.0)
    scores = norm.ppf((rankdata(output_tokens) - 0.5) / len(output_tokens))
    values = rho * scores + math.sqrt(1.0 - rho * rho) * rng.standard_normal(len(output_tokens))
    sample = np.sort(rng.permutation(len(output_tokens))[:_TAU_SAMPLE])
    measured = float(kendalltau(values[sample], output_tokens[sample]).statistic) if len(sample) > 1 else math.nan
    return Ranks(np.asarray(values, np.float64), tau, None if math.isnan(measured) else measured)
