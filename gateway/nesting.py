"""How deeply JSON is nested, told at little cost: text with few brackets cannot be deep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["deeper_than"]


def deeper_than(limit: int, body: bytes, fields: Mapping[str, Any]) -> bool:
    """Whether an object has more than ``limit`` brackets inside each other, its own included.

    ``body`` is its text, ``fields`` its members as parsed; of duplicate members the last counts, which is the one that
    anything later reads.
    """
    if not _more_openings(limit, body):
        return False
    level: list[Any] = [fields]
    depth = 0
    while level:
        depth += 1
        if depth > limit:
            return True
        level = [
            child
            for holder in level
            for child in (holder.values() if isinstance(holder, Mapping) else holder)
            if isinstance(child, dict | list)
        ]
    return False


def _more_openings(limit: int, body: bytes) -> bool:
    """Whether there are more than ``limit`` of them, in text too. Looking for the next is faster than counting all."""
    found = 0
    for bracket in (b"[", b"{"):
        at = body.find(bracket)
        while at >= 0:
            found += 1
            if found > limit:
                return True
            at = body.find(bracket, at + 1)
    return False
