"""``headway/Scale-v0``: how many replicas of each pool serve, and how many sleep.

**Description.** Requests come and go in waves; replicas take minutes to start and a second or so to wake, and cost
money all the while. Every ``interval_s`` seconds the agent says how many replicas of each pool it wants. What is
wanted is brought about as in reality (:mod:`envs.replicas`): engines start cold or are woken, and are drained before
they are stopped or put to sleep; an action takes effect when that is done. Requests are placed by the control plane
that serves in production.

**Action space**: ``MultiDiscrete([R + 1, R + 1] * M)``, R = ``max_replicas``, pools from the lowest tier up:

===== ========== ======================================================================= ========
Index Name       Meaning                                                                 Range
===== ========== ======================================================================= ========
2·p   ``ready``  replicas of pool p that should serve                                    0 … R
2·p+1 ``asleep`` replicas that should sleep; cut so that no more than R exist altogether 0 … R
===== ========== ======================================================================= ========

**Observation space**: ``Box(11·M + 8,)`` float32. What a gateway knows: phases as its health checks have found them,
gauges as stale as the workers' reports, and its own accounts. Pool p has the numbers from 11·p on:

====== ================ ============================================================== ============ === =====
Index  Name             Meaning                                                        Unit         Min Max
====== ================ ============================================================== ============ === =====
11·p   ``ready``        replicas that serve                                            share of R   0   1
11·p+1 ``coming``       that start or wake up                                          share of R   0   1
11·p+2 ``draining``     that finish what they have                                     share of R   0   1
11·p+3 ``asleep``       that sleep or fall asleep                                      share of R   0   1
11·p+4 ``down``         that have crashed                                              share of R   0   1
11·p+5 ``coming_s``     since when the one that comes first has been coming            s            0   600
11·p+6 ``inflight``     requests in flight over the limit of the ready ones            share        0   2
11·p+7 ``queued``       requests queued over the limit of one replica                  share        0   100
11·p+8 ``wait_s``       work in front of the ready ones; 60 without any                s            0   60
11·p+9 ``kv_usage``     KV cache in use                                                share        0   1
11p+10 ``usd_per_hour`` price of a replica                                             $/h          0   100
11·M   ``fast``         arrivals, averaged over seconds                                1/s          0   10⁴
11·M+1 ``slow``         arrivals, averaged over half a minute                          1/s          0   10⁴
11·M+2 ``arrivals``     arrivals in the last interval                                  1/s          0   10⁴
11·M+3 ``in_time``      of the requests that ended in it, answered by their deadline   share        0   1
11·M+4 ``refused``      of those, rejected or failed                                   share        0   1
11·M+5 ``latency``      mean latency of those answered, over their time limit          share        0   10
11·M+6 ``output``       mean output expected of those that came                        ln(1+tokens) 0   14
11·M+7 ``prompt``       mean prompt of those that came                                 ln(1+tokens) 0   14
====== ================ ============================================================== ============ === =====

**Rewards**, in US cents: ``quality_usd`` for each right answer by its deadline of the requests that ended in the
interval (quality is the expected one, live the real one), less what all replicas cost in it: ``usd_per_hour`` of
their profile, and ``asleep_share`` of that while asleep. A request that is rejected, fails or comes late earns
nothing, and costs ``miss_usd``. The last step pays what is still in flight.

**Starting state**: the scenario's workers ready and idle. A seed decides the requests, the machines and what befalls
them, whatever the actions are.

**Episode end**: the episode is *truncated* when the workload is over, since the fleet would go on; it never
terminates.

**Arguments**

- ``source``: what episodes are drawn from; by default :data:`envs.scenarios.WAVES` with what ships
- ``kind``: ``stable``, ``bursty`` or ``unpredictable``; by default one is drawn an episode
- ``interval_s``: seconds between two actions
- ``max_replicas``: R; live, no more than there are servers of any pool
- ``quality_usd``, ``miss_usd``, ``asleep_share``: see above
- ``tier``: name of the tier stage and its options; by default ``threshold`` with the scenario's options
- ``engine``: ``sim`` or ``live``, the latter with ``urls`` (pool → URLs of servers) and ``bounds``; live, every
  server runs all the time, and being stopped means that it is given nothing
- ``sleeps``: live servers have a sleep mode, which is used
- ``record_share``: share of the requests of which the control plane keeps a decision record
- ``render_mode``: ``rgb_array`` or none

**Version history**: v0, the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from controller.pipeline import ControlPlane
from controller.protocols import Resources, Stages
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import PoolSpec, Result, WorkerSpec
from controller.view import PoolView
from envs.environment import FleetEnv
from envs.episode import Episode, EpisodeSource
from envs.fleet import Ended, Fleet, FleetRequest, SimFleet
from envs.handed import HandedScale
from envs.mechanics import LiveMechanic, SimMechanic
from envs.replicas import Mechanic, Replicas, Stand, Wanted
from envs.scenarios import WAVES, WorkloadKind
from envs.sources import default_source
from envs.worlds import EngineKind, LiveBounds, LiveWorld, Urls

__all__ = ["POOL_FEATURES", "SHARED_FEATURES", "ScaleEnv"]

Observation = npt.NDArray[np.float32]
Action = npt.NDArray[np.int64]

POOL_FEATURES: Final = (
    ("ready", 1.0), ("coming", 1.0), ("draining", 1.0), ("asleep", 1.0), ("down", 1.0), ("coming_s", 600.0),
    ("inflight", 2.0), ("queued", 100.0), ("wait_s", 60.0), ("kv_usage", 1.0), ("usd_per_hour", 100.0),
)  # fmt: skip
"""Name and greatest value of each number of a pool; the least is 0."""
SHARED_FEATURES: Final = (
    ("fast", 1e4), ("slow", 1e4), ("arrivals", 1e4), ("in_time", 1.0), ("refused", 1.0), ("latency", 10.0),
    ("output", 14.0), ("prompt", 14.0),
)  # fmt: skip
"""The same of what concerns all pools."""
_CENTS: Final = 100.0


class ScaleEnv(FleetEnv[Observation, Action]):
    """See the module's text."""

    def __init__(
        self,
        source: EpisodeSource | None = None,
        *,
        kind: WorkloadKind | str | None = None,
        interval_s: float = 10.0,
        max_replicas: int = 4,
        quality_usd: float = 2e-3,
        miss_usd: float = 0.0,
        asleep_share: float = 0.2,
        tier: tuple[str, Mapping[str, Any]] | None = None,
        engine: EngineKind | str = EngineKind.SIM,
        urls: Urls | None = None,
        bounds: LiveBounds | None = None,
        sleeps: bool = False,
        record_share: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        if not interval_s > 0 or max_replicas < 1:
            raise ValueError(
                f"interval_s must be above 0 and max_replicas at least 1, not {interval_s}, {max_replicas}"
            )
        super().__init__(
            source or default_source(WAVES),
            kind=kind,
            engine=engine,
            urls=urls,
            bounds=bounds,
            record_share=record_share,
            render_mode=render_mode,
        )
        self.interval_s = interval_s
        self.max_replicas = max_replicas
        self.quality_usd = quality_usd
        self.miss_usd = miss_usd
        self.asleep_share = asleep_share
        scenario = self.source.scenario
        self.tier = tier or ("threshold", scenario.threshold)
        self.pools = tuple(pool.name for pool in scenario.pools)
        self._sleeps = sleeps
        if few := [pool for pool in self.pools if urls is not None and len(urls.get(pool, ())) < max_replicas]:
            raise ValueError(f"max_replicas is {max_replicas}, but urls name fewer servers of {', '.join(few)}")
        high = [top for _, top in (*POOL_FEATURES * len(self.pools), *SHARED_FEATURES)]
        self._high = np.array(high, np.float32)
        self.observation_space = spaces.Box(np.zeros_like(self._high), self._high, dtype=np.float32)
        self.action_space = spaces.MultiDiscrete([max_replicas + 1] * (2 * len(self.pools)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the observation's numbers, in order."""
        own = [f"{pool}.{name}" for pool in self.pools for name, _ in POOL_FEATURES]
        return (*own, *(name for name, _ in SHARED_FEATURES))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the next workload, before its first request."""
        super().reset(seed=seed)
        episode = self._draw(options)
        self._fleet_at_work = self._enter(episode, self._stages)
        self._replicas = self._employ(episode, self._fleet_at_work)
        self._place = 0
        self._quality: list[dict[str, float]] = [
            dict(zip(episode.prompts.pools, row, strict=True)) for row in episode.quality.tolist()
        ]
        self._end_at = self._world.length(episode)
        return self._observe([], [], self.interval_s), {"seed": episode.seed, "kind": episode.kind.value}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Say what is wanted, and let ``interval_s`` pass."""
        replicas, fleet = self._replicas, self._fleet_at_work
        before = replicas.usd
        for place, pool in enumerate(self.pools):
            ready = int(action[2 * place])
            asleep = min(int(action[2 * place + 1]), self.max_replicas - ready)
            replicas.want(pool, Wanted(ready, asleep))
        begun = fleet.now
        end = min(begun + self.interval_s, self._end_at)
        came = self._until(end)
        over = end >= self._end_at
        if over:
            self._finish(replicas.drain)
        ended = fleet.take_ended()
        cost = replicas.usd - before
        value, missed = self._worth(ended)
        reward = _CENTS * (value - missed * self.miss_usd - cost)
        self._note(ended, reward)
        info = {"value_usd": value, "cost_usd": cost, "missed": missed, "ended": len(ended), "arrived": len(came)}
        return self._observe(came, ended, end - begun), reward, False, over, info

    def _until(self, end: float) -> list[FleetRequest]:
        """Let requests arrive up to ``end``."""
        requests, replicas, fleet = self.episode.requests, self._replicas, self._fleet_at_work
        first = self._place
        while self._place < len(requests) and requests[self._place].at <= end:
            request = requests[self._place]
            self._place += 1
            replicas.advance(request.at)
            if fleet.submit(request):
                fleet.score(request.ticket.id)
        replicas.advance(end)
        return list(requests[first : self._place])

    def _worth(self, ended: Sequence[Ended]) -> tuple[float, int]:
        """Dollars earned, and how many requests got no answer in time."""
        value, missed = 0.0, 0
        for end in ended:
            if end.in_time and end.pool is not None:
                right = self._graded(end)
                quality = self._quality[end.request.index][end.pool] if right is None else float(right)
                value += self.quality_usd * quality
            else:
                missed += 1
        return value, missed

    # The fleet

    def _stages(self, pools: Sequence[PoolSpec], settings: ControlSettings) -> Stages:
        stages = build({"tier": self.tier}, Resources(pools=tuple(pools), settings=settings))
        return replace(stages, scale=HandedScale())

    def _manned(self, episode: Episode, control: ControlPlane) -> Fleet:
        if self.engine is EngineKind.SIM:
            return SimFleet(control, episode.clock)
        return super()._manned(episode, control)

    def _employ(self, episode: Episode, fleet: Fleet) -> Replicas:
        """The replicas, the scenario's first ones ready."""
        pools = episode.scenario.pools
        running = {pool.name: min(pool.workers, self.max_replicas) for pool in pools}
        prices = {pool.name: episode.profiles[pool.name].usd_per_hour for pool in pools}
        mechanic: Mechanic
        if isinstance(fleet, SimFleet):
            specs = {p.name: [p.worker(f"{p.name}-{place}") for place in range(self.max_replicas)] for p in pools}
            mechanic = simulated = SimMechanic(episode, fleet)
            for pool in pools:
                for worker in specs[pool.name][: running[pool.name]]:
                    simulated.join(worker)
        else:
            specs, mechanic = self._live(episode, fleet)
            for pool in pools:
                for worker in specs[pool.name][running[pool.name] :]:
                    mechanic.tell(worker.name, Stand.OFF.phase, fleet.now)
        return Replicas(fleet, mechanic, specs, running, prices, asleep_share=self.asleep_share)

    def _live(self, episode: Episode, fleet: Fleet) -> tuple[dict[str, list[WorkerSpec]], Mechanic]:
        """Live servers by pool, and who speaks to them."""
        from envs.live_fleet import LiveFleet

        assert isinstance(self._world, LiveWorld)
        assert isinstance(fleet, LiveFleet)
        workers = self._world.workers(episode)
        most = self.max_replicas
        specs = {pool: [worker for worker in workers if worker.pool == pool][:most] for pool in self.pools}
        return specs, LiveMechanic(fleet, sleeps=self._sleeps)

    def _leave(self) -> None:
        if self.engine is EngineKind.LIVE and self._fleet is not None:
            self._replicas.rouse()
        super()._leave()

    # What is seen

    def _observe(self, came: Sequence[FleetRequest], ended: Sequence[Ended], seconds: float) -> Observation:
        view = self._look()
        values: list[float] = []
        for name in self.pools:
            values += self._of_pool(view.pool(name))
        values += (view.arrivals_fast, view.arrivals_slow)
        values += _lately(came, ended, seconds, self.episode.scenario.deadline_s)
        row: Observation = np.minimum(np.array(values, np.float32), self._high)
        return row

    def _of_pool(self, pool: PoolView) -> tuple[float, ...]:
        replicas, most = self._replicas, self.max_replicas
        now = self._fleet_at_work.now
        coming = [r for r in replicas.of(pool.name) if r.stand in (Stand.STARTING, Stand.WAKING)]
        limit = self.episode.scenario.pool(pool.name).max_inflight
        return (
            replicas.count(pool.name, Stand.READY) / most,
            len(coming) / most,
            replicas.count(pool.name, Stand.DRAINING) / most,
            replicas.count(pool.name, Stand.FALLING, Stand.ASLEEP) / most,
            replicas.count(pool.name, Stand.DOWN) / most,
            max((now - replica.since for replica in coming), default=0.0),
            pool.inflight / pool.limit if pool.limit else 0.0,
            pool.queued / limit,
            pool.expected_wait_s if math.isfinite(pool.expected_wait_s) else 60.0,
            pool.kv_usage,
            self.episode.profiles[pool.name].usd_per_hour,
        )


def _lately(
    came: Sequence[FleetRequest], ended: Sequence[Ended], seconds: float, deadline_s: float
) -> tuple[float, ...]:
    """What an interval brought: the last six numbers."""
    latencies = [end.latency for end in ended if end.latency is not None]
    outputs = [r.scores.output_tokens for r in came if r.scores is not None and r.scores.output_tokens is not None]
    refused = sum(end.result is not Result.COMPLETED for end in ended)
    return (
        len(came) / seconds if seconds > 0 else 0.0,
        sum(end.in_time for end in ended) / len(ended) if ended else 1.0,
        refused / len(ended) if ended else 0.0,
        sum(latencies) / len(latencies) / deadline_s if latencies else 0.0,
        math.log1p(sum(outputs) / len(outputs)) if outputs else 0.0,
        math.log1p(sum(request.prompt_tokens for request in came) / len(came)) if came else 0.0,
    )
