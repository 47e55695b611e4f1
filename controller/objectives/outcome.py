"""How one request ended, and what was wanted of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from controller.types import DecisionRecord, Result

_GOODPUT_NAMES = {"ttft": "ttft_s", "tpot": "tpot_s", "e2el": "e2e_s"}
"""What ``vllm bench serve --goodput`` calls the limits, and what they are called here."""


@dataclass(frozen=True, slots=True)
class Served:
    """How one request ended, for the one who sent it. Times in seconds from its arrival.

    ``latency`` is ``None`` unless a complete answer came. ``quality`` in [0, 1] is that of the answer, ``peak`` that of
    the best answer the fleet could have given with all the time in the world.
    """

    latency: float | None
    deadline: float | None = None
    quality: float = 0.0
    peak: float = 1.0
    ttft: float | None = None
    output_tokens: int = 0

    @property
    def in_time(self) -> bool:
        """A complete answer came by the deadline, if there was one."""
        return self.latency is not None and (self.deadline is None or self.latency <= self.deadline)

    @property
    def tpot(self) -> float | None:
        """Seconds per output token after the first (as ``vllm bench serve`` has it: 0 for a single token)."""
        if self.latency is None or self.ttft is None:
            return None
        return seconds_per_token(self.latency - self.ttft, self.output_tokens)

    @property
    def normalised(self) -> float:
        """End-to-end seconds per output token (Orca, Yu et al., OSDI'22); infinite without a complete answer.

        An answer of no token counts as one of a single token.
        """
        return math.inf if self.latency is None else self.latency / max(1, self.output_tokens)


def seconds_per_token(streaming_s: float, output_tokens: int) -> float:
    """Mean gap between two tokens of an answer that took ``streaming_s`` from its first token to its last.

    0 for an answer of at most one token, which has no gaps.
    """
    return streaming_s / (output_tokens - 1) if output_tokens > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Objective:
    """A service level objective in seconds; limits that are ``None`` do not bind. A request's deadline always does."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def met(self, served: Served) -> bool:
        """Whether every limit was kept; never without a complete answer."""
        limits = ((served.ttft, self.ttft_s), (served.tpot, self.tpot_s), (served.latency, self.e2e_s))
        kept = all(limit is None or (value is not None and value <= limit) for value, limit in limits)
        return served.in_time and kept

    @classmethod
    def parse(cls, limits: Iterable[str]) -> Objective:
        """As ``vllm bench serve --goodput`` takes it: ``ttft:500``, ``tpot:50``, ``e2el:10000``, in milliseconds.

        Raises:
            ValueError: a name that there is not, a limit that is not a number from 0 on, or a name given twice.
        """
        found: dict[str, float] = {}
        for text in limits:
            name, _, value = text.partition(":")
            field = _GOODPUT_NAMES.get(name)
            if field is None:
                raise ValueError(f"a limit is NAME:MILLISECONDS with NAME one of ttft, tpot, e2el; {text!r} is not")
            if field in found:
                raise ValueError(f"the limit {name} is given twice")
            found[field] = _milliseconds(text, value)
        return cls(**found)


def _milliseconds(text: str, value: str) -> float:
    try:
        milliseconds = float(value)
    except ValueError:
        milliseconds = math.nan
    if not 0 <= milliseconds < math.inf:
        raise ValueError(f"a limit is NAME:MILLISECONDS with a number from 0 on; {text!r} is not")
    return milliseconds / 1000.0


def served(record: DecisionRecord, deadline: float | None, quality: float = 0.0, peak: float = 1.0) -> Served:
    """How the request of a decision record was served; ``deadline`` in seconds from its arrival."""
    complete = record.result is Result.COMPLETED
    first = record.first_token_at
    return Served(
        latency=record.finished_at - record.submitted_at if complete else None,
        deadline=deadline,
        quality=quality if complete else 0.0,
        peak=peak,
        ttft=None if first is None else first - record.submitted_at,
        output_tokens=0 if record.usage is None else record.usage.output_tokens,
    )
