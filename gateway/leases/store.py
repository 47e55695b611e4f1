"""Leases through Redis, between the gateways of several machines.

Every member writes its last report and reads its last grant; whoever holds a lock that runs out leads. What a leader
grants is written only while the lock is still its own (in one script, on the server), under a number that grows with
every change of leader; the next leader goes on from what was granted last. Without the store the leases stay as they
are, and are halved every ``half_life_s`` after that.

    PREFIX:leader   the lock          PREFIX:reports  member → its last report    PREFIX:gone  members known to be dead
    PREFIX:epoch    its number        PREFIX:grants   member → its last grant

A store that forgets (no persistence, or a failover that lost the last writes) is survived as long as every member comes
back to it within the time a new leader waits (:data:`SETTLE_S`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from controller.leases import Grant, MemberName, Report
from controller.leases_leader import Leader
from gateway.leases import wire

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["StoreLink", "connect"]

SETTLE_S = 2.0
_EVERY_S = 0.1
_LOCK_MS = 2_000
_PREDECESSOR_S = 3.0
_WAIT_S = 1.0
"""For an answer of the store."""
_PAUSE_S = 0.2
_WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
return 1
"""
_log = logging.getLogger("headway.leases")
_Kind = TypeVar("_Kind", Report, Grant)


def connect(url: str) -> Redis:
    """A client for this URL. Raises ModuleNotFoundError where redis-py is missing."""
    from redis.asyncio import Redis

    return Redis.from_url(url, socket_timeout=_WAIT_S, socket_connect_timeout=_WAIT_S)


