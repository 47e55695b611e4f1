"""``headway/BestEffort-v0``: which tier answers each request, while the load changes.

**Description.** The environment drives the control plane that serves in production, over simulated or live engines.
Its tier stage is ``best_effort``, asked exactly where it is asked in production; the action stands in for the trained
policy's decision (Learned Best-Effort LLM Serving, arXiv 2401.07886). A step is one arriving request that has a
choice of pools.

**Action space**: ``Discrete(M)``: the pool, lowest tier first. Where a pool cannot serve the request, the nearest
tier that can takes its place, the lower one of two (``info["masked"]``); :meth:`BestEffortEnv.action_masks` says
which can.

**Observation space**: ``Box(5·M + 5,)`` float32, the row of :mod:`controller.observation`. Pool p has the numbers
from 5·p on; gauges are as stale as the workers' reports:

===== ================= ========================================================== ============ ===== =======
Index Name              Meaning                                                    Unit         Min   Max
===== ================= ========================================================== ============ ===== =======
5·p   ``quality``       expected quality of the pool's answer (predicted or prior) share        0     1
5·p+1 ``inflight``      requests in flight over the pool's in-flight limit         share        0     2
5·p+2 ``queued``        requests queued over the same limit                        share        0     10
5·p+3 ``wait_s``        work in front of the pool's ready workers                  s            0     60
5·p+4 ``kv_usage``      KV cache in use                                            share        0     1
5·M   ``output_tokens`` output tokens expected                                     ln(1+tokens) 0     14
5·M+1 ``prompt_tokens`` tokens of the prompt                                       ln(1+tokens) 0     14
5·M+2 ``slack_s``       time to the deadline                                       s            −10   120
5·M+3 ``arrivals_fast`` arrivals, averaged over seconds                            1/s          0     10⁴
5·M+4 ``arrivals_slow`` arrivals, averaged over half a minute                      1/s          0     10⁴
===== ================= ========================================================== ============ ===== =======

Never what only the world knows: true lengths, true quality.

**Rewards**: for each request that *ended* since the last step, its quality if it was answered by its deadline
(:func:`controller.objectives.deadline_reward`); rejected, failed and late requests earn nothing. Quality is the
*expected* one, the probability in the profile's skill table that this pool answers this task rightly, or the
*sampled* one, whether it did; live, it is whether the answer that came was right. ``info["ended"]`` says which
decisions were paid what (see :mod:`rl.credit`), ``info["decision"]`` numbers the step's own, and ``info["peak"]`` is
the most that its request can earn. The last step pays everything that was still in flight.

**Starting state**: an idle fleet and the first request of a workload that has a choice of pools. A seed decides the
workload, the prompts, the machines and what befalls them, whatever the actions are.

**Episode end**: the episode terminates with its last request, when everything in flight has been run to its end
(live: after ``bounds``, when what is left is aborted). It is never truncated.

**Arguments**

- ``source``: what episodes are drawn from; by default the demo's scenario with the profiles and predictors that ship
- ``kind``: ``stable``, ``bursty`` or ``unpredictable``; by default one is drawn an episode
- ``kappa``: slope of the soft deadline; ``None`` for the hard one
- ``quality``: ``expected`` or ``sampled``
- ``orders``: queue orders to draw from, one an episode
- ``engine``: ``sim`` or ``live``, the latter with ``urls`` (pool → URLs of servers) and ``bounds``
- ``record_share``: share of the requests of which the control plane keeps a decision record
- ``render_mode``: ``rgb_array`` or none

**Version history**: v0, the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

import numpy as np
from gymnasium import spaces

from controller.objectives import deadline_reward
from controller.observation import Codec, Mask, Observation
from controller.protocols import Resources, Stages
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import PoolSpec
from envs.environment import FleetEnv
from envs.episode import Episode, EpisodeSource
from envs.fleet import Ended, FleetRequest
from envs.handed import HandedTier, nearest_allowed
from envs.scenarios import WorkloadKind
from envs.sources import default_source
from envs.worlds import EngineKind, LiveBounds, Urls

__all__ = ["BestEffortEnv", "QualityForm", "nearest_allowed"]

Credit = tuple[tuple[int, float], ...]
"""Pairs of a decision's number and what it was paid."""


class QualityForm(StrEnum):
    """Which quality an answer in time is paid."""

    EXPECTED = "expected"
    SAMPLED = "sampled"


