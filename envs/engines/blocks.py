"""KV-cache blocks of a simulated engine, counted for runs of steps at once."""

from __future__ import annotations


class BlockPool:
    """Counts blocks; which block is whose does not matter without a prefix cache.

    A decoding sequence has ``base + n`` tokens of context during step n (see
    :class:`envs.engines.sequence.Sequence`) and holds ``ceil((base + n) / block_size)`` blocks from then on, so it
    takes a new one every ``block_size`` steps. Sequences are therefore counted by ``base`` modulo the block size, and
    the blocks that a run of k steps takes cost at most ``block_size`` additions, whatever the batch.
    """

    __slots__ = ("_decoding", "_phases", "block_size", "total", "used")

    def __init__(self, total: int, block_size: int) -> None:
        self.total = total
        self.block_size = block_size
        self.used = 0
        self._decoding = 0
        self._phases = [0] * block_size

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return self.total - self.used

    def for_tokens(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.block_size)

    def join(self, base: int) -> None:
        """A sequence starts decoding; the blocks of its prompt are already counted."""
        self._decoding += 1
        self._phases[base % self.block_size] += 1

    def leave(self, base: int, step: int) -> None:
        """At the boundary before step ``step`` a decoding sequence ends or is preempted; its blocks become free."""
        self._decoding -= 1
        self._phases[base % self.block_size] -= 1
        self.used -= self.for_tokens(base + step - 1)

    def needed(self, step: int) -> int:
        """Blocks that the decoding sequences take in step ``step``."""
        return self._phases[(1 - step) % self.block_size]

    def grow(self, step: int, steps: int) -> None:
        """Take what the decoding sequences need in ``steps`` steps from ``step`` on."""
        cycles, rest = divmod(steps, self.block_size)
        taken = cycles * self._decoding
        for ahead in range(rest):
            taken += self._phases[(1 - step - ahead) % self.block_size]
        self.used += taken

    def steps_until_short(self, step: int, at_most: int) -> int:
        """How many steps from ``step`` on have blocks enough, but no more than ``at_most``."""
        if self._decoding * (at_most // self.block_size + 1) <= self.free:
            return at_most
        cycles, left = divmod(self.free, self._decoding)
        steps = cycles * self.block_size
        while steps < at_most and (need := self.needed(step + steps)) <= left:
            left -= need
            steps += 1
        return min(steps, at_most)
