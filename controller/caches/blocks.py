"""Blocks of prompt tokens named by their content, and the tree that they form."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b

__all__ = ["NOBODY", "ROOT", "Digest", "ExtraKeys", "Node", "blocks_of", "climb", "digest_of", "path_of"]

Digest = bytes
"""Names a block by its tokens, by what else its engine hashes, and by all that comes before it; 8 bytes."""
ExtraKeys = tuple[object, ...]
"""What an engine hashes beside the tokens of a block: adapter, images, cache salt."""
ROOT: Digest = b""
NOBODY: frozenset[int] = frozenset()


class Node:
    """A block that some cache holds. ``tokens``: up to and with it, from the start of the prompt."""

    __slots__ = ("holders", "parent", "tokens")

    def __init__(self, parent: Digest, tokens: int) -> None:
        self.parent = parent
        self.tokens = tokens
        self.holders = NOBODY
        """Numbers of caches."""


def blocks_of(tokens: Sequence[int], size: int) -> Iterator[bytes]:
    """The whole blocks of some tokens. Token ids are non-negative and have 32 bits at most."""
    ids = array("I", tokens)
    data, step = ids.tobytes(), size * ids.itemsize
    for start in range(0, len(data) - step + 1, step):
        yield data[start : start + step]


def digest_of(parent: Digest, data: bytes, extra: ExtraKeys | None) -> Digest:
    """The name of a block behind ``parent``."""
    more = b"" if extra is None else repr(extra).encode("utf-8", "surrogatepass")
    return blake2b(parent + data + more, digest_size=8).digest()


def path_of(tokens: Sequence[int], size: int, adapter: str | None, salt: str | None) -> Iterator[Digest]:
    """The names of a prompt's whole blocks.

    vLLM hashes the adapter's name with every block, and the salt with the first one only.
    """
    every: ExtraKeys = (adapter,) if adapter else ()
    digest = ROOT
    for number, data in enumerate(blocks_of(tokens, size)):
        extra = (*every, salt) if salt and not number else every
        digest = digest_of(digest, data, extra or None)
        yield digest


def climb(nodes: Mapping[Digest, Node], digest: Digest) -> tuple[list[tuple[Digest, Node]], bool]:
    """The blocks from the start of the prompt to this one, in order; and whether all of them are known.

    If not, only those behind the last gap.
    """
    path: list[tuple[Digest, Node]] = []
    while digest != ROOT:
        node = nodes.get(digest)
        if node is None:
            break
        path.append((digest, node))
        digest = node.parent
    path.reverse()
    return path, digest == ROOT
