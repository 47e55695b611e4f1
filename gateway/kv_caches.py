"""Which workers say what their KV caches hold, and the maps that come of it: one a pool that has such workers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from controller.caches.map import CacheMap
from controller.caches.view import UsesCacheMaps
from controller.configuration import Configuration
from controller.protocols import PlaceStage
from controller.types import Dispatch, PoolName, TicketId, WorkerName, WorkerSpec
from gateway.kv_watch import CacheFeed, KvStats, KvWatch
from gateway.openai import Call
from upstream.kv_events_types import KvEndpoints

__all__ = ["SESSION", "KvCaches", "endpoints_of"]

SESSION = b"x-session-id"
"""The header by which a worker is told what to call a request in its events."""


class KvCaches:
    """One for a gateway. While no worker names endpoints, it is false, and does nothing.

    ``place`` is given each pool's map, where it has a use for it.
    """

    def __init__(self, configuration: Configuration, place: PlaceStage, watch: KvWatch | None = None) -> None:
        self._endpoints = endpoints_of(configuration)
        self._adapters = {pool.name: pool.adapters for pool in configuration.pools}
        self._secret = secrets.token_hex(8)
        self._place = place if isinstance(place, UsesCacheMaps) else None
        self._watch = watch or KvWatch()
        self._specs: dict[WorkerName, WorkerSpec] = {}
        self._followed: dict[WorkerName, KvEndpoints] = {}
        self._maps: dict[PoolName, CacheMap] = {}

    def __bool__(self) -> bool:
        return bool(self._followed)

    # Which workers there are

    def joined(self, spec: WorkerSpec) -> None:
        """A worker has joined the fleet."""
        self._specs[spec.name] = spec
        self._follow(spec)

    def left(self, worker: WorkerName) -> None:
        """It has left."""
        spec = self._specs.pop(worker, None)
        if spec is not None:
            self._unfollow(spec)

    def replace(self, configuration: Configuration) -> None:
        """Go by what this one says from now on; workers of which it says the same are listened to without a break."""
        self._endpoints = endpoints_of(configuration)
        for spec in self._specs.values():
            self._follow(spec)

    async def close(self) -> None:
        """Listen no more."""
        await self._watch.close()

    # Requests

    def sent(self, call: Call, dispatch: Dispatch, headers: Mapping[bytes, bytes]) -> bool:
        """A request goes to a worker; true if the worker is to call it by its :meth:`name` (:data:`SESSION`).

        Only where the tokens that the worker tells of can be nothing but those of the text: one prompt, long enough to
        be known by its beginning, without images. ``headers`` are the client's; where it has given the request a
        session of its own, that stays.
        """
        ticket = call.ticket
        if dispatch.worker not in self._followed or not ticket.prefix or ticket.answers != 1 or ticket.needs.modalities:
            return False
        if SESSION in headers or _has_session(call.document.fields):
            return False
        adapter = dispatch.model if dispatch.model in self._adapters[dispatch.pool] else None
        cached = self._maps[dispatch.pool]
        cached.sent(dispatch.worker, ticket.prefix, ticket.prompt_chars, session=self.name(ticket.id), adapter=adapter)
        return True

    def name(self, ticket: TicketId) -> str:
        """What a worker calls a request: nothing that a client could guess, or it could speak for another's."""
        return f"{self._secret}-{ticket}"

    def counted(self, ticket: TicketId, pool: PoolName, prompt_tokens: int) -> None:
        """The worker has said of how many tokens the prompt was."""
        self._maps[pool].counted(self.name(ticket), prompt_tokens)

    # What may be seen

    def of(self, pool: PoolName) -> CacheMap | None:
        """The map of a pool, if any of its workers has been listened to."""
        return self._maps.get(pool)

    def stats(self) -> Mapping[WorkerName, KvStats]:
        """Counters of each worker that is listened to."""
        return self._watch.stats()

    def errors(self) -> Mapping[WorkerName, str]:
        """What is wrong with listening to workers, where something is."""
        return self._watch.errors()

    def _follow(self, spec: WorkerSpec) -> None:
        wanted = self._endpoints.get(spec.url)
        if wanted == self._followed.get(spec.name):
            return
        self._unfollow(spec)
        if wanted is None:
            return
        cached = self._maps.get(spec.pool)
        if cached is None:
            cached = self._maps[spec.pool] = CacheMap()
            if self._place is not None:
                self._place.use(spec.pool, cached)
        self._followed[spec.name] = wanted
        self._watch.add(spec.name, wanted, CacheFeed(cached, spec.name))

    def _unfollow(self, spec: WorkerSpec) -> None:
        if self._followed.pop(spec.name, None) is not None:
            self._watch.remove(spec.name)
            self._maps[spec.pool].leave(spec.name)


def _has_session(fields: Mapping[str, Any]) -> bool:
    inside = fields.get("vllm_xargs")
    return bool(fields.get("session_id")) or (isinstance(inside, Mapping) and "session_id" in inside)


def endpoints_of(configuration: Configuration) -> Mapping[str, KvEndpoints]:
    """Of listed workers, by their URLs."""
    found: dict[str, KvEndpoints] = {}
    for pool in configuration.pools:
        for worker in pool.workers:
            said = worker.kv_events
            if said is not None:
                found[worker.url] = KvEndpoints(said.endpoint, said.replay_endpoint, said.topic)
    return found
