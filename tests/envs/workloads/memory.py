"""How much memory a stream holds while it runs."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterable
from itertools import islice


def growth(stream: Iterable[object], warm: int, then: int) -> int:
    """Bytes by which the peak grows while ``then`` items pass, after ``warm`` have."""
    items = iter(stream)
    for _ in islice(items, warm):
        pass
    gc.collect()
    tracemalloc.start()
    try:
        passed = sum(1 for _ in islice(items, then))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert passed == then
    return peak
