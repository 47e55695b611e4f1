"""Replays at another speed: all times multiplied, or scaled to a mean rate. Streams in, streams out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from envs.workloads import Arrival


@dataclass(frozen=True, slots=True)
class Span:
    """How many requests there are, and the time of the last of them, in seconds from the start."""

    requests: int
    seconds: float

    @property
    def rate(self) -> float:
        """Requests per second. Raises ``ValueError`` where there are not two moments to tell it from."""
        if self.requests < 2 or self.seconds <= 0:
            raise ValueError("a mean rate needs at least two arrivals at different times, and a rate above 0")
        return (self.requests - 1) / self.seconds


def span_of(source: Iterable[Arrival]) -> Span:
    """Read to the end, and hold nothing."""
    requests, last = 0, 0.0
    for arrival in source:
        requests, last = requests + 1, arrival.at
    return Span(requests, last)


def stretched(source: Iterable[Arrival], factor: float) -> Iterator[Arrival]:
    """All times, deadlines excepted, multiplied: 0.5 doubles the rate."""
    if not factor > 0:
        raise ValueError(f"the factor must be above 0, not {factor}")
    return (replace(arrival, at=arrival.at * factor) for arrival in source)


def at_rate(source: Iterable[Arrival], rate: float, span: Span | None = None) -> Iterator[Arrival]:
    """Times scaled so that the mean rate is ``rate`` requests per second, as a stream.

    The source is read twice, first for its ``span``, so it must be one that can be (a list, or what
    :func:`envs.traces.open_trace` returns); a stream that can be read once needs its span given. Raises ``ValueError``
    where it is neither, and where a rate cannot be told.
    """
    if not rate > 0:
        raise ValueError(f"the rate must be above 0, not {rate}")
    if span is None and iter(source) is source:
        raise ValueError("this can be read only once: give its span, or pass a list or an opened trace")
    return stretched(source, (span or span_of(source)).rate / rate)
