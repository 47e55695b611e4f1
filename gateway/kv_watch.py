"""Listening to the workers' KV-cache events, where they publish them, so that placement knows what is cached where.

Nothing of serving depends on it: a worker that cannot be listened to is only not known so well. What went wrong is
logged and counted, and tried again.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from controller.caches.map import CacheMap
from controller.types import WorkerName
from upstream.kv_events_types import Batch, BlocksRemoved, BlocksStored, Consumer, KvEndpoints

if TYPE_CHECKING:
    import zmq.asyncio

    from upstream.kv_events_subscriber import KvSubscriber

__all__ = ["CacheFeed", "KvStats", "KvWatch"]

_log = logging.getLogger("headway.kv_events")


class CacheFeed:
    """Puts one worker's events into the map of its pool. A :class:`~upstream.kv_events_types.Consumer`."""

    def __init__(self, cached: CacheMap, worker: WorkerName) -> None:
        self._cached = cached
        self._worker = worker
        self.ignored = 0
        """Events about caches behind the engine's own, and of cache groups that hold no whole prefixes."""

    def on_batch(self, batch: Batch) -> None:
        """See :class:`~upstream.kv_events_types.Consumer`."""
        for event in batch.events:
            if isinstance(event, BlocksStored):
                self._on_stored(event)
            elif not isinstance(event, BlocksRemoved):
                self._cached.cleared(self._worker)
            elif event.device:
                self._cached.removed(self._worker, event.hashes, group=event.group)
            else:
                self.ignored += 1

    def on_forget(self, *, whole: bool) -> None:
        """See :class:`~upstream.kv_events_types.Consumer`."""
        self._cached.forget(self._worker, whole=whole)

    def _on_stored(self, event: BlocksStored) -> None:
        if not event.device or not event.prefix:
            self.ignored += 1
            return
        self._cached.stored(
            self._worker,
            event.hashes,
            event.parent,
            event.token_ids,
            event.block_size,
            extra_keys=event.extra_keys,
            adapter=event.adapter,
            group=event.group,
            session=event.session,
        )


@dataclass(slots=True)
class KvStats:
    """Of one worker, since it is watched."""

    connections: int = 0
    """Times that a connection was made."""
    messages: int = 0
    """Batches applied, one an engine step."""
    events: int = 0
    unknown: int = 0
    """Events of kinds that are not known, passed over."""
    malformed: int = 0
    """Messages that could not be read."""
    gaps: int = 0
    """Times that messages were missing."""
    replays: int = 0
    """Of missed messages."""
    resets: int = 0
    """Times that what was known was lost: restarts, and gaps that no replay filled."""
    failures: int = 0
    """Times that listening ended with an error, and began anew."""

    def add(self, subscriber: KvSubscriber) -> None:
        """What this subscriber has seen."""
        counts = subscriber.counts
        self.connections += subscriber.connections
        self.events += subscriber.events
        self.unknown += subscriber.unknown
        self.malformed += subscriber.malformed
        self.messages += counts.messages
        self.gaps += counts.gaps
        self.replays += counts.replays
        self.resets += counts.resets


class _Followed:
    """One worker that is listened to."""

    def __init__(self, endpoints: KvEndpoints, consumer: Consumer) -> None:
        self.endpoints, self.consumer = endpoints, consumer
        self.past = KvStats()
        """Of subscribers that failed."""
        self.subscriber: KvSubscriber | None = None
        self.error: str | None = None
        self.task: asyncio.Task[None] | None = None


class KvWatch:
    """One for a gateway. ``add`` and ``remove`` workers at any time in the event loop; ``close`` at the end."""

    def __init__(self, *, retry_s: float = 5.0) -> None:
        self._retry_s = retry_s
        self._followed: dict[WorkerName, _Followed] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._context: zmq.asyncio.Context | None = None

    def add(self, worker: WorkerName, endpoints: KvEndpoints, consumer: Consumer) -> None:
        """Listen to this worker, in place of what was listened to for it before."""
        self.remove(worker)
        followed = self._followed[worker] = _Followed(endpoints, consumer)
        followed.task = asyncio.get_running_loop().create_task(self._follow(worker, followed))

    def remove(self, worker: WorkerName) -> None:
        """Listen to it no more. What its consumer knows is the caller's to drop."""
        followed = self._followed.pop(worker, None)
        if followed is not None and followed.task is not None:
            followed.task.cancel()
            self._ending.add(followed.task)
            followed.task.add_done_callback(self._ending.discard)

    def stats(self) -> dict[WorkerName, KvStats]:
        """Counters by worker."""
        found = {}
        for worker, followed in self._followed.items():
            stats = found[worker] = replace(followed.past)
            if followed.subscriber is not None:
                stats.add(followed.subscriber)
        return found

    def errors(self) -> dict[WorkerName, str]:
        """What is wrong with listening to workers, where something is."""
        return {name: followed.error for name, followed in self._followed.items() if followed.error is not None}

    async def close(self) -> None:
        """Stop listening."""
        for worker in list(self._followed):
            self.remove(worker)
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    async def _follow(self, worker: WorkerName, followed: _Followed) -> None:
        logged = ""
        while True:
            try:
                await self._listen(followed)
            except Exception as error:  # whatever it is, requests are served without this
                followed.error = _told(error)
                if followed.error != logged:
                    logged = followed.error
                    _log.warning("KV-cache events of worker %s are not heard: %s", worker, logged)
            finally:
                if followed.subscriber is not None:
                    followed.past.add(followed.subscriber)
                    followed.subscriber = None
            followed.past.failures += 1
            followed.consumer.on_forget(whole=False)
            await asyncio.sleep(self._retry_s)

    async def _listen(self, followed: _Followed) -> None:
        import zmq.asyncio

        from upstream.kv_events_subscriber import KvSubscriber

        if self._context is None:
            self._context = zmq.asyncio.Context()
        followed.subscriber = KvSubscriber(followed.endpoints, followed.consumer)
        followed.error = None
        await followed.subscriber.run(self._context)


def _told(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"they need pyzmq and msgspec; install headway[kv-events] ({error})"
    return str(error) or repr(error)
