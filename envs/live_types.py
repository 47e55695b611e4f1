"""What a live fleet is told, and what it says of its requests beyond what a simulated one knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from controller.types import PoolName
from envs.fleet import Ended, FleetRequest

__all__ = ["OVER", "Bodies", "Bounds", "LiveEnded"]

Bodies = Callable[[FleetRequest, PoolName], Mapping[str, Any]]
"""The body to send for a request to a pool's worker: a chat if it has ``messages``, else a plain completion."""
OVER: Final = "episode_over"
"""Code of what was open when an episode reached its bounds, and of what came afterwards."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where an episode ends: so many seconds after the clock's start, and after so many requests."""

    max_seconds: float = math.inf
    """What is open then is aborted."""
    max_requests: float = math.inf
    """Further ones are turned away; those before are answered."""

    def __post_init__(self) -> None:
        if not (self.max_seconds > 0 and self.max_requests >= 1):
            raise ValueError(f"an episode takes time and has at least one request, unlike {self}")


@dataclass(frozen=True, slots=True)
class LiveEnded(Ended):
    """What is known beyond :class:`~envs.fleet.Ended` of a request that real servers had."""

    late_by: float = 0.0
    """Seconds from ``request.at`` to when it was really submitted; the latency has them in it."""
    prompt_tokens: int | None = None
    """As the server counted them."""
    why: str = ""
    """What the last server said, or how it failed, where there is no whole answer."""