class StoreLink:
    """One member's way to the store; see :class:`gateway.leases.membership.Link`.

    ``slot`` is what stays the same when the process is started again: a predecessor in it that has fallen silent is
    dead.
    """

    def __init__(self, client: Redis, prefix: str, slot: str, member: MemberName, half_life_s: float) -> None:
        self._redis = client
        self._prefix = prefix
        self._slot = slot
        self._member = member
        self._half_life_s = half_life_s
        self._token = f"{member} {secrets.token_hex(8)}"
        self._report: bytes | None = None
        self._woken = asyncio.Event()
        self._on_grant: Callable[[Grant], None] | None = None
        self._leader: Leader | None = None
        self._epoch = 0
        self._last: dict[MemberName, Grant] = {}
        """What was granted last as far as this member knows."""
        self._numbers: dict[MemberName, bytes] = {}
        self._script = client.register_script(_WRITE)
        self._tasks: list[asyncio.Task[None]] = []
        self._lost = False
        self._closing = False
        """Cancelling alone is not enough: a cancellation that comes together with an answer may be lost on the way."""

    @property
    def leads(self) -> bool:
        """Whether this member is the leader."""
        return self._leader is not None

    async def start(self, on_grant: Callable[[Grant], None]) -> None:
        self._on_grant = on_grant
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()), loop.create_task(self._bury())]

    def send(self, report: Report) -> None:
        self._report = wire.encode(report)
        self._woken.set()

    async def close(self) -> None:
        await self.abandon()
        with suppress(OSError, self._errors()):
            await self._redis.sadd(self._key("gone"), self._member)
            if self._leader is not None:
                await self._script(keys=[self._key("leader"), self._key("grants")], args=[self._token, 1])
        await self._redis.aclose()

    async def abandon(self) -> None:
        """Read and write no more, and say nothing of it."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        while not self._closing:
            try:
                await self._exchange()
                if self._lost:
                    _log.warning("the store of the leases answers again")
                self._lost = False
            except (OSError, self._errors()) as error:
                if not self._lost:
                    _log.warning("the store of the leases does not answer; they stay as they are: %s", error)
                self._lost, self._leader = True, None
                await asyncio.sleep(_PAUSE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._woken.wait()
            self._woken.clear()

    async def _exchange(self) -> None:
        """Bring the report, take the grant, and lead if nobody else does."""
        report, self._report = self._report, None
        async with self._redis.pipeline(transaction=False) as pipe:
            if report is not None:
                pipe.hset(self._key("reports"), self._member, report)
            pipe.hget(self._key("grants"), self._member)
            pipe.get(self._key("leader"))
            *_, grant, leader = await pipe.execute()
        if grant is not None:
            self._heard(grant)
        if leader is None:
            await self._rise()
        elif leader.decode() != self._token:
            self._leader = None
        if self._leader is not None:
            await self._lead(self._leader)

    def _heard(self, data: bytes) -> None:
        grant = _read(data, Grant)
        if grant is not None and self._on_grant is not None:
            self._on_grant(grant)

    # Leading

    async def _rise(self) -> None:
        """Try to become the leader."""
        if not await self._redis.set(self._key("leader"), self._token, nx=True, px=_LOCK_MS):
            self._leader = None
            return
        await self._begin(await self._redis.incr(self._key("epoch")))

    async def _begin(self, epoch: int) -> None:
        """Lead under this number, from what was granted last."""
        stored = await cast("Any", self._redis.hgetall(self._key("grants")))
        grants = {grant.member: grant for data in stored.values() if (grant := _read(data, Grant)) is not None}
        self._last = {**self._last, **grants}
        self._epoch = epoch
        self._leader = Leader(epoch=epoch, settle_s=SETTLE_S, half_life_s=self._half_life_s)
        self._leader.restore(self._last.values(), time.monotonic())
        self._numbers.clear()
        _log.info("this member (%s) leads the leases from now on", self._member)

    async def _lead(self, leader: Leader) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._key("reports"))
            pipe.smembers(self._key("gone"))
            reports, gone = await pipe.execute()
        now = time.monotonic()
        newest = self._hear(leader, reports, now)
        if newest > self._epoch:  # the store has forgotten its number; nobody would listen to a smaller one
            await self._redis.set(self._key("epoch"), newest + 1)
            await self._begin(newest + 1)
            return
        for member in gone:
            leader.gone(member.decode(), now)
        grants = leader.plan(now)
        if not await self._write(grants):
            self._leader = None
            return
        self._last.update({grant.member: grant for grant in grants})
        await self._forget(leader, {name.decode() for name in reports}, {name.decode() for name in gone})
        for grant in grants:
            if grant.member == self._member and self._on_grant is not None:
                self._on_grant(grant)

    def _hear(self, leader: Leader, reports: dict[bytes, bytes], now: float) -> int:
        """The reports that are new; the greatest number of a leader that anybody has heard."""
        newest = 0
        for name, data in reports.items():
            if self._numbers.get(name.decode()) != data:
                self._numbers[name.decode()] = data
                report = _read(data, Report)
                if report is not None:
                    leader.heard(report, now)
                    newest = max(newest, report.applied[0])
        return newest

    async def _write(self, grants: Iterable[Grant]) -> bool:
        """False if somebody else leads by now; then nothing was written."""
        args: list[str | bytes | int] = [self._token, _LOCK_MS]
        for grant in grants:
            args += [grant.member, wire.encode(grant)]
        return bool(await self._script(keys=[self._key("leader"), self._key("grants")], args=args))

    async def _forget(self, leader: Leader, reported: set[MemberName], gone: set[MemberName]) -> None:
        """Remove what is left in the store of members whose use does not count any more."""
        known = set(leader.members())
        old = (reported | set(self._last) | gone) - known
        if old:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hdel(self._key("reports"), *old)
                pipe.hdel(self._key("grants"), *old)
                pipe.srem(self._key("gone"), *old)
                await pipe.execute()
            for member in old:
                self._last.pop(member, None)
                self._numbers.pop(member, None)

    async def _bury(self) -> None:
        """Declare dead whoever had this slot before and has fallen silent."""
        while not self._closing:
            with suppress(OSError, self._errors()):
                before = await self._predecessors()
                await asyncio.sleep(_PREDECESSOR_S)
                after = await self._predecessors()
                silent = [name for name, data in before.items() if after.get(name) == data]
                if silent:
                    await self._redis.sadd(self._key("gone"), *silent)
                if not after.keys() - set(silent):
                    return
            await asyncio.sleep(_PREDECESSOR_S)

    async def _predecessors(self) -> dict[bytes, bytes]:
        reports = await cast("Any", self._redis.hgetall(self._key("reports")))
        mine = self._slot.encode() + b"#"
        return {n: data for n, data in reports.items() if n.startswith(mine) and n.decode() != self._member}

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"

    @staticmethod
    def _errors() -> type[Exception]:
        from redis.exceptions import RedisError

        return RedisError


def _read(data: bytes, kind: type[_Kind]) -> _Kind | None:
    try:
        found = wire.decode(data)
    except wire.WireError as error:
        _log.warning("the store of the leases holds %s", error)
        return None
    return found if isinstance(found, kind) else None
