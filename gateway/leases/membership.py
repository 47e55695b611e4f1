"""A process's part in the leases, in real time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from controller.leases import Grant, Report
from controller.leases_member import Member
from controller.pipeline import ControlPlane
from controller.types import Tenant
from gateway.driver import Clock

__all__ = ["Link", "Membership"]

_LOOK_S = 0.01
_BUSY_S = 0.1
_IDLE_S = 0.25
_URGENT_S = 0.02
_ROOM_S = 0.3
"""So long a request waits for a lease before it is refused for want of one."""
_COST = 20
"""Reports take at most so small a part of the loop's time."""
_WARN_S = 5.0
_log = logging.getLogger("headway.leases")


class Link(Protocol):
    """How reports get to the leader and grants come back."""

    async def start(self, on_grant: Callable[[Grant], None]) -> None:
        """Begin to hear grants. Called once, in the event loop; must not wait for the leader."""

    def send(self, report: Report) -> None:
        """Bring the report to the leader if that can be done now; only the last one matters."""

    async def close(self) -> None:
        """Say that this member has ended, where somebody hears it."""


class Membership:
    """Reports several times a second, and at once when something begins to wait or was given up; puts grants in force.

    ``changed`` is called after every change of the leases, so that what they allow now is dispatched; ``scaling`` when
    this process begins or ceases to be the one that runs ``scale``.
    """

    def __init__(
        self,
        member: Member,
        plane: ControlPlane,
        link: Link,
        clock: Clock,
        *,
        changed: Callable[[], None],
        scaling: Callable[[bool], None],
    ) -> None:
        self.member = member
        self._plane = plane
        self._link = link
        self._now = clock
        self._changed = changed
        self._scaling = scaling
        self._task: asyncio.Task[None] | None = None
        self._granted = asyncio.Event()
        self._next_at = float("-inf")
        self._urgent = False
        self._waited = False
        self._scaled = False
        self._reported_at = float("-inf")
        self._cost = 0.0

    async def start(self) -> None:
        """Join; returns once there are leases."""
        await self._link.start(self._apply)
        self._task = asyncio.get_running_loop().create_task(self._run())
        while not self.member.granted:
            try:
                async with asyncio.timeout(_WARN_S):
                    await self._granted.wait()
            except TimeoutError:
                _log.warning("no leases yet: the leader does not answer; nothing is served before it does")

    async def close(self) -> None:
        """Leave."""
        await self.abandon()
        await self._link.close()

    async def abandon(self) -> None:
        """Report no more, and say nothing of it."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def room(self, tenant: Tenant) -> None:
        """Wait a moment for a lease where only that is missing to take a request of this tenant."""
        until = self._now() + _ROOM_S
        while self._plane.limits.cramped(tenant, self._now()) and self._now() < until:
            self._urgent = True
            self._granted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(until - self._now()):
                    await self._granted.wait()

    async def _run(self) -> None:
        while True:
            now = self._now()
            if self.member.tick(now):
                _log.warning("no leader was heard of for long: the leases are halved")
                self._after(now)
            if self._due(now):
                self._report(now)
            await asyncio.sleep(_LOOK_S)

    def _due(self, now: float) -> bool:
        waits = self._plane.sharing.waits()
        began, self._waited = waits and not self._waited, waits
        if now - self._reported_at < max(_URGENT_S, _COST * self._cost):
            self._urgent = self._urgent or began
            return False
        urgent = began or self._urgent or not self.member.granted
        return urgent or now >= self._next_at or self._plane.sharing.oversteps()

    def _report(self, now: float) -> None:
        self._urgent = False
        self._reported_at = now
        self._next_at = now + (_BUSY_S if self._waited else _IDLE_S)
        self._link.send(self.member.report(now))
        self._cost = self._now() - now

    def _apply(self, grant: Grant) -> None:
        now = self._now()
        if self.member.apply(grant, now):
            self._urgent = True
        self._after(now)
        self._granted.set()

    def _after(self, now: float) -> None:
        if self.member.scales != self._scaled:
            self._scaled = self.member.scales
            self._scaling(self._scaled)
        self._changed()
