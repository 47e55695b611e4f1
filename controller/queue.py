"""Queues with keys that may change: every operation is O(log n), amortised.

Ties go to the smaller ``tie`` (the order of submission). Dead entries stay in the heap until they surface, or until
they outnumber the living.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

_Entry = tuple[float, int, int]


class KeyedHeap(Generic[Item]):
    """A priority queue of distinct items; the smallest key comes first."""

    __slots__ = ("_entries", "_heap", "_items", "_serial")

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._items: dict[int, Item] = {}
        self._entries: dict[Item, _Entry] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: Item) -> bool:
        return item in self._entries

    def __iter__(self) -> Iterator[Item]:
        """In order of keys; O(n log n)."""
        return (item for item, _ in sorted(self._entries.items(), key=lambda pair: pair[1]))

    def push(self, item: Item, key: float, tie: int = 0) -> None:
        """Add an item, or give it another key if it is there."""
        self.discard(item)
        self._serial += 1
        entry = (key, tie, self._serial)
        self._entries[item] = entry
        self._items[self._serial] = item
        heapq.heappush(self._heap, entry)

    def discard(self, item: Item) -> bool:
        """Take an item out; false if it was not there."""
        entry = self._entries.pop(item, None)
        if entry is None:
            return False
        del self._items[entry[2]]
        if len(self._heap) > 2 * len(self._entries) + 16:
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)
        return True

    def first(self) -> tuple[Item, float] | None:
        """The first item and its key, left in place; ``None`` if there is none."""
        heap, items = self._heap, self._items
        while heap:
            key, _, serial = heap[0]
            if serial in items:
                return items[serial], key
            heapq.heappop(heap)
        return None

    def pop(self) -> Item:
        """Take the first item out; :class:`IndexError` if there is none."""
        found = self.first()
        if found is None:
            raise IndexError("pop from an empty queue")
        heapq.heappop(self._heap)
        entry = self._entries.pop(found[0])
        del self._items[entry[2]]
        return found[0]


class PoolQueue(Generic[Item]):
    """What waits for one pool: one ordered queue for each group of tenants that the fairness stage tells apart."""

    __slots__ = ("_groups", "_size")

    def __init__(self) -> None:
        self._groups: dict[str, KeyedHeap[Item]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Item]:
        return (item for heap in self._groups.values() for item in heap)

    def push(self, group: str, item: Item, key: float, tie: int) -> bool:
        """Add an item, or re-key it; true if its group waited for nothing before."""
        heap = self._groups.get(group)
        fresh = heap is None
        if heap is None:
            heap = self._groups[group] = KeyedHeap()
        self._size += item not in heap
        heap.push(item, key, tie)
        return fresh

    def discard(self, group: str, item: Item) -> bool:
        """Take an item out; true if its group waits for nothing now."""
        heap = self._groups.get(group)
        if heap is None or not heap.discard(item):
            return False
        return self._shrunk(group, heap)

    def pop(self, group: str) -> tuple[Item, bool]:
        """The group's first item, and whether the group waits for nothing now."""
        heap = self._groups[group]
        item = heap.pop()
        return item, self._shrunk(group, heap)

    def _shrunk(self, group: str, heap: KeyedHeap[Item]) -> bool:
        self._size -= 1
        if heap:
            return False
        del self._groups[group]
        return True
