"""Workers found by DNS: the addresses behind a name join as they appear, and are drained as they vanish.

A look-up that fails says nothing about workers: the last known ones stay, and the failure is shown until one succeeds.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from controller.configuration import Discovery
from controller.errors import DuplicateWorker
from controller.types import PoolName, WorkerSpec
from gateway.roster import Roster, Source

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as DnspythonResolver

__all__ = ["Address", "Finder", "LookupFailed", "Resolver", "SystemResolver"]

_log = logging.getLogger("headway.discovery")
_FAMILIES = {"A": socket.AF_INET, "AAAA": socket.AF_INET6}
_SRV_TIMEOUT_S = 5.0

Address = tuple[str, int]
"""IP address or host name, and port."""


class LookupFailed(Exception):
    """The name could not be looked up, or stands for nothing."""


class Resolver(Protocol):
    """Asks DNS."""

    async def resolve(self, host: str, port: int | None, record: str) -> frozenset[Address]:
        """The addresses behind a name, with ``port`` or (SRV) with their own; never none. Raises LookupFailed."""


class SystemResolver:
    """A and AAAA by the system's resolver; SRV by dnspython, from ``/etc/resolv.conf`` if no ``resolver`` is given."""

    def __init__(self, resolver: DnspythonResolver | None = None) -> None:
        self._resolver = resolver

    async def resolve(self, host: str, port: int | None, record: str) -> frozenset[Address]:
        """See :class:`Resolver`."""
        if record == "SRV":
            return await self._services(host)
        assert port is not None
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, family=_FAMILIES[record], type=socket.SOCK_STREAM
            )
        except OSError as error:
            raise LookupFailed(error.strerror or str(error)) from error
        except UnicodeError as error:
            raise LookupFailed(f"not a host name: {error}") from error
        return frozenset((str(address[0]), port) for *_, address in found)

    async def _services(self, host: str) -> frozenset[Address]:
        try:
            import dns.asyncresolver
            import dns.exception
        except ImportError as error:
            raise LookupFailed("SRV records need dnspython; install headway[dns]") from error
        try:
            resolver = self._resolver = self._resolver or dns.asyncresolver.Resolver()
            answer = await resolver.resolve(host, "SRV", lifetime=_SRV_TIMEOUT_S)
        except (dns.exception.DNSException, OSError) as error:
            raise LookupFailed(str(error)) from error
        lowest = min(record.priority for record in answer)
        best = [record for record in answer if record.priority == lowest]
        return frozenset((record.target.to_text(omit_final_dot=True), record.port) for record in best)


@dataclass(slots=True)
class _Search:
    pool: PoolName
    wanted: Discovery
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    error: str | None = None


class Finder:
    """Keeps the pools' workers what their names stand for."""

    def __init__(self, roster: Roster, resolver: Resolver) -> None:
        self._roster = roster
        self._resolver = resolver
        self._searches: dict[PoolName, _Search] = {}

    def errors(self) -> Mapping[PoolName, str]:
        """Why the last look-up failed, where it did."""
        return {pool: search.error for pool, search in self._searches.items() if search.error is not None}

    async def start(self, pools: Mapping[PoolName, Discovery]) -> None:
        """Look every name up once, then go on looking."""
        await asyncio.gather(*(self._begin(pool, wanted) for pool, wanted in pools.items()))

    async def replace(self, pools: Mapping[PoolName, Discovery]) -> None:
        """Look for these from now on. Workers of pools that are no longer looked for are drained."""
        for pool, search in tuple(self._searches.items()):
            if pools.get(pool) != search.wanted:
                await self._end(search)
                if pool not in pools:
                    self._apply(search, frozenset())
        await self.start({pool: wanted for pool, wanted in pools.items() if pool not in self._searches})

    async def close(self) -> None:
        """Look no more."""
        for search in tuple(self._searches.values()):
            await self._end(search)

    async def _begin(self, pool: PoolName, wanted: Discovery) -> None:
        search = self._searches[pool] = _Search(pool, wanted)
        await self._look(search)
        search.task = asyncio.get_running_loop().create_task(self._run(search))

    async def _end(self, search: _Search) -> None:
        self._searches.pop(search.pool, None)
        if search.task is not None:
            search.task.cancel()
            with suppress(asyncio.CancelledError):
                await search.task

    async def _run(self, search: _Search) -> None:
        while True:
            await asyncio.sleep(search.wanted.interval_s)
            await self._look(search)

    async def _look(self, search: _Search) -> None:
        wanted = search.wanted
        assert wanted.host is not None
        try:
            found = await self._resolver.resolve(wanted.host, wanted.port, wanted.record)
        except LookupFailed as failure:
            if search.error is None:
                _log.warning(
                    "pool %s: looking up %s failed, its workers stay as they are: %s", search.pool, wanted.host, failure
                )
            search.error = f"looking up {wanted.host}: {failure}"
            return
        search.error = None
        self._apply(search, found)

    def _apply(self, search: _Search, found: frozenset[Address]) -> None:
        specs = {spec.name: spec for spec in (_spec(search.pool, search.wanted, address) for address in sorted(found))}
        known = {spec.name: spec for spec in self._roster.of(search.pool, Source.DNS)}
        moved: set[str] = set()
        for name, spec in known.items():
            leaving = self._roster.draining(name)
            removes = leaving is not None and leaving.removes
            wanted = specs.get(name)
            if wanted is not None and wanted.url != spec.url:
                self._roster.remove(name)  # what runs there goes on; the pool is not left without workers meanwhile
                moved.add(name)
                continue
            if wanted is None:
                if not removes:
                    self._roster.drain(name, search.wanted.drain_s)
                continue
            if removes:
                self._roster.undrain(name)
            if wanted != spec:
                self._roster.resize(wanted)
        for name in specs.keys() - (known.keys() - moved):
            try:
                self._roster.add(specs[name], Source.DNS)
            except DuplicateWorker as taken:
                search.error = str(taken)


def _spec(pool: PoolName, wanted: Discovery, address: Address) -> WorkerSpec:
    host, port = address
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    url = f"{wanted.scheme}://{place}"
    return WorkerSpec(f"{pool}@{place}", pool, url, wanted.max_inflight, wanted.priority_scheduling)
