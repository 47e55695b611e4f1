"""What an engine says of its KV cache, apart from how it is sent."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Batch", "BlocksRemoved", "BlocksStored", "CacheCleared", "Consumer", "Event", "ExtraKeys", "KvEndpoints"]

ExtraKeys = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class KvEndpoints:
    """Where an engine publishes, as seen from here: ``tcp://host:port``, or ``ipc://path`` on the same machine."""

    events: str
    replay: str | None = None
    """Without it, every gap and every lost connection costs all that is known of the engine's cache."""
    topic: str = ""
    """Prefix of the topics to listen to; the engine's own, or nothing for all."""


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """Blocks that follow each other were put into the cache, the first one behind ``parent``.

    Hashes are 64-bit, whatever the server sends (of longer ones the last 8 bytes, as vLLM's own switch to integers
    does); they mean something within one engine only. ``token_ids`` has ``block_size`` tokens for each of ``hashes``.
    """

    hashes: tuple[int, ...]
    parent: int | None
    token_ids: array[int]
    block_size: int
    adapter: str | None = None
    """The LoRA adapter's name, or ``#ID`` where only its number was sent."""
    extra_keys: tuple[ExtraKeys | None, ...] | None = None
    """What else went into each block's hash, for example adapter, image and cache salt; ``None`` if not sent."""
    group: int | None = None
    session: str | None = None
    """``session_id`` of the request that caused it."""
    device: bool = True
    """In the engine's own cache, not in one behind it (host memory, storage)."""
    prefix: bool = True
    """Of a cache group that holds whole prefixes, and with tokens to every block."""


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """One copy of each of these blocks was taken out of the cache."""

    hashes: tuple[int, ...]
    group: int | None = None
    device: bool = True


@dataclass(frozen=True, slots=True)
class CacheCleared:
    """The engine's cache is empty."""


Event = BlocksStored | BlocksRemoved | CacheCleared


@dataclass(frozen=True, slots=True)
class Batch:
    """What one engine step did to the cache. ``at`` is the server's wall clock, in seconds."""

    at: float
    events: tuple[Event, ...]
    rank: int | None = None
    """Data-parallel rank."""
    unknown: int = 0
    """Events of kinds that this decoder does not know."""


class Consumer(Protocol):
    """Is told what an engine's cache holds. Called in the event loop; must not block."""

    def on_batch(self, batch: Batch) -> None:
        """One engine step's events, each once and in order."""

    def on_forget(self, *, whole: bool) -> None:
        """What was told holds no more. ``whole``: all of the cache is going to be told; else some of it is not known.

        Comes once before the first batch.
        """
