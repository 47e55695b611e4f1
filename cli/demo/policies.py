"""The policies that the demo compares, each as the part of a gateway's configuration that makes it what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["DemoPolicy", "best_effort", "compared", "routed"]


@dataclass(frozen=True, slots=True)
class DemoPolicy:
    """A name, a line for the terminal, and the configuration's ``stages`` and ``scoring``."""

    name: str
    about: str
    stages: Mapping[str, Any]
    scoring: Mapping[str, Any]


_NOTHING_LEARNED: Mapping[str, Any] = {"length": None, "quality": None}
_LENGTH = "length/fast"
_PATIENCE_S = 0.5
"""Where deadlines are a few seconds, a long request that is overtaken for longer is late (chosen in simulation, on the
validation split: with 60 s availability is 0.95, with this 0.99, as in order of arrival)."""
_BUDGET_MS = 25.0
"""Milliseconds for the scores, where simulated workers share the machine."""
_BUSY_BUDGET_MS = 250.0
"""The same where the models themselves take every core."""


def compared(static_pool: str, threshold: Mapping[str, Any], learned: DemoPolicy) -> tuple[DemoPolicy, ...]:
    """``static``, ``heuristic`` and ``learned``.

    ``static_pool`` is the pool that a static deployment would use, ``threshold`` the tuned options of the heuristic.
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
        learned,
    )


def best_effort(options: Mapping[str, Any], *, quality: str) -> DemoPolicy:
    """``learned`` by the reinforcement-learned tier stage; ``quality`` is the artifact that predicts each pool's."""
    return DemoPolicy(
        "learned",
        "reinforcement-learned tiers from predicted quality and load, shortest predicted answers first",
        {
            "tier": {"name": "best_effort", **options},
            "order": {"name": "length_rank", "patience_s": _PATIENCE_S},
            "place": "least_load",
        },
        {"length": _LENGTH, "quality": quality, "budget_ms": _BUDGET_MS},
    )


def routed(options: Mapping[str, Any], *, quality: str | None) -> DemoPolicy:
    """``learned`` by the router: the greatest predicted quality less what waiting costs.

    Where no artifact knows the pools (``quality`` is ``None``) its fallback chooses them, and counts that.
    """
    tiers = (
        "the pool of the greatest predicted quality less the price of its wait"
        if quality
        else "no artifact knows these pools' quality, so the heuristic stands in for the router"
    )
    return DemoPolicy(
        "learned",
        f"{tiers}, shortest predicted answers first",
        {"tier": {"name": "router", **options}, "order": "length_rank", "place": "least_load"},
        {"length": _LENGTH, "quality": quality, "budget_ms": _BUSY_BUDGET_MS},
    )
