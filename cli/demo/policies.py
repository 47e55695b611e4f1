"""The policies that the demo compares, each as the part of a gateway's configuration that makes it what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["DemoPolicy", "compared"]


@dataclass(frozen=True, slots=True)
class DemoPolicy:
    """A name, a line for the terminal, and the configuration's ``stages`` and ``scoring``."""

    name: str
    about: str
    stages: Mapping[str, Any]
    scoring: Mapping[str, Any]


_NOTHING_LEARNED: Mapping[str, Any] = {"length": None, "quality": None}


def compared(
    static_pool: str, threshold: Mapping[str, Any], best_effort: Mapping[str, Any], *, quality: str | None
) -> tuple[DemoPolicy, ...]:
    """``static``, ``heuristic`` and ``learned``.

    ``static_pool`` is the pool that a static deployment would use, ``threshold`` the tuned options of the heuristic,
    ``best_effort`` those of the learned tier stage, ``quality`` the artifact that predicts each pool's quality.
    """
    return (
        DemoPolicy(
            "static",
            f"every request goes to the {static_pool} pool, first come, first served",
            {"tier": {"name": "static", "pool": static_pool}, "order": "fcfs", "place": "least_load"},
            _NOTHING_LEARNED,
        ),
        DemoPolicy(
            "heuristic",
            "the best pool whose expected wait is short enough (tuned), first come, first served",
            {"tier": {"name": "threshold", **threshold}, "order": "fcfs", "place": "least_load"},
            _NOTHING_LEARNED,
        ),
        DemoPolicy(
            "learned",
            "reinforcement-learned tiers from predicted quality and load, shortest predicted answers first",
            {"tier": {"name": "best_effort", **best_effort}, "order": "length_rank", "place": "least_load"},
            {"length": "length/fast", "quality": quality, "budget_ms": 25.0},
        ),
    )
