"""One process among several: its leases, and what it tells the others and hears from them.

The processes of one machine share the workers that the operator adds or drains through any of them, and those that one
of them (the one that runs ``scale``) starts. Metrics and ``/admin/fleet`` of any of them are those of all.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from controller.configuration import Configuration
from controller.errors import (
    ConfigurationError,
    DuplicateWorker,
    HeadwayError,
    Problem,
    UnknownPool,
    UnknownWorker,
)
from controller.leases import MemberName
from controller.leases_member import Member
from controller.pipeline import ControlPlane
from controller.types import Tenant, WorkerName, WorkerPhase, WorkerSpec
from controller.view import FleetView
from gateway.admin_workers import Member as Listed
from gateway.admin_workers import NewWorker, Workers
from gateway.driver import Clock, Driver
from gateway.leases.local import LocalLink
from gateway.leases.membership import Link, Membership
from gateway.leases.pages import add_fleets, add_pages
from gateway.leases.store import StoreLink, connect
from gateway.leases.wire import Tell
from gateway.roster import Roster, Source

__all__ = ["Leases", "Peers", "Place", "SharedPlane", "SharedWorkers", "leases_of"]

_YOUNG_S = 1.0
"""A draining worker is not taken for idle before the other processes had time to say what they have there."""
_log = logging.getLogger("headway.leases")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process stands among others of its machine: its name, and the socket of their parent's hub."""

    member: MemberName
    hub: Path


@dataclass(frozen=True, slots=True)
class Leases:
    """Where the leases come from, if not from the hub, and when they are halved without a leader."""

    member: MemberName
    link: Link
    half_life_s: float


