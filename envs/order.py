"""``headway/Order-v0``: where each request stands in the queue.

**Description.** Requests come in bursts, faster than their pool can serve them, so they queue. The agent takes the
place of the control plane's ``order`` stage: for each arriving request it says how much longer than others it can
wait. The queue is served in the order of *keys*, which are moments: the key is the moment of arrival plus
``patience_s`` times the action, so that nobody can be overtaken by what comes more than ``patience_s`` later. An
action that is always the same is first come, first served; the quantile of the expected length is the stage
``length_rank``. Workers that schedule by priority are given the same order. A step is one arriving request.

**Action space**: ``Box(0, 1, (1,))``: the share of ``patience_s``; or, with ``buckets=n``, ``Discrete(n)``, action i
meaning i / (n − 1).

**Observation space**: ``Box(14,)`` float32. What a gateway knows: predictions, its own accounts, gauges as stale as
the workers' reports. Pools are taken together.

===== ================= ============================================================== ============ === ======
Index Name              Meaning                                                        Unit         Min Max
===== ================= ============================================================== ============ === ======
0     ``output``        output tokens expected (what is typical, without a prediction) ln(1+tokens) 0   14
1     ``quantile``      its expected length among the last 512 requests; 0.5 if none   share        0   1
2     ``prompt``        tokens of the prompt                                           ln(1+tokens) 0   14
3     ``slack_s``       time to the deadline                                           s            −10 120
4     ``inflight``      requests in flight over the in-flight limit                    share        0   2
5     ``queued``        requests queued over the same limit                            share        0   100
6     ``queued_output`` mean work of a queued request                                  ln(1+tokens) 0   14
7     ``wait_s``        work in front of the ready workers                             s            0   600
8     ``kv_usage``      KV cache in use                                                share        0   1
9     ``arrivals_fast`` arrivals, averaged over seconds                                1/s          0   10⁴
10    ``arrivals_slow`` arrivals, averaged over half a minute                          1/s          0   10⁴
11    ``tenant_came``   the tenant's share of the last 256 arrivals                    share        0   1
12    ``tenant_open``   the tenant's share of the requests that have not ended         share        0   1
13    ``pace``          mean normalised latency of the last 32 answers                 s/token      0   10
===== ================= ============================================================== ============ === ======

**Rewards**: minus each request's normalised latency (seconds from its arrival to its last token, over its output
tokens) in units of ``worst_s`` a token, at most 1; a request that was rejected or failed counts as 1. With
``pay="accruing"`` it is charged while the request waits and runs, in proportion to one over the output that is
expected, and put right when it ends; with ``pay="ended"`` all of it is charged then. Both are the same in sum, but
agents learn much faster from the first, which shows what a decision does soon after it. ``info["ended"]`` says which
decisions cost what in all, in the form of :mod:`rl.credit`. The last step charges what is still in flight.

**Starting state**: an idle fleet and the first request of a workload. A seed decides the requests, the machines and
what befalls them, whatever the actions are.

**Episode end**: the episode terminates with its last request, when everything in flight has been run to its end
(live: after ``bounds``, when what is left is aborted). It is never truncated.

**Arguments**

- ``source``: what episodes are drawn from; by default :data:`envs.scenarios.QUEUE` with what ships
- ``kind``: ``stable``, ``bursty`` or ``unpredictable``; by default one is drawn an episode
- ``patience_s``: see above
- ``buckets``: number of discrete actions; none for the continuous one
- ``worst_s``: the normalised latency, in seconds a token, that is as bad as no answer
- ``pay``: ``accruing`` or ``ended``, see above
- ``tier``, ``fairness``: names of those stages and their options; by default ``pinned`` and ``none``
- ``engine``: ``sim`` or ``live``, the latter with ``urls`` (pool → URLs of servers) and ``bounds``
- ``record_share``: share of the requests of which the control plane keeps a decision record
- ``render_mode``: ``rgb_array`` or none

**Version history**: v0, the first.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from controller.order import Ageing, LengthRank, LengthRankOptions
from controller.protocols import OrderContext, Resources, Stages
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import PoolSpec, Tenant, TicketId
from controller.view import FleetView
from envs.environment import FleetEnv
from envs.episode import EpisodeSource
from envs.fleet import Ended, FleetRequest
from envs.handed import HandedOrder
from envs.scenarios import QUEUE, WorkloadKind
from envs.sources import default_source
from envs.worlds import EngineKind, LiveBounds, Urls

__all__ = ["FEATURES", "OrderEnv", "PayForm"]

Observation = npt.NDArray[np.float32]
Action = npt.NDArray[np.float32]

FEATURES: Final = (
    ("output", 0.0, 14.0), ("quantile", 0.0, 1.0), ("prompt", 0.0, 14.0), ("slack_s", -10.0, 120.0),
    ("inflight", 0.0, 2.0), ("queued", 0.0, 100.0), ("queued_output", 0.0, 14.0), ("wait_s", 0.0, 600.0),
    ("kv_usage", 0.0, 1.0), ("arrivals_fast", 0.0, 1e4), ("arrivals_slow", 0.0, 1e4), ("tenant_came", 0.0, 1.0),
    ("tenant_open", 0.0, 1.0), ("pace", 0.0, 10.0),
)  # fmt: skip
"""Name, least and greatest value of each number of an observation."""
_LOW: Final = np.array([low for _, low, _ in FEATURES], np.float32)
_HIGH: Final = np.array([high for _, _, high in FEATURES], np.float32)
_ARRIVALS: Final = 256
_ANSWERS: Final = 32


class PayForm(StrEnum):
    """When a request's latency is paid for. The sum over an episode is the same."""

    ENDED = "ended"
    """When it ends."""
    ACCRUING = "accruing"
    """As it accrues, for the output that is expected; what that was wrong by, when it ends."""


