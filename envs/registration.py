"""Names the environments to gymnasium: through the ``gymnasium.envs`` entry point, or by importing this module."""

from __future__ import annotations

import gymnasium

__all__ = ["BEST_EFFORT", "register"]

BEST_EFFORT = "headway/BestEffort-v0"


def register() -> None:
    """Register every environment that is not registered yet."""
    if BEST_EFFORT not in gymnasium.registry:
        gymnasium.register(id=BEST_EFFORT, entry_point="envs.best_effort:BestEffortEnv")


register()
