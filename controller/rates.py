"""Rates measured from events: how fast requests arrive, how fast a pool works."""

from __future__ import annotations

import math

from predictors.latency.model import Profile

_WINDOW_S = 1.0
_MEMORY_S = 10.0


class Arrivals:
    """Exponentially averaged requests per second, fast and slow, with time constants in seconds."""

    __slots__ = ("_at", "_fast", "_fast_s", "_fast_step", "_slow", "_slow_s", "_slow_step")

    def __init__(self, fast_s: float, slow_s: float) -> None:
        self._fast_s, self._slow_s = fast_s, slow_s
        self._fast_step, self._slow_step = 1.0 / fast_s, 1.0 / slow_s
        self._fast = self._slow = 0.0
        self._at = 0.0

    def observe(self, now: float) -> None:
        """One request came."""
        passed = now - self._at
        if passed > 0.0:
            self._fast *= math.exp(-passed / self._fast_s)
            self._slow *= math.exp(-passed / self._slow_s)
        self._fast += self._fast_step
        self._slow += self._slow_step
        self._at = now

    def rates(self, now: float) -> tuple[float, float]:
        """Fast and slow, as of ``now``."""
        passed = now - self._at
        if passed <= 0.0:
            return self._fast, self._slow
        return self._fast * math.exp(-passed / self._fast_s), self._slow * math.exp(-passed / self._slow_s)


class ServiceRate:
    """Token-work per second that one ready worker of a pool completes when it is kept busy.

    Work done while nothing waits shows demand, not capacity: it can only raise the estimate. Work done while tickets
    waited through a whole window moves it either way. Averaged over about ten seconds, because work is often reported
    in lumps (an answer that is not streamed counts when it is complete).
    """

    __slots__ = ("_busy_since", "_done", "_since", "_throughput", "value")

    def __init__(self, initial: float) -> None:
        if not initial > 0:
            raise ValueError(f"a service rate must be positive, not {initial}")
        self.value = initial
        """The estimate."""
        self._throughput = 0.0
        self._done = 0
        self._since = -math.inf
        self._busy_since: float | None = None

    def done(self, work: int, ready: int, now: float) -> None:
        """So much work was completed; ``ready`` workers share it."""
        if now - self._since >= _WINDOW_S:
            self._close(ready, now)
        self._done += work

    def waiting(self, waits: bool, now: float) -> None:
        """Whether any ticket waits for the pool from now on."""
        if not waits:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = now

    def _close(self, ready: int, now: float) -> None:
        length = now - self._since
        if ready > 0 and math.isfinite(length):
            rate = self._done / length / ready
            share = 1.0 - math.exp(-length / _MEMORY_S)
            self._throughput += share * (rate - self._throughput)
            if self._busy_since is not None and self._busy_since <= self._since:
                self.value += share * (rate - self.value)
            self.value = max(self.value, self._throughput, 1e-6)
        self._done = 0
        self._since = now


def busy_rate(profile: Profile, max_inflight: int, context: int = 150) -> float:
    """Token-work per second that an engine of this profile completes with its in-flight limit always reached.

    The limit over the time of one decoding step, at ``context`` tokens a request; reading prompts, which is counted as
    little work, is neglected.
    """
    batch = min(max_inflight, profile.max_num_seqs)
    return batch / profile.step_seconds(0, batch, batch * context)
