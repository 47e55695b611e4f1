"""Fluidity: whether tokens come when a reader needs them (Etalon, Agrawal et al. 2024), in both forms there are.

A token is due ``next_s`` after the one before it, the first ``first_s`` after the request's arrival. Whoever is early
earns slack, which the tokens after it may use up. The paper and the documentation divide deadlines that were met by
tokens; the program counts, for a late token, each deadline that passed while nothing came. A request that was not
answered completely has a fluidity of 0, in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from controller.objectives.latency import quantile

_TOLERANCE_S = 1e-9
"""What rounding may make of a token that comes right at its deadline."""
_HALVINGS = 50


class FluidityForm(StrEnum):
    """Which definition; see :func:`fluidity_index`."""

    PAPER = "paper"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds from a request's arrival to its first token, and from one token to the next."""

    first_s: float
    next_s: float

    def __post_init__(self) -> None:
        if not (self.first_s >= 0 and self.next_s > 0):
            raise ValueError(f"first_s must not be negative and next_s must be above 0, not {self}")


@dataclass(frozen=True, slots=True)
class Stream:
    """When the tokens of one answer came, in seconds from the request's arrival, in order of time.

    ``complete`` is false for a request that was rejected, failed, aborted or not finished. ``first_s`` is a deadline of
    its own for the first token, for example by the length of its prompt.
    """

    times: Sequence[float]
    complete: bool = True
    first_s: float | None = None

    def gaps(self) -> Iterator[float]:
        """Seconds to the first token, then from token to token."""
        before = 0.0
        for time in self.times:
            yield time - before
            before = time


def fluidity_index(stream: Stream, deadlines: Deadlines, form: FluidityForm = FluidityForm.PAPER) -> float:
    """Share of deadlines that were met, between 0 and 1; 0 for an answer that is incomplete or has no token.

    For both forms a token is met if its gap is at most its deadline plus the slack so far, which then grows by what was
    left over; a miss takes all slack away, and the next deadline counts from the late token.

    ``paper``: tokens that were met over all tokens. ``code`` (etalon, commit d5f18de): 1 − missed / (met + missed),
    where a late token has missed ⌊(gap − slack) / next_s⌋ deadlines, the first one 1 + ⌊(gap − first_s) / next_s⌋.
    """
    if not (stream.complete and stream.times):
        return 0.0
    first_s = deadlines.first_s if stream.first_s is None else stream.first_s
    met = missed = 0
    slack, due = 0.0, first_s
    for index, gap in enumerate(stream.gaps()):
        if gap <= due + slack + _TOLERANCE_S:
            met += 1
            slack = max(0.0, slack + due - gap)
        else:
            over = gap - slack - (first_s if index == 0 else 0.0)
            passed = math.floor((over + _TOLERANCE_S) / deadlines.next_s) + (index == 0)
            missed += max(1, passed) if form is FluidityForm.CODE else 1
            slack = 0.0
        due = deadlines.next_s
    return met / (met + missed)


def miss_quantile(indices: Sequence[float], q: float = 0.99) -> float | None:
    """The q-quantile over requests of the share of deadlines missed; Etalon calls a load served while it is ≤ 0.1."""
    return quantile([1.0 - index for index in indices], q)


def share_fluid(indices: Sequence[float], least: float = 0.9) -> float | None:
    """Share of requests with a fluidity of at least ``least``."""
    return sum(index >= least for index in indices) / len(indices) if indices else None


def fluid_token_rate(
    streams: Sequence[Stream],
    first_s: float,
    *,
    share: float = 0.99,
    least: float = 0.9,
    form: FluidityForm = FluidityForm.PAPER,
) -> float | None:
    """Etalon's fluid token generation rate in tokens/s: 1 / the smallest ``next_s`` that is kept well enough.

    That is, at which ``share`` of the requests have a fluidity of at least ``least``. Both forms grow with ``next_s``,
    so it is found by bisection. ``None`` if no ``next_s`` is kept so well (too many failed, or were late with their
    first token), or without requests; infinite where any is (answers of one token).
    """
    gaps = [gap for stream in streams if stream.complete for gap in stream.gaps()]
    if not gaps:
        return None

    def kept(next_s: float) -> bool:
        indices = _indices(streams, Deadlines(first_s, next_s), form)
        return (share_fluid(indices, least) or 0.0) >= share

    low, high = _TOLERANCE_S, max(*gaps, 2 * _TOLERANCE_S)
    if not kept(high):
        return None
    if kept(low):
        return math.inf
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if kept(middle) else (middle, high)
        if high / low < 1.0 + 1e-9:
            break
    return 1.0 / high


def _indices(streams: Iterable[Stream], deadlines: Deadlines, form: FluidityForm) -> list[float]:
    return [fluidity_index(stream, deadlines, form) for stream in streams]
