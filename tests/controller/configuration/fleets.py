"""Plain configurations that tests change."""

from __future__ import annotations

import copy
from typing import Any

_FLEET: dict[str, Any] = {
    "pools": [
        {"name": "small", "model": "org/small", "tier": 0, "workers": [{"url": "http://a:8000"}]},
        {"name": "large", "model": "org/large", "tier": 1, "workers": [{"url": "http://b:8000"}]},
    ]
}


def fleet(**changes: Any) -> dict[str, Any]:
    """Two pools of one worker each, and these top-level keys."""
    return {**copy.deepcopy(_FLEET), **changes}


def pool(index: int, **changes: Any) -> dict[str, Any]:
    """The same, with these keys in one pool."""
    data = fleet()
    data["pools"][index].update(changes)
    return data