class Peers:
    """Begins with :meth:`start`, which waits for the first leases. ``reload`` reads the configuration again."""

    def __init__(
        self,
        plane: ControlPlane,
        driver: Driver,
        roster: Roster,
        clock: Clock,
        *,
        place: Place | None,
        leases: Leases | None,
        scaling: Callable[[bool], None],
        reload: Callable[[], Awaitable[object]],
        page: Callable[[], bytes],
        fleet: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._driver = driver
        self._roster = roster
        self._now = clock
        self._reload = reload
        self._tasks: set[asyncio.Task[None]] = set()
        self._local = None if place is None else LocalLink(place.hub, place.member)
        if self._local is not None:
            self._local.told = self._told
            self._local.orphaned = _end
            self._local.answers = {
                "metrics": lambda: page().decode(),
                "fleet": lambda: orjson.dumps(fleet()).decode(),
            }
        if leases is not None:
            member = Member(plane.sharing, leases.member, clock(), half_life_s=leases.half_life_s)
            link: Link = leases.link
        else:
            assert place is not None
            assert self._local is not None
            member, link = Member(plane.sharing, place.member, clock()), self._local
        self._link = link
        self._membership = Membership(member, plane, link, clock, changed=driver.pump_soon, scaling=scaling)
        self.plane = SharedPlane(driver, plane, clock, self.tell)

    async def start(self) -> None:
        """Join; returns once there are leases."""
        if self._local is not None and self._local is not self._link:
            await self._local.start()
        await self._membership.start()

    async def close(self) -> None:
        """Leave."""
        for task in tuple(self._tasks):
            task.cancel()
        await self._membership.close()
        if self._local is not None and self._local is not self._link:
            await self._local.close()

    async def room(self, tenant: Tenant) -> None:
        """See :meth:`gateway.leases.membership.Membership.room`."""
        await self._membership.room(tenant)

    async def page(self, own: bytes) -> bytes:
        """The metrics of all processes of this machine."""
        return add_pages(own, [page.encode() for page in await self._ask("metrics")])

    async def fleet(self, own: dict[str, Any]) -> dict[str, Any]:
        """The fleet with what all processes of this machine have in it."""
        return add_fleets(own, [orjson.loads(fleet) for fleet in await self._ask("fleet")])

    def tell(self, tell: Tell) -> None:
        """Let the other processes of this machine know."""
        if self._local is not None:
            self._local.tell(tell)

    async def _ask(self, what: str) -> Iterable[str]:
        return () if self._local is None else await self._local.ask(what)

    # What the others tell

    def _told(self, tell: Tell) -> None:
        try:
            if tell.what == "reload":
                self._begin(self._read_again())
            elif tell.what == "add":
                source = Source.PROCESS if tell.details.get("started") else Source.ADMIN
                self._roster.add(_spec(tell), source)
            elif self._roster.source(tell.worker) is Source.PROCESS:
                self._follow(tell)
            else:
                self._change(tell)
        except (DuplicateWorker, UnknownPool, UnknownWorker, ValueError) as error:
            _log.warning("another process says of worker %s: %s; here, %s", tell.worker, tell.what, error)

    def _change(self, tell: Tell) -> None:
        if tell.what == "drain":
            self._roster.drain(tell.worker)
        elif tell.what == "undrain":
            self._roster.undrain(tell.worker)
        elif tell.what == "leave":
            self._roster.drain(tell.worker, float(tell.details.get("grace_s") or 0.0))
        elif tell.what == "remove":
            self._roster.remove(tell.worker)

    def _follow(self, tell: Tell) -> None:
        """A worker that another process has started, and sees to."""
        now = self._now()
        if tell.what == "drain":
            self._driver.set_phase(tell.worker, WorkerPhase.DRAINING, now)
        elif tell.what == "undrain":
            self._driver.set_phase(tell.worker, WorkerPhase.STARTING, now)
        elif tell.what == "remove":
            self._driver.remove_worker(tell.worker, now)

    async def _read_again(self) -> None:
        try:
            await self._reload()
        except HeadwayError as error:
            _log.error("the configuration was not changed: %s", error)

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def leases_of(configuration: Configuration, place: Place | None) -> Leases | None:
    """Where this process's leases come from if not from its parent. Raises ConfigurationError where redis-py is
    missing."""
    cluster = configuration.cluster
    if cluster.redis is None:
        return None
    try:
        client = connect(cluster.redis.get_secret_value())
    except ModuleNotFoundError as error:
        message = "this needs the package redis; install headway with its extra: pip install 'headway[redis]'"
        raise ConfigurationError([Problem("", "cluster.redis", message)]) from error
    slot = cluster.member or f"{socket.gethostname()}:{configuration.listen.port}"
    if place is not None:
        slot = f"{slot}/{place.member.split('.')[0]}"
    member = f"{slot}#{secrets.token_hex(6)}"
    link = StoreLink(client, cluster.prefix, slot, member, cluster.lease_s)
    return Leases(member, link, cluster.lease_s)


class SharedPlane:
    """The control plane as the reconciler needs it (see :class:`controller.actuators.reconciler.Plane`) where other
    processes send requests to the same workers: they hear what becomes of these, and what they have there counts."""

    def __init__(self, driver: Driver, plane: ControlPlane, clock: Clock, tell: Callable[[Tell], None]) -> None:
        self._driver = driver
        self._plane = plane
        self._now = clock
        self._tell = tell
        self._drained: dict[WorkerName, float] = {}

    def add_worker(self, spec: WorkerSpec, now: float, phase: WorkerPhase = WorkerPhase.READY) -> None:
        self._driver.add_worker(spec, now, phase)
        self._tell(added(spec, started=True))

    def set_phase(self, name: WorkerName, phase: WorkerPhase, now: float) -> None:
        self._driver.set_phase(name, phase, now)
        if phase is WorkerPhase.DRAINING:
            self._drained[name] = now
            self._tell(Tell("drain", name))
        elif self._drained.pop(name, None) is not None:
            self._tell(Tell("undrain", name))

    def remove_worker(self, name: WorkerName, now: float) -> None:
        self._drained.pop(name, None)
        self._driver.remove_worker(name, now)
        self._tell(Tell("remove", name))

    def view(self, now: float) -> FleetView:
        young = frozenset(name for name, since in self._drained.items() if now - since < _YOUNG_S)
        return self._plane.sharing.whole(self._plane.view(now), busy=young)


class SharedWorkers(Workers):
    """What the operator changes through one process, the others hear."""

    tell: Callable[[Tell], None] = staticmethod(lambda tell: None)

    def add(self, new: NewWorker) -> Listed:
        listed = super().add(new)
        spec = WorkerSpec(listed.name, listed.pool, listed.url, listed.max_inflight, listed.priority_scheduling)
        self.tell(added(spec, started=False))
        return listed

    def remove(self, name: WorkerName, *, drain: bool, grace_s: float) -> Listed:
        listed = super().remove(name, drain=drain, grace_s=grace_s)
        self.tell(Tell("leave", name, {"grace_s": grace_s}) if drain else Tell("remove", name))
        return listed

    def drain(self, name: WorkerName) -> Listed:
        listed = super().drain(name)
        self.tell(Tell("drain", name))
        return listed

    def undrain(self, name: WorkerName) -> Listed:
        listed = super().undrain(name)
        self.tell(Tell("undrain", name))
        return listed


def _end() -> None:
    """Without a parent nobody replaces this process, and the port has to be free for another parent."""
    signal.raise_signal(signal.SIGTERM)


def added(spec: WorkerSpec, *, started: bool) -> Tell:
    """A worker joins; ``started`` by an actuator, or told by the operator."""
    details: dict[str, str | int | float | bool | None] = {
        "pool": spec.pool,
        "url": spec.url,
        "max_inflight": spec.max_inflight,
        "priority_scheduling": spec.priority_scheduling,
        "started": started,
    }
    return Tell("add", spec.name, details)


def _spec(tell: Tell) -> WorkerSpec:
    details = tell.details
    return WorkerSpec(
        tell.worker,
        str(details["pool"]),
        str(details["url"]),
        int(details["max_inflight"] or 0),
        bool(details["priority_scheduling"]),
    )
