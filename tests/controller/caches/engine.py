"""A plain model of an engine's prefix cache, which does and reports what vLLM's does: the truth for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Key = tuple[object, ...]


@dataclass
class Stored:
    hashes: list[int]
    parent: int | None
    tokens: list[int]
    block_size: int
    extra_keys: list[Key | None] | None
    session: str | None


@dataclass
class Removed:
    hashes: list[int]


class Cleared:
    pass


@dataclass
class Engine:
    """Physical blocks, a queue of free ones in order of eviction, and what each one holds."""

    size: int = 2
    """Tokens to a block."""
    total: int = 12
    seed: int = 0
    content: dict[int, int] = field(default_factory=dict)
    """Block to hash."""
    users: dict[int, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    running: list[list[int]] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    """Not yet taken."""

    def __post_init__(self) -> None:
        self.free = list(range(self.total))

    def restart(self) -> None:
        self.__init__(self.size, self.total, self.seed + 1)  # type: ignore[misc]

    def hashes(self, tokens: Sequence[int], adapter: str | None = None, salt: str | None = None) -> list[int]:
        found: list[int] = []
        parent = None
        for index in range(len(tokens) // self.size):
            block = tuple(tokens[index * self.size : (index + 1) * self.size])
            parent = hash((self.seed, parent, block, *(self.extra(index, adapter, salt) or ()))) & (1 << 64) - 1
            found.append(parent)
        return found

    @staticmethod
    def extra(index: int, adapter: str | None, salt: str | None) -> Key | None:
        keys = (*((adapter,) if adapter else ()), *((salt,) if salt and index == 0 else ()))
        return keys or None

    def lookup(self, tokens: Sequence[int], adapter: str | None = None, salt: str | None = None) -> int:
        """Tokens that would be found for this prompt."""
        held = set(self.content.values())
        count = 0
        for name in self.hashes(tokens[:-1], adapter, salt):
            if name not in held:
                break
            count += 1
        return count * self.size

    def start(
        self,
        tokens: Sequence[int],
        adapter: str | None = None,
        salt: str | None = None,
        session: str | None = None,
        chunk: int = 1000,
    ) -> bool:
        """Take a request in; False if there is no room. ``chunk`` blocks are stored at a time."""
        names = self.hashes(tokens, adapter, salt)
        hit = self.lookup(tokens, adapter, salt) // self.size
        mine = [next(block for block, held in self.content.items() if held == name) for name in names[:hit]]
        if len([block for block in self.free if block not in mine]) < len(names) - hit:
            return False
        for block in mine:
            if block in self.free:
                self.free.remove(block)
            self.users[block] = self.users.get(block, 0) + 1
        for first in range(hit, len(names), chunk):
            last = min(first + chunk, len(names))
            for name in names[first:last]:
                block = self.free.pop(0)
                if block in self.content:
                    self.events.append(Removed([self.content.pop(block)]))
                self.content[block], self.users[block] = name, 1
                mine.append(block)
            self.events.append(
                Stored(
                    names[first:last],
                    names[first - 1] if first else None,
                    list(tokens[first * self.size : last * self.size]),
                    self.size,
                    [self.extra(index, adapter, salt) for index in range(first, last)] if adapter or salt else None,
                    session,
                )
            )
        self.running.append(mine)
        return True

    def finish(self) -> None:
        """End the request that has run for longest."""
        if self.running:
            for block in reversed(self.running.pop(0)):
                self.users[block] -= 1
                if not self.users[block]:
                    self.free.append(block)

    def clear(self) -> bool:
        """Empty the cache; not while anything runs."""
        if self.running:
            return False
        self.content.clear()
        self.events.append(Cleared())
        return True

    def take(self) -> list[Any]:
        taken, self.events = self.events, []
        return taken