class BestEffortEnv(FleetEnv[Observation, np.int64]):
    """See the module's text."""

    def __init__(
        self,
        source: EpisodeSource | None = None,
        *,
        kind: WorkloadKind | str | None = None,
        kappa: float | None = None,
        quality: QualityForm | str = QualityForm.EXPECTED,
        orders: Sequence[str] = ("fcfs", "length_rank"),
        engine: EngineKind | str = EngineKind.SIM,
        urls: Urls | None = None,
        bounds: LiveBounds | None = None,
        record_share: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            source or default_source(),
            kind=kind,
            engine=engine,
            urls=urls,
            bounds=bounds,
            record_share=record_share,
            render_mode=render_mode,
        )
        self.kappa = kappa
        self.quality = QualityForm(quality)
        self.orders = tuple(orders)
        self._decision = 0
        self.codec = Codec(len(self.source.scenario.pools))
        self.observation_space = spaces.Box(self.codec.low, self.codec.high, dtype=np.float32)
        self.action_space = spaces.Discrete(self.codec.slots)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the next workload, at its first request that has a choice of pools."""
        super().reset(seed=seed)
        while True:
            self._begin(self._draw(options))
            if self._to_next_decision():
                self._settle()
                return self._observation, {"seed": self.episode.seed, "kind": self.episode.kind.value}
            self._finish()

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Send the request at hand to a pool, and go on to the next."""
        wanted, mask, request = int(action), self._mask, self._at_hand
        effective = wanted if mask[wanted] else nearest_allowed(wanted, mask)
        ticket = request.ticket.id
        self._tier.hand(ticket, effective)
        self._decisions[ticket] = number = self._decision
        self._decision = number + 1
        self._open_fleet.score(ticket)
        more = self._to_next_decision()
        if not more:
            self._finish()
        paid, credit = self._settle()
        return self._observation, paid, not more, False, {
            "decision": number,
            "pool": effective,
            "masked": effective != wanted,
            "peak": self._peaks[request.index],
            "ended": credit,
        }  # fmt: skip

    def action_masks(self) -> Mask:
        """Which actions are allowed for the request at hand, (M,)."""
        return self._mask.copy()

    def _begin(self, episode: Episode) -> None:
        self._order = self.orders[int(np.random.default_rng(episode.seed).integers(len(self.orders)))]
        self._open_fleet = self._enter(episode, self._stages)
        self._place = 0
        self._decision = 0
        self._decisions: dict[str, int] = {}
        truth = episode.quality if self.quality is QualityForm.EXPECTED else episode.correct.astype(np.float64)
        self._peaks: list[float] = truth.max(axis=1, initial=0.0).tolist()
        self._truth = dict(zip(episode.prompts.pools, truth.T.tolist(), strict=True))
        self._deadline = episode.scenario.deadline_s

    def _stages(self, pools: Sequence[PoolSpec], settings: ControlSettings) -> Stages:
        stages = build({"order": (self._order, {})}, Resources(pools=tuple(pools), settings=settings))
        self._tier = HandedTier(self.codec)
        return replace(stages, tier=self._tier)

    def _to_next_decision(self) -> bool:
        """Let requests arrive until one has a choice of pools; false after the last."""
        fleet, requests = self._open_fleet, self.episode.requests
        for place in range(self._place, len(requests)):
            request = requests[place]
            fleet.advance(request.at)
            if fleet.submit(request) and self._open(request):
                self._place = place + 1
                return True
        self._place = len(requests)
        return False

    def _open(self, request: FleetRequest) -> bool:
        """Whether the request's tier is open; then it is the one at hand."""
        context = self._open_fleet.tier_context(request.ticket.id)
        if context is None:
            self._open_fleet.score(request.ticket.id)
            return False
        self._observation, self._mask = self._tier.observe(context)
        self._at_hand = request
        return True

    def _settle(self) -> tuple[float, Credit]:
        """The reward of everything that ended since the last call, and to which decisions it belongs."""
        total, credited, all_ended = 0.0, [], self._open_fleet.take_ended()
        for ended in all_ended:
            worth = self._worth(ended)
            total += worth
            ticket = ended.request.ticket.id
            decision = self._decisions.pop(ticket, None)
            if decision is not None:
                credited.append((decision, worth))
                self._tier.forget(ticket)
        if self.render_mode is not None:
            self._note(all_ended, total)
        return total, tuple(credited)

    def _worth(self, ended: Ended) -> float:
        if ended.pool is None:
            return 0.0
        right = self._graded(ended) if ended.text is not None else None
        quality = self._truth[ended.pool][ended.request.index] if right is None else float(right)
        return deadline_reward(quality, ended.latency, self._deadline, self.kappa)
