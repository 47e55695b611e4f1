"""Names the environments to gymnasium, once this module is imported.

``import envs.registration`` does, and so does ``gymnasium.make("envs.registration:headway/BestEffort-v0")``. The entry
point ``gymnasium.envs`` names :func:`register`, for what looks at entry points (gymnasium itself did before 1.0).
"""

from __future__ import annotations

from typing import Final

import gymnasium

__all__ = ["BEST_EFFORT", "ENVIRONMENTS", "ORDER", "ROUTE", "SCALE", "register"]

BEST_EFFORT: Final = "headway/BestEffort-v0"
SCALE: Final = "headway/Scale-v0"
ORDER: Final = "headway/Order-v0"
ROUTE: Final = "headway/Route-v0"

ENVIRONMENTS: Final = {
    BEST_EFFORT: "envs.best_effort:BestEffortEnv",
    SCALE: "envs.scale:ScaleEnv",
    ORDER: "envs.order:OrderEnv",
    ROUTE: "envs.route:RouteEnv",
}
"""Id → where its class is."""
_VECTORS: Final = {ROUTE: "envs.route_vector:RouteVectorEnv"}
"""Id → where a class of many at once is, for those that have one."""


def register() -> None:
    """Register every environment that is not registered yet."""
    for name, entry_point in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(id=name, entry_point=entry_point, vector_entry_point=_VECTORS.get(name))


register()
