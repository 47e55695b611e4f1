"""Many routing environments at once, as arrays: ``gymnasium.make_vec("headway/Route-v0", n)``.

The same prompts, λ, observations and rewards as n single environments with the seeds ``seed``, ``seed + 1``, …, at a
small part of their cost. A finished episode is followed by the next in the step after its last
(``AutoresetMode.NEXT_STEP``), as in gymnasium's own vector environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from envs.episode import EpisodeSource
from envs.route import RouteEnv
from envs.route_table import RouteTable

__all__ = ["RouteVectorEnv"]

Floats = npt.NDArray[np.float64]
Observations = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


class RouteVectorEnv(gymnasium.vector.VectorEnv[Observations, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """``num_envs`` episodes side by side, from one table. Arguments as of :class:`envs.route.RouteEnv`; never live."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(
        self,
        source: EpisodeSource | None = None,
        table: RouteTable | None = None,
        *,
        num_envs: int = 1,
        prompts: int = 100,
        willingness: tuple[float, float] = (0.01, 3.0),
    ) -> None:
        first = RouteEnv(source, table, prompts=prompts, willingness=willingness)
        rest = [RouteEnv(table=first.table, prompts=prompts, willingness=willingness) for _ in range(num_envs - 1)]
        self._envs = [first, *rest]
        self.num_envs = num_envs
        self.prompts = prompts
        self.table = first.table
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, num_envs)
        self.action_space = batch_space(first.action_space, num_envs)
        self._place = 0
        self._all = np.arange(num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Draw λ and prompts of every environment; ``options`` as of one."""
        seeds = [seed + place for place in range(self.num_envs)] if isinstance(seed, int) else seed
        for place, env in enumerate(self._envs):
            env.reset(seed=None if seeds is None else seeds[place], options=options)
        self._rows = np.stack([env.rows for env in self._envs])
        self._sight = np.stack([env.sight for env in self._envs])
        self._lambdas: Floats = np.array([env.lambda_usd for env in self._envs])
        self._place = 0
        return self._sight[:, 0].copy(), {"lambda_usd": self._lambdas.copy()}

    def step(self, actions: npt.NDArray[np.int64]) -> tuple[Observations, Floats, Flags, Flags, dict[str, Any]]:
        """Give each prompt to a model; after the last prompts, begin anew and pay nothing."""
        never = np.zeros(self.num_envs, np.bool_)
        if self._place >= self.prompts:
            observations, info = self.reset()
            return observations, np.zeros(self.num_envs), never, never.copy(), info
        rows = self._rows[:, self._place]
        quality, usd = self.table.quality[rows, actions], self.table.usd[rows, actions]
        self._place += 1
        over = self._place >= self.prompts
        sight = self._sight[:, min(self._place, self.prompts - 1)].copy()
        info = {"quality": quality, "usd": usd, "row": rows}
        return sight, quality - self._lambdas * usd, np.full(self.num_envs, over), never, info
