"""Which workers there are and why: listed, found by DNS, told by the operator, or started by an actuator.

    add ──▶ starting ──first good look──▶ ready ──drain──▶ draining ──undrain──▶ starting ──▶ …
                                                               └── its requests have ended, or the grace has ──▶ removed

Draining only keeps new requests away. Nothing here cuts a request off: what still runs on a worker that was removed
goes on until it has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from controller.errors import DuplicateWorker, UnknownWorker, suggestion
from controller.types import PoolName, WorkerName, WorkerPhase, WorkerSpec
from controller.view import WorkerView
from gateway.driver import Clock, Driver

__all__ = ["Drain", "NotOurs", "Roster", "Source"]

_log = logging.getLogger("headway.workers")


class Source(StrEnum):
    """Where a worker comes from."""

    CONFIG = "config"
    DNS = "dns"
    ADMIN = "admin"
    ACTUATOR = "actuator"
    PROCESS = "process"
    """Started by the actuator of another gateway process on this machine."""


class NotOurs(Exception):
    """The worker is somebody else's to drain or remove; the message says whose."""


@dataclass(frozen=True, slots=True)
class Drain:
    """A worker on its way out. Times on the driver's clock."""

    since: float
    until: float | None
    """When it is removed, whatever runs there; ``None`` for one that is not to be removed."""

    @property
    def removes(self) -> bool:
        """Whether it is removed in the end."""
        return self.until is not None


@dataclass(slots=True)
class _Member:
    spec: WorkerSpec
    source: Source
    drain: Drain | None = None
    waiter: asyncio.Task[None] | None = None


class Roster:
    """The workers of one gateway. Methods must be called in the event loop."""

    def __init__(
        self, driver: Driver, clock: Clock, look: Callable[[WorkerName], None], *, poll_s: float = 0.1
    ) -> None:
        self._driver = driver
        self._now = clock
        self._look = look
        self._poll_s = poll_s
        self._members: dict[WorkerName, _Member] = {}

    def __iter__(self) -> Iterator[tuple[WorkerSpec, Source]]:
        return ((member.spec, member.source) for member in self._members.values())

    def source(self, name: WorkerName) -> Source | None:
        """Where this worker comes from; ``None`` if it is not there."""
        member = self._members.get(name)
        return None if member is None else member.source

    def draining(self, name: WorkerName) -> Drain | None:
        """Its drain, if it is on its way out."""
        member = self._members.get(name)
        return None if member is None else member.drain

    def of(self, pool: PoolName, source: Source) -> tuple[WorkerSpec, ...]:
        """The pool's workers from there."""
        return tuple(m.spec for m in self._members.values() if m.spec.pool == pool and m.source is source)

    # What the driver tells

    def joined(self, spec: WorkerSpec) -> None:
        """A worker has joined the fleet; one that was not added here is an actuator's."""
        self._members.setdefault(spec.name, _Member(spec, Source.ACTUATOR))

    def left(self, name: WorkerName) -> None:
        """A worker has left it."""
        member = self._members.pop(name, None)
        if member is not None:
            self._stop_waiting(member)

    # What the operator, the configuration and DNS want

    def add(self, spec: WorkerSpec, source: Source) -> None:
        """A worker joins once it is healthy.

        Raises DuplicateWorker if its name or its URL is taken, UnknownPool if its pool is not there.
        """
        for other in self._members.values():
            if other.spec.name == spec.name:
                raise DuplicateWorker(f"a worker called {spec.name!r} is already there, at {other.spec.url}")
            if other.spec.url == spec.url:
                raise DuplicateWorker(f"{spec.url} is already there, as worker {other.spec.name!r}")
        self._members[spec.name] = _Member(spec, source)
        try:
            self._driver.add_worker(spec, self._now(), WorkerPhase.STARTING)
        except Exception:
            del self._members[spec.name]
            raise
        _log.info("worker %s joins pool %s (%s): %s", spec.name, spec.pool, source, spec.url)

    def drain(self, name: WorkerName, remove_within: float | None = None) -> Drain:
        """Give the worker nothing new; with ``remove_within``, remove it when it is idle, at the latest after so many
        seconds. Raises UnknownWorker, or NotOurs for an actuator's worker."""
        member = self._ours(name)
        now = self._now()
        since = now if member.drain is None else member.drain.since
        member.drain = Drain(since, None if remove_within is None else now + remove_within)
        self._stop_waiting(member)
        self._driver.set_phase(name, WorkerPhase.DRAINING, now)
        if member.drain.removes:
            member.waiter = asyncio.get_running_loop().create_task(self._remove_when_idle(member, member.drain))
        _log.info("worker %s drains%s", name, ", to be removed" if member.drain.removes else "")
        return member.drain

    def undrain(self, name: WorkerName) -> None:
        """Let it serve again, from its next good look on; one that does not drain is left as it is. Raises as drain."""
        member = self._ours(name)
        if member.drain is None:
            return
        self._stop_waiting(member)
        member.drain = None
        self._driver.set_phase(name, WorkerPhase.STARTING, self._now())
        self._look(name)
        _log.info("worker %s is wanted again", name)

    def remove(self, name: WorkerName) -> None:
        """Take it out now. Raises as drain."""
        self._ours(name)
        self._driver.remove_worker(name, self._now())
        _log.info("worker %s is removed", name)

    def resize(self, spec: WorkerSpec) -> None:
        """The worker of this name may have another number of requests, and schedules by priority or not."""
        self._driver.resize_worker(spec.name, spec.max_inflight, spec.priority_scheduling, self._now())
        self._members[spec.name].spec = spec
        _log.info("worker %s takes %d requests at once", spec.name, spec.max_inflight)

    async def close(self) -> None:
        """Wait for no drain any more."""
        waiters = [member.waiter for member in self._members.values() if member.waiter is not None]
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)

    def _ours(self, name: WorkerName) -> _Member:
        member = self._members.get(name)
        if member is None:
            raise UnknownWorker(f"no worker is called {name!r}{suggestion(name, self._members)}")
        if member.source in (Source.ACTUATOR, Source.PROCESS):
            raise NotOurs(
                f"worker {name!r} was started by pool {member.spec.pool!r}'s actuator, which sees to it itself"
            )
        return member

    async def _remove_when_idle(self, member: _Member, drain: Drain) -> None:
        assert drain.until is not None
        while self._inflight(member.spec) and self._now() < drain.until:
            await asyncio.sleep(self._poll_s)
        left = self._inflight(member.spec)
        member.waiter = None
        if left:
            _log.warning("worker %s is removed with %d requests still running there", member.spec.name, left)
        self.remove(member.spec.name)

    def _inflight(self, spec: WorkerSpec) -> int:
        return sum(worker.inflight for worker in self._views(spec))

    def _views(self, spec: WorkerSpec) -> tuple[WorkerView, ...]:
        workers = self._driver.view(self._now()).pool(spec.pool).workers
        return tuple(worker for worker in workers if worker.name == spec.name and not worker.removed)

    @staticmethod
    def _stop_waiting(member: _Member) -> None:
        if member.waiter is not None:
            member.waiter.cancel()
            member.waiter = None
