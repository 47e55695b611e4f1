"""How long a token takes at each worker, measured from how far its streams come between two looks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from controller.types import PoolName, TicketId, WorkerName
from controller.view import FleetView, TicketView, WorkerView
from predictors.latency.model import Profile

__all__ = ["Paces"]

_SHORTEST_S = 0.2
"""Looks that are closer together say little."""
_CONTEXT = 600
"""Tokens of context of a typical stream in the middle of its answer."""
_ENOUGH_S = 1.0
"""A worker counts as measured once its streams were watched for so long."""
_SILENT = 0.5
"""Tokens that a stream counts for which had none between two looks."""


@dataclass(slots=True)
class _Pace:
    alone: float
    at: float
    watched: float


class Paces:
    """Seconds a token at each worker, whatever its batch: s(B) is measured, and s(1) is averaged over ``memory_s``.

    How a step grows with its batch is taken from the pool's profile where there is one; else a token takes ``stretch``
    times as long at a full worker as at one that has a single stream, and in between linearly. A worker not measured
    for ``forget_s`` is taken for the median one of its pool.
    """

    def __init__(
        self,
        stretch: float,
        profiles: Mapping[PoolName, Profile] | None = None,
        memory_s: float = 2.0,
        forget_s: float = 30.0,
    ) -> None:
        self._stretch, self._memory_s, self._forget_s = stretch, memory_s, forget_s
        self._profiles = profiles or {}
        self._paces: dict[WorkerName, _Pace] = {}
        self._seen: dict[TicketId, tuple[WorkerName, int]] = {}
        self._at = -math.inf

    def observe(self, view: FleetView, running: Sequence[TicketView], now: float) -> None:
        """Look at how far every stream has come."""
        passed = now - self._at
        if passed < _SHORTEST_S:
            return
        tokens: dict[WorkerName, float] = {}
        streams: dict[WorkerName, int] = {}
        seen: dict[TicketId, tuple[WorkerName, int]] = {}
        for ticket in running:
            worker, total = ticket.worker, ticket.output_tokens
            if worker is None or ticket.first_token_at is None:
                continue
            seen[ticket.ticket] = worker, total
            before = self._seen.get(ticket.ticket)
            if before is not None and before[0] == worker:
                tokens[worker] = tokens.get(worker, 0.0) + ((total - before[1]) or _SILENT)
                streams[worker] = streams.get(worker, 0) + 1
        self._seen, self._at = seen, now
        share = 1.0 - math.exp(-passed / self._memory_s)
        for pool in view.pools:
            for one in pool.workers:
                if one.name in streams:
                    measured = passed * streams[one.name] / tokens[one.name]
                    self._learn(one.name, measured / self._factor(one, batch_of(one)), share, passed, now)
        self._paces = {name: pace for name, pace in self._paces.items() if now - pace.at <= self._forget_s}

    def alone(self, workers: Sequence[WorkerView]) -> Mapping[WorkerName, float]:
        """s(1) of each worker of a pool; empty while none of them was measured."""
        known = {
            worker.name: pace.alone
            for worker in workers
            if (pace := self._paces.get(worker.name)) is not None and pace.watched >= _ENOUGH_S
        }
        if not known:
            return {}
        typical = median(known.values())
        return {worker.name: known.get(worker.name, typical) for worker in workers}

    def seconds(self, worker: WorkerView, alone: float, batch: float) -> float:
        """s(``batch``) of a worker whose s(1) is ``alone``."""
        return alone * self._factor(worker, batch)

    def _factor(self, worker: WorkerView, batch: float) -> float:
        profile = self._profiles.get(worker.pool)
        if profile is not None:
            return _step(profile, batch) / _step(profile, 1.0)
        return 1.0 + (self._stretch - 1.0) * max(batch - 1.0, 0.0) / max(worker.limit - 1, 1)

    def _learn(self, worker: WorkerName, alone: float, share: float, passed: float, now: float) -> None:
        pace = self._paces.get(worker)
        if pace is None:
            self._paces[worker] = _Pace(alone, now, passed)
        else:
            pace.alone += share * (alone - pace.alone)
            pace.at = now
            pace.watched += passed


def _step(profile: Profile, batch: float) -> float:
    size = max(round(batch), 1)
    return profile.step_seconds(0, size, size * _CONTEXT)


def batch_of(worker: WorkerView) -> int:
    """Requests that a worker has, others' included."""
    return worker.inflight + worker.external
