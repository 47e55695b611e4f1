"""Stage ``scale``: how many replicas each pool should have."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from pydantic import Field

from controller.protocols import Options, Resources
from controller.settings import ReplicaRange
from controller.types import PoolName, Scale, WorkerPhase
from controller.view import FleetView, PoolView

_SHARE = 0.7


class NoScale:
    """Replicas stay as they are."""

    name = "none"
    interval_s: float | None = None

    @classmethod
    def create(cls, options: Options, resources: Resources) -> NoScale:
        return cls()

    def starts(self, pool: PoolName) -> bool:
        return False

    def plan(self, view: FleetView, now: float) -> tuple[Scale, ...]:
        return ()


class TargetTrackingOptions(Options):
    """Options of ``target_tracking``."""

    target: float | None = Field(None, gt=0)
    """Requests in flight or queued that one replica should have; by default 70 % of its in-flight limit."""
    tolerance: float = Field(0.1, ge=0)
    """Deviation from the target, as a share of it, that is let be."""
    interval_s: float = Field(5.0, gt=0)
    """Seconds between two plans."""
    scale_down_stabilisation_s: float = Field(60.0, ge=0)
    """A replica is given up only when none was wanted more than that for so long."""
    max_step: int = Field(1, ge=1)
    """Replicas added or removed by one plan at most."""
    stale_s: float = Field(5.0, gt=0)
    """A pool is left alone while a ready worker's last report is older than this."""


class TargetTracking:
    """Keeps the requests in flight and queued per replica near a target, within each pool's bounds.

    Workers that are starting count as replicas, so that a slow start is not answered with more of them; broken ones do
    not count as capacity. A pool whose reports are stale is left alone: what looks idle may be a metrics outage.
    """

    name = "target_tracking"

    def __init__(self, options: TargetTrackingOptions, replicas: Mapping[PoolName, ReplicaRange]) -> None:
        self._options = options
        self._replicas = replicas
        self._wanted: dict[PoolName, deque[tuple[float, int]]] = {}
        self._targets: dict[PoolName, float] = {}
        self.interval_s: float | None = options.interval_s

    @classmethod
    def create(cls, options: TargetTrackingOptions, resources: Resources) -> TargetTracking:
        return cls(options, resources.replicas)

    def starts(self, pool: PoolName) -> bool:
        return pool in self._replicas and self._replicas[pool].max > 0

    def plan(self, view: FleetView, now: float) -> tuple[Scale, ...]:
        plans = (self._plan(view.pool(pool), bounds, now) for pool, bounds in self._replicas.items())
        return tuple(plan for plan in plans if plan is not None)

    def _plan(self, pool: PoolView, bounds: ReplicaRange, now: float) -> Scale | None:
        if _stale(pool, now, self._options.stale_s):
            return None
        current = pool.replicas
        load = pool.inflight + pool.queued
        wanted = self._stabilised(pool.name, self._wants(pool, load, current), current, now)
        step = self._options.max_step
        replicas = min(max(wanted, current - step), current + step)
        replicas = min(max(replicas, bounds.min), bounds.max)
        if replicas == current:
            return None
        return Scale(pool.name, replicas, f"{load} requests on {current} replicas, {wanted} wanted")

    def _wants(self, pool: PoolView, load: int, current: int) -> int:
        broken = sum(1 for worker in pool.workers if worker.phase is WorkerPhase.UNHEALTHY and not worker.removed)
        serving = current - broken
        target = self._target(pool, load)
        if serving > 0 and abs(load / serving / target - 1.0) <= self._options.tolerance:
            return current
        return math.ceil(load / target) + broken

    def _target(self, pool: PoolView, load: int) -> float:
        if self._options.target is not None:
            return self._options.target
        limits = [w.limit for w in pool.workers if w.phase is not WorkerPhase.UNHEALTHY and not w.removed]
        if limits:
            self._targets[pool.name] = _SHARE * sum(limits) / len(limits)
        # A pool that never had a worker gets one; what that one can take decides about more.
        return self._targets.get(pool.name, float(max(load, 1)))

    def _stabilised(self, pool: PoolName, wanted: int, current: int, now: float) -> int:
        history = self._wanted.setdefault(pool, deque())
        history.append((now, wanted))
        while history[0][0] < now - self._options.scale_down_stabilisation_s:
            history.popleft()
        if wanted >= current:
            return wanted
        seen_long_enough = now - history[0][0] >= self._options.scale_down_stabilisation_s - self._options.interval_s
        return max(count for _, count in history) if seen_long_enough else current


def _stale(pool: PoolView, now: float, after_s: float) -> bool:
    return any(worker.serves and (worker.report is None or now - worker.report.at > after_s) for worker in pool.workers)
