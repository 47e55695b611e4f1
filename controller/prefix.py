"""Which worker has lately seen the beginning of a prompt: chains of block hashes, and a bounded index of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from controller.types import WorkerName

BLOCK_CHARS = 256
MAX_BLOCKS = 128


def block_hashes(
    text: str, *, salt: str = "", block_chars: int = BLOCK_CHARS, max_blocks: int = MAX_BLOCKS
) -> tuple[int, ...]:
    """A 64-bit hash for each whole block of ``text``, each covering everything before it as well.

    Two texts share their first n hashes exactly if they share their first n blocks (and the salt: for example a tenant
    whose cache is kept apart). Only the first ``max_blocks`` count. Stable across processes.
    """
    running = blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=8)
    hashes = []
    for start in range(0, min(len(text) // block_chars, max_blocks) * block_chars, block_chars):
        running.update(text[start : start + block_chars].encode("utf-8", "surrogatepass"))
        hashes.append(int.from_bytes(running.copy().digest(), "big"))
    return tuple(hashes)


class PrefixIndex:
    """Remembers which workers were sent which blocks; forgets the least recently used beyond ``capacity`` blocks."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"the capacity must be at least one block, not {capacity}")
        self._capacity = capacity
        self._blocks: OrderedDict[int, dict[WorkerName, None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def matches(self, prefix: Sequence[int]) -> dict[WorkerName, int]:
        """For each worker that has seen the first block: how many blocks from the start it has seen without a gap."""
        found: dict[WorkerName, int] = {}
        here: set[WorkerName] | None = None
        for depth, block in enumerate(prefix, 1):
            workers = self._blocks.get(block)
            here = set() if workers is None else set(workers) if here is None else here.intersection(workers)
            if not here:
                break
            for worker in here:
                found[worker] = depth
        return found

    def add(self, prefix: Sequence[int], worker: WorkerName) -> None:
        """The worker was sent a prompt that begins so."""
        for block in reversed(prefix):
            # Last block first: the beginning of a chain is then the last to be forgotten, as in a worker's own cache.
            self._blocks.setdefault(block, {})[worker] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)

    def forget(self, worker: WorkerName) -> None:
        """The worker's cache is gone; O(blocks)."""
        for block in [block for block, workers in self._blocks.items() if worker in workers]:
            del self._blocks[block][worker]
            if not self._blocks[block]:
                del self._blocks[block]
