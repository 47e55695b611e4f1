"""Queues with keys that may change: every operation is O(log n), amortised.

Ties go to the smaller ``tie`` (the order of submission). Dead entries stay where they are until they surface, or until
they outnumber the living.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class KeyedHeap(Generic[Item]):
    """A priority queue of distinct items; the smallest key comes first."""

    __slots__ = ("_entries", "_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, Item]] = []
        self._entries: dict[Item, tuple[float, int, int, Item]] = {}
        """Item → its entry in the heap; entries that are nobody's are dead."""
        self._serial = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: Item) -> bool:
        return item in self._entries

    def __iter__(self) -> Iterator[Item]:
        """In order of keys; O(n log n)."""
        return (entry[3] for entry in sorted(self._entries.values()))

    def push(self, item: Item, key: float, tie: int = 0) -> None:
        """Add an item, or give it another key if it is there."""
        self._serial += 1
        entry = (key, tie, self._serial, item)
        self._entries[item] = entry
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 2 * len(self._entries) + 16:
            self._sweep()

    def discard(self, item: Item) -> bool:
        """Take an item out; false if it was not there."""
        if self._entries.pop(item, None) is None:
            return False
        if len(self._heap) > 2 * len(self._entries) + 16:
            self._sweep()
        return True

    def first(self) -> tuple[Item, float] | None:
        """The first item and its key, left in place; ``None`` if there is none."""
        entry = self.head()
        return None if entry is None else (entry[3], entry[0])

    def head(self) -> tuple[float, int, int, Item] | None:
        """The same with its tie: key, tie, a serial number, item."""
        heap, entries = self._heap, self._entries
        while heap:
            entry = heap[0]
            if entries.get(entry[3]) is entry:
                return entry
            heapq.heappop(heap)
        return None

    def pop(self) -> Item:
        """Take the first item out; :class:`IndexError` if there is none."""
        heap, entries = self._heap, self._entries
        while heap:
            entry = heapq.heappop(heap)
            item = entry[3]
            if entries.get(item) is entry:
                del entries[item]
                return item
        raise IndexError("pop from an empty queue")

    def _sweep(self) -> None:
        self._heap = list(self._entries.values())
        heapq.heapify(self._heap)


class Timers(Generic[Item]):
    """What is due when, for moments that mostly come in order: those are kept in a line, only the others in a heap."""

    __slots__ = ("_at", "_heap", "_line", "soonest")

    def __init__(self) -> None:
        self._line: deque[tuple[float, int, Item]] = deque()
        self._heap: list[tuple[float, int, Item]] = []
        self._at: dict[Item, float] = {}
        """Item → when it is due; entries of another moment, or of nobody, are dead."""
        self.soonest = math.inf
        """Nothing is due before this; at that moment something may be."""

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, item: Item) -> bool:
        return item in self._at

    def __iter__(self) -> Iterator[Item]:
        """The first due first; O(n log n)."""
        return iter(sorted(self._at, key=self._at.__getitem__))

    def push(self, item: Item, at: float, tie: int) -> None:
        """Add an item that is not there; it always has the same ``tie``, which no other item has."""
        self._at[item] = at
        line, entry = self._line, (at, tie, item)
        if not line or line[-1] <= entry:
            line.append(entry)
        else:
            heapq.heappush(self._heap, entry)
        if at < self.soonest:
            self.soonest = at

    def discard(self, item: Item) -> bool:
        """Take an item out; false if it was not there."""
        if self._at.pop(item, None) is None:
            return False
        if len(self._line) + len(self._heap) > 2 * len(self._at) + 16:
            self._sweep()
        return True

    def due(self, now: float) -> list[Item]:
        """Take out what is due, the first first."""
        found: list[Item] = []
        if now < self.soonest:
            return found
        while self.soonest <= now:
            entry = self._first()
            if entry is None or entry[0] > now:
                break
            del self._at[entry[2]]
            found.append(entry[2])
        return found

    def next_at(self) -> float | None:
        """When the first is due; ``None`` if there is none."""
        if not self._at:
            return None
        entry = self._first()
        return None if entry is None else entry[0]

    def _first(self) -> tuple[float, int, Item] | None:
        line, heap, at = self._line, self._heap, self._at
        while line and at.get(line[0][2]) != line[0][0]:
            line.popleft()
        while heap and at.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
        first = min(line[0], heap[0]) if line and heap else line[0] if line else heap[0] if heap else None
        self.soonest = math.inf if first is None else first[0]
        return first

    def _sweep(self) -> None:
        at = self._at
        self._line = deque([entry for entry in self._line if at.get(entry[2]) == entry[0]])
        self._heap = [entry for entry in self._heap if at.get(entry[2]) == entry[0]]
        heapq.heapify(self._heap)


class PoolQueue(Generic[Item]):
    """What waits for one pool: one ordered queue for each group of tenants that the fairness stage tells apart.

    Where a single item waits, as mostly while workers have room, it is kept without a queue.
    """

    __slots__ = ("_groups", "_only")

    def __init__(self) -> None:
        self._groups: dict[str, KeyedHeap[Item]] = {}
        self._only: tuple[str, Item, float, int] | None = None
        """Group, item, key and tie of the only one that waits; there are no groups then."""

    def __len__(self) -> int:
        return 1 if self._only is not None else sum(map(len, self._groups.values()))

    def __iter__(self) -> Iterator[Item]:
        if self._only is not None:
            return iter((self._only[1],))
        return (item for heap in self._groups.values() for item in heap)

    def push(self, group: str, item: Item, key: float, tie: int) -> bool:
        """Add an item, or re-key it; true if its group waited for nothing before."""
        only = self._only
        if not self._groups:
            if only is None or only[1] == item:
                self._only = (group, item, key, tie)
                return only is None
            self._only = None
            self._add(*only)
        return self._add(group, item, key, tie)

    def discard(self, group: str, item: Item) -> bool:
        """Take an item out; true if its group waits for nothing now."""
        if self._only is not None and self._only[1] == item:
            self._only = None
            return True
        heap = self._groups.get(group)
        return heap is not None and heap.discard(item) and self._emptied(group, heap)

    def pop(self, group: str) -> tuple[Item, bool]:
        """The group's first item, and whether the group waits for nothing now."""
        only = self._only
        if only is not None and only[0] == group:
            self._only = None
            return only[1], True
        heap = self._groups[group]
        item = heap.pop()
        return item, self._emptied(group, heap)

    def __bool__(self) -> bool:
        return self._only is not None or bool(self._groups)

    def first_of(self, group: str) -> tuple[Item, float, int] | None:
        """A group's first item with its key and tie; ``None`` if it waits for nothing."""
        only = self._only
        if only is not None:
            return only[1:] if only[0] == group else None
        heap = self._groups.get(group)
        head = None if heap is None else heap.head()
        return None if head is None else (head[3], head[0], head[1])

    def firsts(self) -> list[tuple[str, Item, float, int]]:
        """Each group's first item with its key and tie; O(groups)."""
        if self._only is not None:
            return [self._only]
        heads = [(group, heap.head()) for group, heap in self._groups.items()]
        return [(group, head[3], head[0], head[1]) for group, head in heads if head is not None]

    def _add(self, group: str, item: Item, key: float, tie: int) -> bool:
        heap = self._groups.get(group)
        fresh = heap is None
        if heap is None:
            heap = self._groups[group] = KeyedHeap()
        heap.push(item, key, tie)
        return fresh

    def _emptied(self, group: str, heap: KeyedHeap[Item]) -> bool:
        if heap:
            return False
        del self._groups[group]
        return True
