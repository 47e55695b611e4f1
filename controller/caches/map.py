"""Which worker's KV cache holds which beginning of a prompt, as the engines themselves report it. One map for a pool.

An engine speaks of blocks of tokens under hashes that mean something to it alone, and the gateway of 256-character
blocks of text (:mod:`controller.prefix`). What relates them:

- A block's *content* names it here: a digest of its tokens, of what else its engine hashes (adapter, salt, images), and
  of its parent's digest. Equal content has the same name on all workers, so for a prompt whose tokens are known the map
  says exactly what each engine would find.
- Where only the text is known, a chain of text blocks leads to a chain of token blocks through *anchors*, learned from
  requests: the engine says which request (``session``) stored a block, and so which tokens that request's text became;
  or the caller knows the tokens. How far a text block reaches into the tokens is taken in proportion, the prompt's
  tokens to its characters. So this is an estimate, of blocks that are themselves known to be there.

Engines keep several copies of a block at times, and report each copy stored and removed: a block is there while one is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from controller.caches.blocks import NOBODY, ROOT, Digest, ExtraKeys, Node, blocks_of, digest_of, path_of
from controller.caches.text import TextAnchors
from controller.types import WorkerName

__all__ = ["CacheMap"]

_GROUPS = 10_000
"""Groups of caches that are looked for, to be kept once."""
_SWEPT = 512
"""Blocks of caches that are no more, dropped with each event."""


class _Cache:
    """One worker's cache. ``number`` is never used again: a cache that was forgotten is a new one."""

    __slots__ = ("block_size", "blocks", "copies", "group", "hashes", "number", "whole", "worker")

    def __init__(self, worker: WorkerName, number: int, whole: bool) -> None:
        self.worker, self.number, self.whole = worker, number, whole
        self.group: int | None = None
        self.block_size = 0
        self.blocks: OrderedDict[int, Digest | None] = OrderedDict()
        """Engine's hash to content, least recently used first; ``None`` where what comes before it is not known."""
        self.hashes: dict[Digest, int] = {}
        self.copies: dict[int, int] = {}
        """Of blocks that there are more than one of."""


