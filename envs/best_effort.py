"""``headway/BestEffort-v0``: which tier answers each request, while the load changes.

The environment drives the same control plane that serves in production, over simulated engines. Its tier stage is
``best_effort``, asked exactly where it is asked in production; the action stands in for the trained policy's decision.

**A step** is one arriving request. An episode is one workload; it ends after its last request, when everything still in
flight has been run to its end.

**Observation**: ``Box(size,)`` float32, the row of :mod:`controller.observation` (table there): per pool the predicted
quality, in-flight and queued requests over the limit, expected wait (s) and KV usage; then the predicted output tokens
(log), prompt tokens (log), seconds to the deadline and the two arrival rates (1/s). Gauges are as stale as the workers'
reports. Never what only the world knows: true lengths, true quality.

**Action**: ``Discrete(M)``: the pool, lowest tier first. Where a pool cannot serve the request, the nearest tier that
can takes its place, the lower one of two (``info["masked"]``); :meth:`BestEffortEnv.action_masks` says which can.

**Reward**: for each request that *ended* since the last step, its quality if it was answered by its deadline
(:func:`controller.objectives.deadline_reward`; ``kappa`` is the slope of the soft deadline, ``None`` the hard one);
rejected, failed and late requests earn nothing. Quality is the *expected* one, the probability in the profile's skill
table that this pool answers this task rightly, or the *sampled* one, whether it did. ``info["ended"]`` says which
decisions were paid what (see :mod:`rl.credit`), ``info["decision"]`` numbers the step's own, and ``info["peak"]`` is
the most that its request can earn. The last step pays everything that was still in flight.

**Randomness**: a seed decides the workload, the prompts and the machines, whatever the actions are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from controller.best_effort import BestEffort
from controller.objectives import deadline_reward
from controller.observation import Codec, Mask, Observation
from controller.policy import PolicyDecision
from controller.protocols import Resources, Stages
from controller.settings import ControlSettings
from controller.stages import build
from controller.tier import Threshold, ThresholdOptions
from controller.types import PoolSpec
from envs.episode import Episode, EpisodeSource
from envs.fleet import Ended, FleetRequest, SimFleet
from envs.scenarios import WorkloadKind
from envs.sources import default_source

__all__ = ["BestEffortEnv", "QualityForm", "nearest_allowed"]


class QualityForm(StrEnum):
    """Which quality an answer in time is paid."""

    EXPECTED = "expected"
    SAMPLED = "sampled"


class BestEffortEnv(gymnasium.Env[Observation, np.int64]):
    """See the module's text. ``orders`` are the queue orders to draw from, one an episode.

    ``source`` says what episodes are drawn from: by default the demo's scenario, with the profiles and predictors that
    ship. ``kind`` fixes the workload; ``None`` draws one an episode. ``reset(options={"kind": …})`` overrides it once.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(
        self,
        source: EpisodeSource | None = None,
        *,
        kind: WorkloadKind | str | None = None,
        kappa: float | None = None,
        quality: QualityForm | str = QualityForm.EXPECTED,
        orders: Sequence[str] = ("fcfs", "length_rank"),
    ) -> None:
        self.source = source or default_source()
        self.kind = None if kind is None else WorkloadKind(kind)
        self.kappa = kappa
        self.quality = QualityForm(quality)
        self.orders = tuple(orders)
        self.codec = Codec(len(self.source.scenario.pools))
        self.observation_space = spaces.Box(self.codec.low, self.codec.high, dtype=np.float32)
        self.action_space = spaces.Discrete(self.codec.slots)
        self._hand = _Hand()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the next workload, at its first request that has a choice of pools."""
        super().reset(seed=seed)
        wanted = (options or {}).get("kind", self.kind)
        kind = None if wanted is None else WorkloadKind(wanted)
        while True:
            self._begin(self.source.draw(int(self.np_random.integers(2**63)), kind))
            if self._to_next_decision():
                self._settle()
                return self._observation, {"seed": self.episode.seed, "kind": self.episode.kind.value}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Send the request at hand to a pool, and go on to the next."""
        effective = nearest_allowed(int(action), self._mask)
        self._hand.action = effective
        self._fleet.score(self._at_hand.ticket.id)
        info: dict[str, Any] = {
            "decision": self._decision,
            "pool": effective,
            "masked": effective != int(action),
            "peak": float(self._truth[self._at_hand.index].max()),
        }
        self._decision += 1
        more = self._to_next_decision()
        if not more:
            self._fleet.drain()
        paid, info["ended"] = self._settle()
        return self._observation, paid, not more, False, info

    def action_masks(self) -> Mask:
        """Which actions are allowed for the request at hand, (M,)."""
        return self._mask.copy()

    def _begin(self, episode: Episode) -> None:
        self.episode = episode
        self._order = self.orders[int(np.random.default_rng(episode.seed).integers(len(self.orders)))]
        self._fleet: SimFleet = episode.fleet(self._stages)
        self._place = 0
        self._decision = 0
        self._decisions: dict[str, int] = {}
        self._truth = episode.quality if self.quality is QualityForm.EXPECTED else episode.correct.astype(np.float64)

    def _stages(self, pools: Sequence[PoolSpec], settings: ControlSettings) -> Stages:
        stages = build({"order": (self._order, {})}, Resources(pools=tuple(pools), settings=settings))
        self._tier = BestEffort(self._hand, Threshold(ThresholdOptions()), codec=self.codec)
        return replace(stages, tier=self._tier)

    def _to_next_decision(self) -> bool:
        """Let requests arrive until one has a choice of pools; false after the last."""
        while self._place < len(self.episode.requests):
            request = self.episode.requests[self._place]
            self._place += 1
            self._fleet.advance(request.at)
            if self._fleet.submit(request) and self._open(request):
                return True
        return False

    def _open(self, request: FleetRequest) -> bool:
        """Whether the request's tier is open; then it is the one at hand."""
        context = self._fleet.tier_context(request.ticket.id)
        if context is None:
            self._fleet.score(request.ticket.id)
            return False
        self._observation, self._mask = self._tier.observe(context)
        self._at_hand = request
        self._decisions[request.ticket.id] = self._decision
        return True

    def _settle(self) -> tuple[float, tuple[tuple[int, float], ...]]:
        """The reward of everything that ended since the last call, and to which decisions it belongs."""
        total, credited = 0.0, []
        for ended in self._fleet.take_ended():
            worth = self._worth(ended)
            total += worth
            decision = self._decisions.pop(ended.request.ticket.id, None)
            if decision is not None:
                credited.append((decision, worth))
        return total, tuple(credited)

    def _worth(self, ended: Ended) -> float:
        if ended.pool is None:
            return 0.0
        row, column = ended.request.index, self.episode.prompts.pools.index(ended.pool)
        deadline = self.episode.scenario.deadline_s
        return deadline_reward(float(self._truth[row, column]), ended.latency, deadline, self.kappa)


class _Hand:
    """The policy that takes the action it is handed."""

    action = 0

    def __call__(self, observation: Observation, mask: Mask) -> PolicyDecision:
        chosen = nearest_allowed(self.action, mask)
        return PolicyDecision(chosen, tuple(float(slot == chosen) for slot in range(len(mask))))


def nearest_allowed(action: int, mask: npt.NDArray[np.bool_]) -> int:
    """The allowed action nearest to ``action``, the lower one of two; ``mask`` allows at least one."""
    allowed: list[int] = np.flatnonzero(mask).tolist()
    return min(allowed, key=lambda other: (abs(other - action), other))
