"""Replicas that come and go: what was wanted is brought about, as slowly as it is in reality.

A replica is started cold, woken, drained before it is stopped or put to sleep, and started again after a crash. What
the control plane is told about it, a gateway would know: a health check every :attr:`Replicas.watch_s` seconds finds
out that an engine has come up, gone down, or finished its last request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from controller.types import PoolName, WorkerName, WorkerPhase, WorkerSpec
from controller.view import FleetView
from envs.fleet import Fleet

__all__ = ["Mechanic", "Replica", "Replicas", "Stand", "Wanted"]

_HOUR: Final = 3600.0


class Stand(StrEnum):
    """Where a replica stands."""

    OFF = "off"
    """It does not exist, and costs nothing."""
    STARTING = "starting"
    WAKING = "waking"
    READY = "ready"
    DOWN = "down"
    """It has crashed, and is being started again."""
    DRAINING = "draining"
    """It is given nothing new; when its last request has ended, it is put to sleep or stopped."""
    FALLING = "falling asleep"
    ASLEEP = "asleep"

    @property
    def phase(self) -> WorkerPhase:
        """What the control plane is told."""
        return _PHASES[self]


_PHASES: Final = {
    Stand.OFF: WorkerPhase.DRAINING,
    Stand.STARTING: WorkerPhase.STARTING,
    Stand.WAKING: WorkerPhase.STARTING,
    Stand.READY: WorkerPhase.READY,
    Stand.DOWN: WorkerPhase.UNHEALTHY,
    Stand.DRAINING: WorkerPhase.DRAINING,
    Stand.FALLING: WorkerPhase.SLEEPING,
    Stand.ASLEEP: WorkerPhase.SLEEPING,
}
_SERVING: Final = frozenset({Stand.STARTING, Stand.WAKING, Stand.READY, Stand.DOWN})
"""These serve, or will without being told to."""
_SLEEPING: Final = frozenset({Stand.FALLING, Stand.ASLEEP})
_ON_THEIR_WAY: Final = {
    Stand.STARTING: Stand.READY,
    Stand.WAKING: Stand.READY,
    Stand.DOWN: Stand.READY,
    Stand.FALLING: Stand.ASLEEP,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many replicas of a pool should serve, and how many sleep."""

    ready: int
    asleep: int = 0


@dataclass(slots=True)
class Replica:
    """One replica. ``until`` is when its present stand is over by itself, ``since`` when it began."""

    spec: WorkerSpec
    usd_per_hour: float
    stand: Stand = Stand.OFF
    since: float = 0.0
    until: float = math.inf


class Mechanic(Protocol):
    """Does to workers what was decided. Moments are seconds on the fleet's clock; each says when it will be done."""

    def start(self, worker: WorkerSpec, now: float) -> float:
        """Bring a worker up that is off."""
        ...

    def stop(self, worker: WorkerSpec, now: float) -> None:
        """Take down a worker that does nothing."""
        ...

    def sleep(self, worker: WorkerSpec, now: float) -> float:
        """Put a ready worker to sleep that does nothing."""
        ...

    def wake(self, worker: WorkerSpec, now: float) -> float:
        """Wake a worker up that sleeps or is falling asleep."""
        ...

    def back_at(self, worker: WorkerSpec, now: float) -> float | None:
        """``None`` of a worker that is up; of one that has crashed, when it will be up again, infinite if unknown."""
        ...

    def tell(self, worker: WorkerName, phase: WorkerPhase, now: float) -> None:
        """Tell the control plane where a worker stands."""
        ...

    def look(self, now: float) -> FleetView:
        """What the control plane sees."""
        ...


