"""Step times in integer picoseconds, so that a jump over many steps lands exactly where single steps would.

Seconds at the engine's border become picoseconds inside; 64-bit integers reach 106 days.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from predictors.latency.model import Profile

PS_PER_S: Final = 10**12


def to_ps(seconds: float) -> int:
    """Picoseconds, to the nearest."""
    return round(seconds * PS_PER_S)


def to_seconds(ps: int) -> float:
    """The least float whose :func:`to_ps` is not below ``ps``."""
    seconds = ps / PS_PER_S
    while to_ps(seconds) < ps:
        seconds = math.nextafter(seconds, math.inf)
    return seconds


@dataclass(frozen=True, slots=True)
class StepTiming:
    """A profile's constants in picoseconds; the fields' meanings are those of :class:`Profile`."""

    a: int
    b: int
    c: int
    d: int
    graph_tokens: int
    eager_floor: int
    request_overhead: int
    token_overhead: int

    @classmethod
    def of(cls, profile: Profile) -> StepTiming:
        """Round a profile's seconds to picoseconds."""
        return cls(
            a=to_ps(profile.a),
            b=to_ps(profile.b),
            c=to_ps(profile.c),
            d=to_ps(profile.d),
            graph_tokens=profile.graph_tokens,
            eager_floor=to_ps(profile.eager_floor_s),
            request_overhead=to_ps(profile.request_overhead_s),
            token_overhead=to_ps(profile.token_overhead_s),
        )

    def step(self, prefill_tokens: int, decoding: int, context: int) -> int:
        """Duration of one iteration."""
        ps = self.a + self.b * prefill_tokens + self.c * decoding + self.d * context
        eager = prefill_tokens > 0 and prefill_tokens + decoding > self.graph_tokens
        return max(ps, self.eager_floor) if eager else ps


def run_length(first: int, growth: int, limit: int) -> int:
    """How many steps of durations ``first``, ``first + growth``, ``first + 2·growth``, … end within ``limit``.

    The largest k ≥ 0 with ``k·first + growth·k(k-1)/2 <= limit``, exact for integers of any size.
    """
    if limit < first:
        return 0
    if growth == 0:
        return limit // first
    linear = 2 * first - growth
    return (math.isqrt(linear * linear + 8 * growth * limit) - linear) // (2 * growth)


def run_duration(first: int, growth: int, steps: int) -> int:
    """The total of ``steps`` durations ``first``, ``first + growth``, …"""
    return steps * first + growth * (steps * (steps - 1) // 2)
