"""Step times in integer picoseconds, so that a jump over many steps lands exactly where single steps would.

Seconds at the engine's border become picoseconds inside; 64-bit integers reach 106 days.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from predictors.latency.model import Profile, padded

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
    overlap: int
    mixed_floor: int
    wide: int
    wide_batch: int
    graph_step: int

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
            overlap=to_ps(profile.overlap_s),
            mixed_floor=to_ps(profile.mixed_floor_s),
            wide=to_ps(profile.wide_s),
            wide_batch=profile.wide_batch,
            graph_step=profile.graph_step,
        )

    def scaled(self, factor: float) -> StepTiming:
        """Steps that take ``factor`` times as long; what the API server adds stays."""
        names = ("a", "b", "c", "d", "eager_floor", "overlap", "mixed_floor", "wide")
        return replace(self, **{name: round(getattr(self, name) * factor) for name in names})

    def step(self, prefill_tokens: int, decoding: int, context: int) -> int:
        """Duration of one iteration."""
        prefill = max(self.b * prefill_tokens - self.overlap, 0)
        wide = self.wide * max(decoding - self.wide_batch, 0)
        ps = self.a + prefill + self.c * padded(decoding, self.graph_step) + self.d * context + wide
        if not prefill_tokens:
            return ps
        eager = prefill_tokens + decoding > self.graph_tokens
        return max(ps, self.eager_floor if eager else self.mixed_floor)