class CacheMap:
    """Fed with the engines' events and the gateway's requests; asked where a prompt's beginning is cached.

    ``capacity`` bounds the blocks remembered of each worker, ``anchors`` the text blocks that lead to tokens; the least
    recently used go first. Updates are O(blocks of the event); of a cache that is forgotten the blocks count no more at
    once, and are dropped little by little.
    """

    def __init__(self, capacity: int = 200_000, anchors: int = 200_000) -> None:
        if capacity < 1 or anchors < 1:
            raise ValueError(f"capacity and anchors must be at least 1, not {capacity} and {anchors}")
        self._capacity = capacity
        self._caches: dict[WorkerName, _Cache] = {}
        self._names: dict[int, WorkerName] = {}
        self._gone: list[_Cache] = []
        self._numbers = 0
        self._nodes: dict[Digest, Node] = {}
        self._groups: dict[frozenset[int], frozenset[int]] = {}
        self._text = TextAnchors(self._nodes, anchors)

    # What the engines say

    def stored(
        self,
        worker: WorkerName,
        hashes: Sequence[int],
        parent: int | None,
        tokens: Sequence[int],
        block_size: int,
        *,
        extra_keys: Sequence[ExtraKeys | None] | None = None,
        adapter: str | None = None,
        group: int | None = None,
        session: str | None = None,
    ) -> None:
        """One copy of each of these blocks was added, the first behind ``parent``; ``tokens`` are those of all of them.

        Of a model with several cache groups the first one seen is followed. ``session`` names the request that caused
        it. ``adapter`` counts where ``extra_keys`` is not given. Raises ValueError where the lengths do not agree.
        """
        if block_size < 1 or len(tokens) != block_size * len(hashes):
            raise ValueError(f"{len(tokens)} tokens do not fill {len(hashes)} blocks of {block_size}")
        if extra_keys and len(extra_keys) != len(hashes):
            raise ValueError(f"there are {len(extra_keys)} extra keys to {len(hashes)} blocks")
        self._sweep(max(_SWEPT, 2 * len(hashes)))
        cache = self._caches.get(worker) or self._begin(worker, whole=False)
        if cache.group is None:
            cache.group = group or 0
        if (group or 0) != cache.group or not hashes:
            return
        cache.block_size = block_size
        before = ROOT if parent is None else cache.blocks.get(parent)
        reach = None if before is None else self._reach(before)
        if before is None or reach is None:  # of what comes before these blocks nothing is known
            for name in hashes:
                self._add_copy(cache, name, None)
        else:
            keys = extra_keys or [(adapter,) if adapter else None] * len(hashes)
            for name, data, extra in zip(hashes, blocks_of(tokens, block_size), keys, strict=True):
                reach += block_size
                digest = digest_of(before, data, extra)
                self._hold(cache, name, before, digest, reach)
                before = digest
            if session is not None:
                self._text.told(session, worker, before, block_size)
        self._trim(cache)

    def removed(self, worker: WorkerName, hashes: Sequence[int], *, group: int | None = None) -> None:
        """One copy of each of these blocks is gone. Blocks that are not known are passed over."""
        self._sweep(_SWEPT)
        cache = self._caches.get(worker)
        if cache is None or (group or 0) != (cache.group or 0):
            return
        for name in hashes:
            copies = cache.copies.pop(name, 1)
            if copies > 2:
                cache.copies[name] = copies - 1
            if copies == 1 and name in cache.blocks:
                self._drop(cache, name, cache.blocks.pop(name))

    def cleared(self, worker: WorkerName) -> None:
        """The engine's cache is empty: from here on the map is whole."""
        self.forget(worker, whole=True)

    def forget(self, worker: WorkerName, *, whole: bool = False) -> None:
        """Start anew with this worker. ``whole``: its cache is empty now, so nothing in it is missing here."""
        before = self._caches.get(worker)
        self.leave(worker)
        cache = self._begin(worker, whole)
        if before is not None:
            cache.block_size = before.block_size  # as long as nothing else is said

    def leave(self, worker: WorkerName) -> None:
        """The worker is no more."""
        cache = self._caches.pop(worker, None)
        if cache is None:
            return
        del self._names[cache.number]
        if cache.blocks:
            self._gone.append(cache)

    # What the gateway sent

    def sent(
        self,
        worker: WorkerName,
        chain: Sequence[int],
        chars: int,
        *,
        tokens: Sequence[int] | None = None,
        session: str | None = None,
        adapter: str | None = None,
        salt: str | None = None,
    ) -> None:
        """A prompt of ``chars`` characters, that begins with the text blocks ``chain``, goes to this worker.

        ``tokens``: all of the prompt's, where they are known; else ``session`` is what the engine will call the
        request. Only for prompts of nothing but text, since images have no part in ``chain``.
        """
        cache = self._caches.get(worker)
        if cache is None:
            return
        size = cache.block_size
        if tokens is not None:
            if size:
                path = list(path_of(tokens, size, adapter, salt))
                self._text.anchor(chain, chars, len(tokens), size, adapter, path, range(size, len(tokens) + 1, size))
                self._touch(cache, path)
            return
        self._touch(cache, [digest for digest, _ in self._text.path(chain, size, adapter)])
        if session is not None and chain:
            self._text.expect(session, worker, chain, chars, adapter)

    def counted(self, session: str, tokens: int) -> None:
        """The prompt of this request has so many tokens, as the worker's answer says."""
        self._text.counted(session, tokens)

    # What is asked

    def matches(
        self, tokens: Sequence[int], *, adapter: str | None = None, salt: str | None = None
    ) -> dict[WorkerName, int]:
        """For each worker that has the beginning of this prompt cached, how many tokens its engine would find.

        Exact where the map is whole. An engine computes a prompt's last token in any case, so a block that ends with it
        is not counted.
        """
        found: dict[WorkerName, int] = {}
        for size in self._sizes():
            found.update(self._run(self._known(path_of(tokens[:-1], size, adapter, salt))))
        return found

    def matches_text(self, chain: Sequence[int], *, adapter: str | None = None) -> dict[WorkerName, int]:
        """The same for a prompt of which only the text blocks are known: an estimate, of what requests with the same
        beginning left there. Nothing for text that no request told the tokens of."""
        found: dict[WorkerName, int] = {}
        for size in self._sizes():
            found.update(self._run(node for _, node in self._text.path(chain, size, adapter)))
        return found

    def matches_blocks(self, chain: Sequence[int], *, adapter: str | None = None) -> dict[WorkerName, int]:
        """The same in blocks of text, as :meth:`controller.prefix.PrefixIndex.matches` counts: from the first, those of
        which the worker has all tokens cached."""
        found: dict[WorkerName, int] = {}
        for size in self._sizes():
            matched = self._run(node for _, node in self._text.path(chain, size, adapter))
            reaches = self._text.reaches(chain, size, adapter) if matched else ()
            for worker, tokens in matched.items():
                found[worker] = max((number for number, reach in reaches if reach <= tokens), default=0)
        return {worker: blocks for worker, blocks in found.items() if blocks}

    def told(self, chain: Sequence[int], *, adapter: str | None = None) -> int:
        """Of how many text blocks, from the first, the tokens have been told. Where it is none, to find nothing cached
        means nothing; else, with :meth:`whole`, it means that the worker has it not."""
        return max((self._text.told_of(chain, size, adapter) for size in self._sizes()), default=0)

    def whole(self, worker: WorkerName) -> bool:
        """Whether all that the worker has cached is known; else it may hold more than the map says, never less."""
        cache = self._caches.get(worker)
        return cache is not None and cache.whole

    def follows(self, worker: WorkerName) -> bool:
        """Whether anything has been said of the worker's cache."""
        return worker in self._caches

    def blocks(self, worker: WorkerName) -> int:
        """Different blocks that the worker holds, as far as is known."""
        cache = self._caches.get(worker)
        return 0 if cache is None else len(cache.blocks)

    def __len__(self) -> int:
        """Different blocks that are remembered, whose beginning is known."""
        return len(self._nodes)

    # Blocks

    def _begin(self, worker: WorkerName, whole: bool) -> _Cache:
        self._numbers += 1
        cache = self._caches[worker] = _Cache(worker, self._numbers, whole)
        self._names[cache.number] = worker
        return cache

    def _hold(self, cache: _Cache, name: int, parent: Digest, digest: Digest, tokens: int) -> None:
        self._add_copy(cache, name, digest)
        cache.hashes[digest] = name
        node = self._nodes.get(digest)
        if node is None:
            node = self._nodes[digest] = Node(parent, tokens)
        if cache.number not in node.holders:
            node.holders = self._group(node.holders | {cache.number})

    def _add_copy(self, cache: _Cache, name: int, digest: Digest | None) -> None:
        blocks = cache.blocks
        if name in blocks:
            cache.copies[name] = cache.copies.get(name, 1) + 1
            blocks.move_to_end(name)
            digest = digest or blocks[name]
        blocks[name] = digest

    def _drop(self, cache: _Cache, name: int, digest: Digest | None) -> None:
        if digest is None or cache.hashes.get(digest) != name:
            return
        del cache.hashes[digest]
        node = self._nodes[digest]
        if len(node.holders) == 1:
            del self._nodes[digest]
        else:
            node.holders = self._group(node.holders - {cache.number})

    def _trim(self, cache: _Cache) -> None:
        while len(cache.blocks) > self._capacity:
            name, digest = cache.blocks.popitem(last=False)
            cache.copies.pop(name, None)
            cache.whole = False
            self._drop(cache, name, digest)

    def _sweep(self, blocks: int) -> None:
        """Drop some of what caches held that are no more; all at once would take milliseconds."""
        while self._gone and blocks > 0:
            cache = self._gone[-1]
            if cache.blocks:
                self._drop(cache, *cache.blocks.popitem())
                blocks -= 1
            else:
                self._gone.pop()

    def _touch(self, cache: _Cache, path: Sequence[Digest]) -> None:
        """Used just now; the beginning last, so that it is the last to be forgotten."""
        hashes, blocks = cache.hashes, cache.blocks
        for digest in reversed(path):
            name = hashes.get(digest)
            if name is not None:
                blocks.move_to_end(name)

    def _reach(self, digest: Digest) -> int | None:
        if digest == ROOT:
            return 0
        node = self._nodes.get(digest)
        return None if node is None else node.tokens

    def _group(self, holders: frozenset[int]) -> frozenset[int]:
        if len(self._groups) > _GROUPS:
            self._groups.clear()
        return self._groups.setdefault(holders, holders)

    # Matching

    def _sizes(self) -> set[int]:
        return {cache.block_size for cache in self._caches.values() if cache.block_size}

    def _known(self, path: Iterable[Digest]) -> Iterator[Node]:
        get = self._nodes.get
        for digest in path:
            node = get(digest)
            if node is None:
                return
            yield node

    def _run(self, nodes: Iterable[Node]) -> dict[WorkerName, int]:
        """How far each holder of the first node goes without a gap."""
        found: dict[WorkerName, int] = {}
        names = self._names
        seen = here = NOBODY
        reach = 0
        for node in nodes:
            holders = node.holders
            if holders is not seen:
                seen = holders
                if reach:
                    found.update((names[number], reach) for number in here - holders if number in names)
                    here &= holders
                else:
                    here = holders
                if not here:
                    return found
            reach = node.tokens
        found.update((names[number], reach) for number in here if number in names)
        return found