class Replicas:
    """The replicas of a fleet's pools, and time: use :meth:`advance` and :meth:`drain` in place of the fleet's own.

    ``specs`` has every replica that may ever be, by pool; the first ``running`` of each are ready at the start.
    ``usd_per_hour`` is a replica's price by pool, of which a sleeping one costs ``asleep_share``.
    """

    def __init__(
        self,
        fleet: Fleet,
        mechanic: Mechanic,
        specs: Mapping[PoolName, Sequence[WorkerSpec]],
        running: Mapping[PoolName, int],
        usd_per_hour: Mapping[PoolName, float],
        *,
        asleep_share: float = 0.2,
        watch_s: float = 1.0,
    ) -> None:
        self.watch_s = watch_s
        self.usd = 0.0
        """What all replicas have cost so far."""
        self._fleet = fleet
        self._mechanic = mechanic
        self._asleep_share = asleep_share
        self._pools = {
            pool: [
                Replica(spec, usd_per_hour[pool], Stand.READY if place < running[pool] else Stand.OFF)
                for place, spec in enumerate(own)
            ]
            for pool, own in specs.items()
        }
        self._wanted = {pool: Wanted(running[pool]) for pool in specs}
        self._billed_until = fleet.now
        self._watch_at = fleet.now + watch_s

    def of(self, pool: PoolName) -> Sequence[Replica]:
        """A pool's replicas."""
        return self._pools[pool]

    def count(self, pool: PoolName, *stands: Stand) -> int:
        """How many of a pool's replicas stand so."""
        return sum(replica.stand in stands for replica in self._pools[pool])

    def want(self, pool: PoolName, wanted: Wanted) -> None:
        """So many replicas are wanted from now on; what can be done at once is done.

        Raises:
            ValueError: a number is negative, or there cannot be so many.
        """
        most = len(self._pools[pool])
        if wanted.ready < 0 or wanted.asleep < 0 or wanted.ready + wanted.asleep > most:
            raise ValueError(f"pool {pool!r} has up to {most} replicas, so it cannot have {wanted}")
        self._wanted[pool] = wanted
        self._bill(self._fleet.now)
        self._bring_about(pool, self._fleet.now)

    def advance(self, until: float) -> None:
        """Let everything happen up to and including ``until``."""
        while self._watch_at <= until:
            at = self._watch_at
            self._fleet.advance(at)
            self._watch(at)
        self._fleet.advance(until)
        self._bill(until)

    def drain(self, limit: float) -> None:
        """Go on until nothing is open or the clock shows ``limit``."""
        while self._fleet.open and self._watch_at <= limit:
            at = self._watch_at
            self._fleet.drain(at)
            if self._fleet.open:
                self._fleet.advance(at)
                self._watch(at)
        if self._fleet.open:
            self._fleet.drain(limit)
        self._bill(self._fleet.now)

    def rouse(self) -> None:
        """Wake up everything that sleeps: the fleet is left as it was found."""
        for replicas in self._pools.values():
            self._take(replicas, Stand.ASLEEP, len(replicas), self._wake, self._fleet.now)

    # What a health check finds

    def _watch(self, now: float) -> None:
        self._bill(now)
        self._watch_at = now + self.watch_s
        for pool, replicas in self._pools.items():
            for replica in replicas:
                self._check(replica, now)
            self._bring_about(pool, now)

    def _check(self, replica: Replica, now: float) -> None:
        stand = replica.stand
        if stand in (Stand.READY, Stand.DRAINING):
            back = self._mechanic.back_at(replica.spec, now)
            if back is not None and stand is Stand.READY:
                self._move(replica, Stand.DOWN, now, back)
        elif stand is Stand.DOWN:
            replica.until = self._mechanic.back_at(replica.spec, now) or now
        if replica.until <= now and replica.stand in _ON_THEIR_WAY:
            self._move(replica, _ON_THEIR_WAY[replica.stand], now)

    # What is to be done

    def _bring_about(self, pool: PoolName, now: float) -> None:
        replicas, wanted = self._pools[pool], self._wanted[pool]
        self._end_drains(pool, now)
        short = wanted.ready - self.count(pool, *_SERVING)
        if short > 0:
            short -= self._take(replicas, Stand.DRAINING, short, self._recall, now)
            short -= self._take(replicas, Stand.ASLEEP, short, self._wake, now)
            short -= self._take(replicas, Stand.FALLING, short, self._wake, now)
            self._take(replicas, Stand.OFF, short, self._start, now)
        elif short < 0:
            self._give_up(pool, -short, now)
        self._stock_sleepers(pool, now)

    def _give_up(self, pool: PoolName, extra: int, now: float) -> None:
        """Of those that serve, so many are too many: those that are not up yet go first, unless they shall sleep."""
        replicas = self._pools[pool]
        stops = max(0, extra - max(0, self._lacking(pool)))
        stopped = self._take(replicas, Stand.DOWN, stops, self._stop, now)
        stopped += self._take(replicas, Stand.STARTING, stops - stopped, self._stop, now)
        drains = extra - stopped - self.count(pool, Stand.STARTING, Stand.WAKING, Stand.DOWN)
        if drains > 0:
            for replica in sorted(self._idlest(pool, now), key=lambda found: found[0])[:drains]:
                self._move(replica[2], Stand.DRAINING, now)
            self._end_drains(pool, now)

    def _stock_sleepers(self, pool: PoolName, now: float) -> None:
        """Stop sleepers that are too many; where some are lacking, start engines that will be put to sleep."""
        replicas, wanted = self._pools[pool], self._wanted[pool]
        self._take(replicas, Stand.ASLEEP, self.count(pool, *_SLEEPING) - wanted.asleep, self._stop, now)
        beyond = max(0, self.count(pool, *_SERVING) - wanted.ready)
        self._take(replicas, Stand.OFF, self._lacking(pool) - beyond, self._start, now)

    def _lacking(self, pool: PoolName) -> int:
        """Sleepers still wanted, when those that drain have been put to sleep."""
        return self._wanted[pool].asleep - self.count(pool, *_SLEEPING, Stand.DRAINING)

    def _end_drains(self, pool: PoolName, now: float) -> None:
        if not self.count(pool, Stand.DRAINING):
            return
        busy = {worker.name for worker in self._mechanic.look(now).pool(pool).workers if worker.inflight}
        for replica in self._pools[pool]:
            if replica.stand is Stand.DRAINING and replica.spec.name not in busy:
                lives = self._mechanic.back_at(replica.spec, now) is None
                if lives and self.count(pool, *_SLEEPING) < self._wanted[pool].asleep:
                    self._move(replica, Stand.FALLING, now, self._mechanic.sleep(replica.spec, now))
                else:
                    self._stop(replica, now)

    def _idlest(self, pool: PoolName, now: float) -> list[tuple[int, str, Replica]]:
        load = {worker.name: worker.inflight for worker in self._mechanic.look(now).pool(pool).workers}
        return [
            (load.get(replica.spec.name, 0), replica.spec.name, replica)
            for replica in self._pools[pool]
            if replica.stand is Stand.READY
        ]

    @staticmethod
    def _take(replicas: Sequence[Replica], stand: Stand, count: int, act: _Act, now: float) -> int:
        """Do something to up to ``count`` of those that stand so; to how many."""
        chosen = [replica for replica in replicas if replica.stand is stand][: max(0, count)]
        for replica in chosen:
            act(replica, now)
        return len(chosen)

    def _start(self, replica: Replica, now: float) -> None:
        self._move(replica, Stand.STARTING, now, self._mechanic.start(replica.spec, now))

    def _recall(self, replica: Replica, now: float) -> None:
        self._move(replica, Stand.READY, now)

    def _wake(self, replica: Replica, now: float) -> None:
        self._move(replica, Stand.WAKING, now, self._mechanic.wake(replica.spec, now))

    def _stop(self, replica: Replica, now: float) -> None:
        self._mechanic.stop(replica.spec, now)
        self._move(replica, Stand.OFF, now)

    def _move(self, replica: Replica, stand: Stand, now: float, until: float = math.inf) -> None:
        if until <= now:
            stand, until = _ON_THEIR_WAY[stand], math.inf
        replica.stand, replica.since, replica.until = stand, now, until
        self._mechanic.tell(replica.spec.name, stand.phase, now)

    # What it costs

    def _bill(self, now: float) -> None:
        hours = (now - self._billed_until) / _HOUR
        if hours <= 0.0:
            return
        self._billed_until = now
        for replicas in self._pools.values():
            for replica in replicas:
                if replica.stand is Stand.ASLEEP:
                    self.usd += hours * replica.usd_per_hour * self._asleep_share
                elif replica.stand is not Stand.OFF:
                    self.usd += hours * replica.usd_per_hour


class _Act(Protocol):
    def __call__(self, replica: Replica, now: float, /) -> None: ...
