"""From blocks of text to blocks of tokens, without a tokenizer: learned from what requests turned out to be."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from controller.caches.blocks import ROOT, Digest, Node, climb
from controller.prefix import BLOCK_CHARS
from controller.types import WorkerName

_PENDING = 10_000
"""Requests of which the engine may still say what they stored."""
_FIRST_RATIO = 0.25
"""Tokens to a character, until requests have been counted."""
_RATIO_STEP = 0.02
"""What a counted request adds to the running mean."""


class _Pending:
    """A request whose text is known, and whose tokens the engine tells."""

    __slots__ = ("adapter", "chain", "chars", "leaf", "reach", "size", "tokens", "worker")

    def __init__(self, worker: WorkerName, chain: Sequence[int], chars: int, adapter: str | None) -> None:
        self.worker, self.chain, self.chars, self.adapter = worker, tuple(chain), chars, adapter
        self.tokens: int | None = None
        """Of the prompt, once it is counted."""
        self.leaf: Digest | None = None
        """The last block that it stored."""
        self.size = self.reach = 0
        """Tokens of a block; tokens that were stored when it was last looked at."""


class TextAnchors:
    """Leads each block of a text to the block of tokens that it reaches to, in the tree of ``nodes``.

    Of a request, the engine tells the tokens, and the answer how many of them are the prompt's. How far a block of text
    reaches is taken in proportion: the prompt's tokens to its characters. At most ``capacity`` blocks of text are
    remembered; the least recently told go first.
    """

    def __init__(self, nodes: Mapping[Digest, Node], capacity: int) -> None:
        self._nodes = nodes
        self._capacity = capacity
        self._anchors: OrderedDict[tuple[int, int, str | None], Digest] = OrderedDict()
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._ratio = _FIRST_RATIO

    def __len__(self) -> int:
        return len(self._anchors)

    def path(self, chain: Sequence[int], size: int, adapter: str | None) -> list[tuple[Digest, Node]]:
        """The blocks of ``size`` tokens that the deepest known block of the chain leads to, from the prompt's start."""
        limit: int | None = None
        for block in reversed(chain):
            digest = self._anchors.get((block, size, adapter))
            node = None if digest is None else self._nodes.get(digest)
            if digest is None or node is None or (limit is not None and node.tokens >= limit):
                continue
            path, whole = climb(self._nodes, digest)
            if whole:
                return path
            limit = path[0][1].tokens  # nobody holds what comes before this one, so look before it
        return []

    def reaches(self, chain: Sequence[int], size: int, adapter: str | None) -> list[tuple[int, int]]:
        """Of each block of the text that leads to a known block of tokens, its number from 1, and the tokens so far."""
        found = []
        for number, block in enumerate(chain, 1):
            node = self._nodes.get(self._anchors.get((block, size, adapter), ROOT))
            if node is not None:
                found.append((number, node.tokens))
        return found

    def told_of(self, chain: Sequence[int], size: int, adapter: str | None) -> int:
        """Up to which block of the text the tokens were told, be they still cached anywhere or not."""
        numbers = range(len(chain), 0, -1)
        return next((number for number in numbers if (chain[number - 1], size, adapter) in self._anchors), 0)

    def expect(
        self, session: str, worker: WorkerName, chain: Sequence[int], chars: int, adapter: str | None = None
    ) -> None:
        """A request with this text was sent; the engine will call it ``session``."""
        self._pending[session] = _Pending(worker, chain, chars, adapter)
        self._pending.move_to_end(session)
        while len(self._pending) > _PENDING:
            self._pending.popitem(last=False)

    def told(self, session: str, worker: WorkerName, leaf: Digest, size: int) -> None:
        """The request stored blocks; the last of them is ``leaf``."""
        pending = self._pending.get(session)
        if pending is None or pending.worker != worker:
            return
        pending.leaf, pending.size = leaf, size
        if pending.tokens is not None or pending.reach < pending.chars * self._ratio:
            self._resolve(session, pending)

    def counted(self, session: str, tokens: int) -> None:
        """The request's prompt has so many tokens."""
        pending = self._pending.get(session)
        if pending is None or tokens < 1:
            return
        pending.tokens = tokens
        if pending.chars:
            self._ratio += _RATIO_STEP * (tokens / pending.chars - self._ratio)
        self._resolve(session, pending)

    def anchor(
        self,
        chain: Sequence[int],
        chars: int,
        tokens: int,
        size: int,
        adapter: str | None,
        path: Sequence[Digest],
        reaches: Sequence[int],
    ) -> None:
        """A text of ``chars`` became ``tokens``; of these, ``reaches[i]`` end with the block ``path[i]``."""
        index, known = -1, len(path)
        for number, block in enumerate(chain, 1):
            target = tokens * min(1.0, number * BLOCK_CHARS / max(chars, 1))
            if not known or target >= reaches[-1] + size:
                break  # not stored yet
            while index + 1 < known and reaches[index + 1] <= target:
                index += 1
            if index >= 0:
                key = block, size, adapter
                self._anchors[key] = path[index]
                self._anchors.move_to_end(key)
        while len(self._anchors) > self._capacity:
            self._anchors.popitem(last=False)

    def _resolve(self, session: str, pending: _Pending) -> None:
        """While the prompt is being stored, with an estimate of its length, and once more when it is counted."""
        if pending.leaf is None:
            return
        climbed, whole = climb(self._nodes, pending.leaf)
        tokens = pending.tokens or round(pending.chars * self._ratio)
        if whole and climbed:
            pending.reach = climbed[-1][1].tokens
            path, reaches = [digest for digest, _ in climbed], [node.tokens for _, node in climbed]
            self.anchor(pending.chain, pending.chars, tokens, pending.size, pending.adapter, path, reaches)
        if pending.tokens is not None and (not climbed or climbed[-1][1].tokens + pending.size > tokens):
            del self._pending[session]
