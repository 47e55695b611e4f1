"""A replay buffer that credits a request's reward to the decision that earned it.

The best-effort environment pays a request's reward in the step in which it *ends*, tens of decisions after the one that
sent it to its tier; learnt from those pairs, the signal drowns in the rewards of other requests. The environment
therefore also names, in ``info["ended"]``, which decisions the step's reward belongs to. This buffer holds each
transition back until its own request has ended and then stores it with that request's reward. An episode's total is the
same; only the discount now counts from the decision instead of from the end. What a decision does to *later* requests
still reaches it through the value of the next observation.

It also stores what was *lost* rather than what was gained: the reward less the most that this request could have
earned. That peak depends on the workload alone, never on the actions, so the best policy stays the best (an
input-dependent baseline, Mao et al. 2019, arXiv 1807.02264), while a value shrinks from everything the next hundred
requests will earn to the little that load will take from it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.buffers import NStepReplayBuffer

__all__ = ["CreditedReplayBuffer"]


@dataclass(slots=True)
class _Held:
    """One transition of every environment, with the environments whose request has not ended yet."""

    obs: npt.NDArray[Any]
    next_obs: npt.NDArray[Any]
    action: npt.NDArray[Any]
    reward: npt.NDArray[np.float32]
    done: npt.NDArray[Any]
    infos: list[dict[str, Any]]
    open: set[int] = field(default_factory=set)


class CreditedReplayBuffer(NStepReplayBuffer):
    """Stores transitions in order, each once its own decision's reward is known.

    Every ``info`` must carry ``decision`` (the number of the step's decision in its episode), ``peak`` (the most it can
    earn) and ``ended`` (pairs of decision number and reward paid in this step); the last step of an episode must end
    every open decision.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rows: deque[_Held] = deque()
        self._row_of: list[dict[int, _Held]] = [{} for _ in range(self.n_envs)]

    @property
    def held(self) -> int:
        """Transitions that still wait for a request to end."""
        return len(self._rows)

    def add(
        self,
        obs: npt.NDArray[Any],
        next_obs: npt.NDArray[Any],
        action: npt.NDArray[Any],
        reward: npt.NDArray[Any],
        done: npt.NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Hold the transition, credit the rewards that became known, and store what is complete."""
        row = _Held(
            np.array(obs),
            np.array(next_obs),
            np.array(action),
            np.zeros(self.n_envs, np.float32),
            np.array(done),
            infos,
        )
        row.open.update(range(self.n_envs))
        self._rows.append(row)
        for index, info in enumerate(infos):
            self._row_of[index][int(info["decision"])] = row
            row.reward[index] = -info["peak"]
            self._credit(index, info["ended"])
            if done[index] and self._row_of[index]:
                raise ValueError(f"an episode ended with open decisions {sorted(self._row_of[index])[:5]}")
        self._store()

    def _credit(self, index: int, ended: Sequence[tuple[int, float]] | Mapping[int, float]) -> None:
        for decision, reward in ended.items() if isinstance(ended, Mapping) else ended:
            row = self._row_of[index].pop(decision)
            row.reward[index] += reward
            row.open.discard(index)

    def _store(self) -> None:
        while self._rows and not self._rows[0].open:
            row = self._rows.popleft()
            super().add(row.obs, row.next_obs, row.action, row.reward, row.done, row.infos)
