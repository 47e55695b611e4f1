"""What a place stage believes to be cached where: what engines say, where they do, and the guess from what was sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from controller.caches.map import CacheMap
from controller.prefix import PrefixIndex
from controller.types import PoolName, Ticket, TicketId, WorkerName

__all__ = ["CacheView", "UsesCacheMaps"]


@runtime_checkable
class UsesCacheMaps(Protocol):
    """A place stage that goes by what engines say of their caches."""

    def use(self, pool: PoolName, cached: CacheMap) -> None:
        """From now on this map says what the pool's workers hold."""
        ...


class CacheView:
    """Matches as :class:`~controller.prefix.PrefixIndex` gives them, in blocks of text from the prompt's start.

    Of a worker of which the map knows everything (:meth:`CacheMap.whole`), the map is believed as far as it knows the
    text; beyond that, and of all others, the guess from what was sent is. What a worker is serving right now counts as
    cached there, whether it has told so yet or not.
    """

    def __init__(self, capacity: int, worker_capacity: int | None = None) -> None:
        self._guess = PrefixIndex(capacity, worker_capacity)
        self._maps: dict[PoolName, CacheMap] = {}
        self._under_way = _UnderWay()

    def use(self, pool: PoolName, cached: CacheMap) -> None:
        """See :class:`UsesCacheMaps`."""
        self._maps[pool] = cached

    def matches(self, ticket: Ticket, pool: PoolName) -> dict[WorkerName, int]:
        """For each of the pool's workers that has something of the prompt: how many blocks, from the first."""
        prefix = ticket.prefix
        found = self._guess.matches(prefix)
        cached = self._maps.get(pool) if self._maps else None
        if cached is None or not prefix:
            return found
        adapter = ticket.needs.adapter
        told = cached.told(prefix, adapter=adapter)
        if not told:
            return found
        held, coming = cached.matches_blocks(prefix, adapter=adapter), self._under_way.matches(prefix)
        for worker in list(found):
            if held.get(worker, 0) < told and cached.whole(worker):
                del found[worker]  # it has given up some of what it was sent
        for more in (held, coming):
            for worker, blocks in more.items():
                found[worker] = max(blocks, found.get(worker, 0))
        return found

    def cached(self, ticket: Ticket, worker: WorkerName) -> int:
        """Blocks of the prompt that this worker has."""
        pool = next((name for name, cached in self._maps.items() if cached.follows(worker)), "")
        return self.matches(ticket, pool).get(worker, 0)

    def placed(self, ticket: Ticket, worker: WorkerName) -> None:
        """The ticket was sent there."""
        self._guess.add(ticket.prefix, worker)
        if self._maps and ticket.prefix:
            self._under_way.add(ticket.id, ticket.prefix, worker)

    def left(self, ticket: TicketId, worker: WorkerName) -> None:
        """It is no longer there."""
        if self._maps:
            self._under_way.discard(ticket, worker)

    def forget(self, worker: WorkerName) -> None:
        """The worker is gone, or starts afresh. What its map says is the map's matter."""
        self._guess.forget(worker)


class _UnderWay:
    """The prompts that workers are serving."""

    def __init__(self) -> None:
        self._prompts: dict[tuple[TicketId, WorkerName], Sequence[int]] = {}
        self._blocks: dict[int, dict[WorkerName, int]] = {}
        """Block to how many prompts with it are at each worker."""

    def matches(self, prefix: Sequence[int]) -> dict[WorkerName, int]:
        found: dict[WorkerName, int] = {}
        for number, block in enumerate(prefix, 1):
            workers = self._blocks.get(block)
            if workers is None:
                break
            found.update(dict.fromkeys(workers, number))  # who has a block has all that come before it
        return found

    def add(self, ticket: TicketId, prefix: Sequence[int], worker: WorkerName) -> None:
        self.discard(ticket, worker)
        self._prompts[ticket, worker] = prefix
        for block in prefix:
            workers = self._blocks.setdefault(block, {})
            workers[worker] = workers.get(worker, 0) + 1

    def discard(self, ticket: TicketId, worker: WorkerName) -> None:
        for block in self._prompts.pop((ticket, worker), ()):
            workers = self._blocks[block]
            if workers[worker] > 1:
                workers[worker] -= 1
            else:
                del workers[worker]
                if not workers:
                    del self._blocks[block]
