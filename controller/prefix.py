"""Which worker has lately seen the beginning of a prompt: chains of block hashes, and a bounded index of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from struct import unpack

from controller.types import WorkerName

BLOCK_CHARS = 256
MAX_BLOCKS = 128
_GROUPS = 10_000
"""Groups of workers that are looked for, to be kept once; beyond that, some are kept twice."""
_NOBODY: frozenset[WorkerName] = frozenset()


def block_hashes(
    text: str, *, salt: str = "", block_chars: int = BLOCK_CHARS, max_blocks: int = MAX_BLOCKS
) -> tuple[int, ...]:
    """A 64-bit hash for each whole block of ``text``, each covering everything before it as well.

    Two texts share their first n hashes exactly if they share their first n blocks (and the salt: for example a tenant
    whose cache is kept apart). Only the first ``max_blocks`` count. Stable across processes.
    """
    whole = min(len(text) // block_chars, max_blocks) * block_chars
    if whole <= 0:
        return ()
    starts = range(0, whole, block_chars)
    data = text[:whole].encode("utf-8", "surrogatepass")
    if len(data) == whole:  # all of it is ASCII, as most prompts are: a character is a byte
        blocks = [data[start : start + block_chars] for start in starts]
    else:
        blocks = [text[start : start + block_chars].encode("utf-8", "surrogatepass") for start in starts]
    running = blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=8)
    digests = []
    for block in blocks:
        running.update(block)
        digests.append(running.digest())
    return unpack(f">{len(digests)}Q", b"".join(digests))


class PrefixIndex:
    """Remembers which workers were sent which blocks; forgets the least recently used beyond ``capacity`` blocks.

    With ``worker_capacity``, it also forgets what a worker with a cache of so many blocks has forgotten by now: of that
    worker, the least recently used beyond it. A chain of hashes finds in a table what a radix tree finds by descent.
    """

    def __init__(self, capacity: int, worker_capacity: int | None = None) -> None:
        if capacity < 1 or (worker_capacity is not None and worker_capacity < 1):
            raise ValueError(f"the capacity must be at least one block, not {min(capacity, worker_capacity or 1)}")
        self._capacity = capacity
        self._worker_capacity = worker_capacity
        self._blocks: OrderedDict[int, frozenset[WorkerName]] = OrderedDict()
        self._caches: dict[WorkerName, OrderedDict[int, None]] = {}
        """Each worker's blocks, the least recently used first; only where their number is bounded."""
        self._groups: dict[frozenset[WorkerName], frozenset[WorkerName]] = {}
        """Groups of workers, each to be kept once: the blocks of a chain mostly share theirs."""

    def __len__(self) -> int:
        return len(self._blocks)

    def matches(self, prefix: Sequence[int]) -> dict[WorkerName, int]:
        """For each worker that has seen the first block: how many blocks from the start it has seen without a gap."""
        found: dict[WorkerName, int] = {}
        seen = here = _NOBODY
        depth = 0
        get = self._blocks.get
        for block in prefix:
            workers = get(block)
            if workers is not seen or not depth:
                if workers is None:
                    break
                seen = workers
                if depth:
                    found.update(dict.fromkeys(here - workers, depth))
                    here &= workers
                else:
                    here = workers
                if not here:
                    break
            depth += 1
        found.update(dict.fromkeys(here, depth))
        return found

    def add(self, prefix: Sequence[int], worker: WorkerName) -> None:
        """The worker was sent a prompt that begins so."""
        blocks = self._blocks
        before: frozenset[WorkerName] | None = _NOBODY
        after = _NOBODY
        for block in reversed(prefix):
            # Last block first: the beginning of a chain is then the last to be forgotten, as in a worker's own cache.
            workers = blocks.get(block)
            if workers is not before:
                before = workers
                after = workers if workers and worker in workers else self._group((workers or _NOBODY) | {worker})
            if workers is not after:
                blocks[block] = after
            if workers is not None:
                blocks.move_to_end(block)
        if self._worker_capacity is not None:
            self._use(prefix, worker, self._worker_capacity)
        while len(blocks) > self._capacity:
            block, workers = blocks.popitem(last=False)
            if self._worker_capacity is not None:
                for name in workers:
                    del self._caches[name][block]

    def forget(self, worker: WorkerName) -> None:
        """The worker's cache is gone; O(blocks)."""
        cache = self._caches.pop(worker, None)
        for block in list(self._blocks) if cache is None else cache:
            self._drop(block, worker)

    def _use(self, prefix: Sequence[int], worker: WorkerName, capacity: int) -> None:
        """The worker has used these blocks last; what its cache had to give up for them is forgotten."""
        cache = self._caches.setdefault(worker, OrderedDict())
        for block in reversed(prefix):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > capacity:
            self._drop(cache.popitem(last=False)[0], worker)

    def _drop(self, block: int, worker: WorkerName) -> None:
        """The worker has this block no more."""
        workers = self._blocks[block]
        if worker in workers:
            if len(workers) == 1:
                del self._blocks[block]
            else:
                self._blocks[block] = self._group(workers - {worker})

    def _group(self, workers: frozenset[WorkerName]) -> frozenset[WorkerName]:
        if len(self._groups) > _GROUPS:
            self._groups.clear()
        return self._groups.setdefault(workers, workers)
