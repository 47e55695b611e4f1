"""``/admin/workers`` and ``/admin/reload``: what the operator may change in a running gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from itertools import count
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from controller.configuration.base import Count, Name
from controller.configuration.pools import base_url
from controller.errors import ConfigurationError, DuplicateWorker, UnknownWorker, suggestion
from controller.types import PoolName, WorkerName, WorkerSpec
from gateway.driver import Clock
from gateway.errors import ApiError
from gateway.reload import RestartNeeded
from gateway.roster import Drain, NotOurs, Roster, Source

__all__ = ["Draining", "Member", "NewWorker", "Reloaded", "Workers", "add_routes", "draining_of"]


class NewWorker(BaseModel):
    """A server that is already running, and the pool that it joins."""

    model_config = ConfigDict(extra="forbid")

    pool: str
    url: Annotated[str, AfterValidator(base_url)]
    """Base URL without ``/v1``."""
    name: Name | None = Field(None)
    max_inflight: Count = 32
    priority_scheduling: bool = False

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, Mapping) else ():
            if key not in cls.model_fields:
                raise ValueError(f"unknown key {str(key)[:80]!r}{suggestion(str(key), cls.model_fields)}")
        return data


class Draining(BaseModel):
    """A worker that is given nothing new. ``removed_in_s`` is null for one that stays."""

    since_s: float
    removed_in_s: float | None


class Member(BaseModel):
    """One worker, and where it comes from: ``config``, ``dns``, ``admin`` or ``actuator``."""

    name: str
    pool: str
    url: str
    source: str
    max_inflight: int
    priority_scheduling: bool
    draining: Draining | None


class Reloaded(BaseModel):
    """The top-level keys that were different."""

    changed: list[str]


class Workers:
    """Changes the roster as the operator asks. Raises ApiError where that cannot be."""

    def __init__(self, roster: Roster, pools: Collection[PoolName], now: Clock) -> None:
        self._roster = roster
        self._pools = pools
        self._now = now

    def members(self) -> list[Member]:
        """Every worker."""
        return [self._member(spec, source) for spec, source in self._roster]

    def add(self, new: NewWorker) -> Member:
        """A worker joins; 404 for a pool that is not there, 409 for a name or URL that is."""
        if new.pool not in self._pools:
            raise ApiError(404, "unknown_pool", f"no pool is called {new.pool!r}{suggestion(new.pool, self._pools)}")
        name = new.name or self._free_name(new.pool)
        spec = WorkerSpec(name, new.pool, new.url, new.max_inflight, new.priority_scheduling)
        try:
            self._roster.add(spec, Source.ADMIN)
        except DuplicateWorker as taken:
            raise ApiError(409, "duplicate_worker", str(taken)) from taken
        return self._member(spec, Source.ADMIN)

    def remove(self, name: WorkerName, *, drain: bool, grace_s: float) -> Member:
        """It leaves, once its requests have ended, or so much later."""
        if self._roster.source(name) is Source.DNS:
            message = f"worker {name!r} is found by DNS and would come back; drain it, or take it out of the name"
            raise ApiError(409, "found_by_dns", message)
        member = self._change(name, lambda: self._roster.drain(name, grace_s) if drain else None)
        if not drain:
            self._change(name, lambda: self._roster.remove(name))
        return member

    def drain(self, name: WorkerName) -> Member:
        """It is given nothing new."""
        return self._change(name, lambda: self._roster.drain(name))

    def undrain(self, name: WorkerName) -> Member:
        """It serves again, from its next good look on."""
        return self._change(name, lambda: self._roster.undrain(name))

    def _change(self, name: WorkerName, change: Callable[[], object]) -> Member:
        found = next((one for one in self._roster if one[0].name == name), None)
        try:
            if found is None:
                self._roster.drain(name)  # which says that it is not there, and what is
            change()
        except UnknownWorker as error:
            raise ApiError(404, "unknown_worker", str(error)) from error
        except NotOurs as error:
            raise ApiError(409, "actuator_worker", str(error)) from error
        assert found is not None
        return self._member(*found)

    def _member(self, spec: WorkerSpec, source: Source) -> Member:
        return Member(
            name=spec.name,
            pool=spec.pool,
            url=spec.url,
            source=source,
            max_inflight=spec.max_inflight,
            priority_scheduling=spec.priority_scheduling,
            draining=draining_of(self._roster.draining(spec.name), self._now()),
        )

    def _free_name(self, pool: PoolName) -> WorkerName:
        names = {spec.name for spec, _ in self._roster}
        return next(name for name in (f"{pool}-{n}" for n in count()) if name not in names)


def draining_of(drain: Drain | None, now: float) -> Draining | None:
    """For the operator's eyes."""
    if drain is None:
        return None
    left = None if drain.until is None else max(0.0, drain.until - now)
    return Draining(since_s=now - drain.since, removed_in_s=left)


def add_routes(admin: APIRouter, workers: Workers, reload: Callable[[], Awaitable[Iterable[str]]]) -> None:
    """Put the endpoints into ``/admin``."""
    grace = Query(600.0, ge=0, le=86_400, description="Seconds that running requests may take")

    @admin.get("/workers")
    async def members() -> list[Member]:
        """Every worker, and where it comes from."""
        return workers.members()

    @admin.post("/workers", status_code=201, responses={404: {}, 409: {}})
    async def join(new: NewWorker) -> Member:
        """A worker joins its pool, and serves from its first good look on. It survives a reload, not a restart."""
        return workers.add(new)

    @admin.delete("/workers/{name}", status_code=202, responses={404: {}, 409: {}})
    async def leave(name: str, drain: bool = True, grace_s: float = grace) -> Member:
        """A worker is given nothing new, and removed when its requests have ended, or the grace has; ``/admin/fleet``
        shows how far that is. Requests that then still run there go on. A listed worker comes back by a reload."""
        return workers.remove(name, drain=drain, grace_s=grace_s)

    @admin.post("/workers/{name}/drain", status_code=202, responses={404: {}, 409: {}})
    async def drain(name: str) -> Member:
        """A worker is given nothing new, and stays; for restarting it."""
        return workers.drain(name)

    @admin.post("/workers/{name}/undrain", status_code=202, responses={404: {}, 409: {}})
    async def undrain(name: str) -> Member:
        """It serves again, from its next good look on."""
        return workers.undrain(name)

    @admin.post("/reload", responses={409: {}, 422: {}})
    async def apply() -> Reloaded:
        """Read the configuration again and go by it. Where that cannot be, nothing changes, and the answer says why."""
        try:
            return Reloaded(changed=list(await reload()))
        except RestartNeeded as error:
            raise ApiError(409, "restart_needed", str(error), param=error.keys[0]) from error
        except ConfigurationError as error:
            raise ApiError(422, "invalid_configuration", str(error)) from error
