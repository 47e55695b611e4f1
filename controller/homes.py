"""The queues of a pool whose tickets may wait for one worker in particular, their *home*, or for any."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, KeysView
from typing import Final, Generic, TypeVar

from controller.queue import PoolQueue

__all__ = ["ANYWHERE", "HomeQueues"]

ANYWHERE: Final = ""
"""The home of those that wait for any worker."""

Item = TypeVar("Item", bound=Hashable)


class HomeQueues(Generic[Item]):
    """One :class:`~controller.queue.PoolQueue` a home. A group counts as waiting as long as it waits at any home."""

    __slots__ = ("_groups", "_queues")

    def __init__(self) -> None:
        self._queues: dict[str, PoolQueue[Item]] = {}
        self._groups: Counter[str] = Counter()
        """Group → homes where it waits."""

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Item]:
        return (item for queue in self._queues.values() for item in queue)

    def homes(self) -> KeysView[str]:
        """Where anything waits, in the order in which it began to."""
        return self._queues.keys()

    def queues(self) -> tuple[PoolQueue[Item], ...]:
        """The queue of each of them."""
        return tuple(self._queues.values())

    def of(self, home: str) -> list[Item]:
        """What waits there."""
        return list(self._queues.get(home, ()))

    def push(self, home: str, group: str, item: Item, key: float, tie: int) -> bool:
        """Add an item, or re-key it at the home where it is; true if its group waited for nothing before."""
        queue = self._queues.get(home)
        if queue is None:
            queue = self._queues[home] = PoolQueue()
        if not queue.push(group, item, key, tie):
            return False
        self._groups[group] += 1
        return self._groups[group] == 1

    def discard(self, home: str, group: str, item: Item) -> bool:
        """Take an item out; true if its group waits for nothing now."""
        queue = self._queues.get(home)
        return queue is not None and queue.discard(group, item) and self._emptied(home, queue, group)

    def pop(self, home: str, group: str) -> tuple[Item, bool]:
        """The group's first item there, and whether the group waits for nothing now."""
        queue = self._queues[home]
        item, emptied = queue.pop(group)
        return item, emptied and self._emptied(home, queue, group)

    def firsts(self, homes: Iterable[str]) -> dict[str, tuple[str, Item]]:
        """For each group that waits at one of these homes: where its first item is, and that item; O(groups)."""
        found: dict[str, tuple[float, int, str, Item]] = {}
        for home in homes:
            queue = self._queues.get(home)
            if queue is None:
                continue
            for group, item, key, tie in queue.firsts():
                best = found.get(group)
                if best is None or (key, tie) < best[:2]:
                    found[group] = key, tie, home, item
        return {group: (home, item) for group, (_, _, home, item) in found.items()}

    def first_of(self, group: str, before: float = math.inf) -> tuple[str, Item] | None:
        """Where a group's first item of all homes is, and that item, if its key is ``before`` this; O(homes)."""
        best: tuple[float, int, str, Item] | None = None
        for home, queue in self._queues.items():
            first = queue.first_of(group)
            if first is not None and (best is None or (first[1], first[2]) < best[:2]):
                best = first[1], first[2], home, first[0]
        return None if best is None or best[0] >= before else best[2:]

    def _emptied(self, home: str, queue: PoolQueue[Item], group: str) -> bool:
        if not queue:
            del self._queues[home]
        self._groups[group] -= 1
        if self._groups[group]:
            return False
        del self._groups[group]
        return True