class OrderEnv(FleetEnv[Observation, Action]):
    """See the module's text."""

    def __init__(
        self,
        source: EpisodeSource | None = None,
        *,
        kind: WorkloadKind | str | None = None,
        patience_s: float = 60.0,
        buckets: int | None = None,
        worst_s: float = 1.0,
        pay: PayForm | str = PayForm.ACCRUING,
        tier: tuple[str, Mapping[str, Any]] = ("pinned", {}),
        fairness: tuple[str, Mapping[str, Any]] = ("none", {}),
        engine: EngineKind | str = EngineKind.SIM,
        urls: Urls | None = None,
        bounds: LiveBounds | None = None,
        record_share: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        if not (patience_s > 0 and worst_s > 0) or (buckets is not None and buckets < 2):
            raise ValueError("patience_s and worst_s must be above 0, and buckets at least 2")
        super().__init__(
            source or default_source(QUEUE),
            kind=kind,
            engine=engine,
            urls=urls,
            bounds=bounds,
            record_share=record_share,
            render_mode=render_mode,
        )
        self.patience_s = patience_s
        self.buckets = buckets
        self.worst_s = worst_s
        self.pay = PayForm(pay)
        self.tier = tier
        self.fairness = fairness
        self._decision = 0
        self._expected = 0.0
        self.observation_space = spaces.Box(_LOW, _HIGH, dtype=np.float32)
        self.action_space: spaces.Space[Any] = spaces.Box(0.0, 1.0, (1,), np.float32)
        if buckets is not None:
            self.action_space = spaces.Discrete(buckets)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the next workload, at its first request."""
        super().reset(seed=seed)
        while True:
            episode = self._draw(options)
            self._open_fleet = self._enter(episode, self._stages, replace(episode.settings(), score_always=True))
            self._place = 0
            self._decision = 0
            self._decisions: dict[str, int] = {}
            self._ranks = LengthRank(LengthRankOptions(patience_s=1.0, ageing=Ageing.QUANTILE))
            self._came: deque[Tenant] = deque(maxlen=_ARRIVALS)
            self._paces: deque[float] = deque(maxlen=_ANSWERS)
            self._open_of: Counter[Tenant] = Counter()
            self._accruing = _Accruing()
            if self._to_next_decision():
                self._settle()
                return self._observation, {"seed": episode.seed, "kind": episode.kind.value}
            self._finish()

    def step(self, action: Action | np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Give the request at hand its key, and go on to the next."""
        request, number = self._at_hand, self._decision
        key = request.at + self.patience_s * self._share(action)
        self._order.keys[request.ticket.id] = key
        self._decisions[request.ticket.id] = number
        if self.pay is PayForm.ACCRUING:
            self._accruing.begin(request.ticket.id, 1.0 / (max(1.0, self._expected) * self.worst_s))
        self._decision = number + 1
        self._open_fleet.score(request.ticket.id)
        more = self._to_next_decision()
        if not more:
            self._finish()
        paid, credit = self._settle()
        info = {"decision": number, "key": key, "peak": 0.0, "ended": credit}
        return self._observation, paid, not more, False, info

    def _share(self, action: Action | np.int64 | int) -> float:
        if self.buckets is not None:
            return int(action) / (self.buckets - 1)
        return min(1.0, max(0.0, float(np.asarray(action).reshape(-1)[0])))

    def _stages(self, pools: Sequence[PoolSpec], settings: ControlSettings) -> Stages:
        choices = {"tier": self.tier, "fairness": self.fairness}
        self._order = HandedOrder()
        return replace(build(choices, Resources(pools=tuple(pools), settings=settings)), order=self._order)

    def _to_next_decision(self) -> bool:
        """Let requests arrive until one waits for its key; false after the last."""
        fleet, requests = self._open_fleet, self.episode.requests
        while self._place < len(requests):
            request = requests[self._place]
            self._place += 1
            fleet.advance(request.at)
            self._came.append(request.ticket.tenant)
            self._open_of[request.ticket.tenant] += 1
            if fleet.submit(request):
                self._at_hand = request
                self._observation = self._observe(request)
                return True
        return False

    def _observe(self, request: FleetRequest) -> Observation:
        view, ticket, scores = self._look(), request.ticket, request.scores
        tokens = None if scores is None else scores.output_tokens
        if tokens is None:
            tokens = sum(pool.typical_output for pool in view.pools) / len(view.pools)
        tokens = self._expected = tokens if ticket.max_tokens is None else min(tokens, ticket.max_tokens)
        tenant = ticket.tenant
        values = (
            math.log1p(tokens),
            self._ranks.key(OrderContext(ticket, 0.0, scores)),
            math.log1p(request.prompt_tokens),
            120.0 if ticket.deadline is None else ticket.deadline - self._open_fleet.now,
            *_load(view),
            view.arrivals_fast,
            view.arrivals_slow,
            self._came.count(tenant) / len(self._came),
            self._open_of[tenant] / max(1, self._open_of.total()),
            sum(self._paces) / len(self._paces) if self._paces else 0.0,
        )
        row: Observation = np.minimum(np.maximum(np.array(values, np.float32), _LOW), _HIGH)
        return row

    def _settle(self) -> tuple[float, tuple[tuple[int, float], ...]]:
        """The reward since the last call, and to which decisions that of what has ended belongs."""
        total, credited, all_ended = 0.0, [], self._open_fleet.take_ended()
        if self.pay is PayForm.ACCRUING:
            total -= self._accruing.advance(self._open_fleet.now)
        for ended in all_ended:
            worth = self._worth(ended)
            total += worth + self._accruing.end(ended.request.ticket.id)
            ticket = ended.request.ticket
            self._open_of[ticket.tenant] -= 1
            self._order.keys.pop(ticket.id, None)
            decision = self._decisions.pop(ticket.id, None)
            if decision is not None:
                credited.append((decision, worth))
        self._note(all_ended, total)
        return total, tuple(credited)

    def _worth(self, ended: Ended) -> float:
        latency = ended.latency
        if latency is None:
            return -1.0
        pace = latency / max(1, ended.output_tokens)
        self._paces.append(pace)
        return -min(1.0, pace / self.worst_s)


class _Accruing:
    """What open requests have been charged so far: each at its own rate, since it was decided."""

    def __init__(self) -> None:
        self._now = 0.0
        self._rate = 0.0
        self._open: dict[TicketId, tuple[float, float]] = {}
        """Rate a second, and since when."""

    def begin(self, ticket: TicketId, rate: float) -> None:
        """From now on this one is charged, too."""
        self._open[ticket] = rate, self._now
        self._rate += rate

    def advance(self, now: float) -> float:
        """What all are charged for the time up to now."""
        charged = self._rate * (now - self._now)
        self._now = now
        return charged

    def end(self, ticket: TicketId) -> float:
        """What this one has been charged, to be given back where its whole price is paid; 0 if it never was."""
        rate, since = self._open.pop(ticket, (0.0, 0.0))
        self._rate = self._rate - rate if self._open else 0.0
        return rate * (self._now - since)


def _load(view: FleetView) -> tuple[float, float, float, float, float]:
    """In flight and queued over the limit, mean work of a queued request, wait and KV usage, of all pools together."""
    inflight = queued = queued_work = work = limit = 0
    rate = kv = 0.0
    for pool in view.pools:
        inflight += pool.inflight
        queued += pool.queued
        queued_work += pool.queued_work
        work += pool.queued_work + pool.inflight_work
        limit += pool.limit
        rate += pool.service_rate
        kv += pool.kv_usage
    return (
        inflight / limit if limit else 2.0,
        queued / limit if limit else 100.0,
        math.log1p(queued_work / queued) if queued else 0.0,
        work / rate if rate > 0 else 600.0,
        kv / len(view.pools),
    )
