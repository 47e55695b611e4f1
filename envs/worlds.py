"""Where an episode takes place: in a simulated fleet, or in one of running servers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from controller.pipeline import ControlPlane
from controller.types import PoolName, WorkerSpec
from controller.view import FleetView
from envs.episode import Episode
from envs.fleet import Fleet

__all__ = ["EngineKind", "LiveBounds", "LiveWorld", "SimWorld", "Urls", "World", "choose_world"]

Urls = Mapping[PoolName, Sequence[str]]
"""Pool → the roots of its servers, without ``/v1``."""


class EngineKind(StrEnum):
    """What answers the requests of an environment."""

    SIM = "sim"
    LIVE = "live"


class World(Protocol):
    """Opens the fleets of episodes."""

    @property
    def patience_s(self) -> float:
        """Seconds after an episode's last request until what is still open is aborted."""
        ...

    def length(self, episode: Episode) -> float:
        """Seconds in which requests may come."""
        ...

    def bounded(self, episode: Episode) -> Episode:
        """The part of an episode that is played here."""
        ...

    def takes(self, now: float, requests: int) -> bool:
        """Whether another request may come at this moment, after so many."""
        ...

    def fleet(self, episode: Episode, control: ControlPlane) -> Fleet:
        """The episode's fleet at time 0 under this control plane, which has no workers yet."""
        ...

    def look(self, fleet: Fleet, control: ControlPlane) -> FleetView:
        """The fleet as its control plane sees it now."""
        ...


class SimWorld:
    """Simulated time: an episode takes as long as computing it does."""

    patience_s: float = math.inf

    def length(self, episode: Episode) -> float:
        """As the scenario has it."""
        return episode.scenario.duration_s

    def bounded(self, episode: Episode) -> Episode:
        """All of it."""
        return episode

    def takes(self, now: float, requests: int) -> bool:
        """Always."""
        return True

    def fleet(self, episode: Episode, control: ControlPlane) -> Fleet:
        """Every worker of the scenario, ready."""
        return episode.populate(control)

    def look(self, fleet: Fleet, control: ControlPlane) -> FleetView:
        """The fleet as its control plane sees it now."""
        return control.view(fleet.now)


@dataclass(frozen=True, slots=True)
class LiveBounds:
    """How far a live episode goes. A simulated one goes as far as its scenario."""

    seconds: float = 30.0
    """Requests that would arrive later do not."""
    requests: int = 200
    finish_s: float = 15.0
    """After the last arrival, until what is still open is aborted."""

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.requests >= 1 and self.finish_s >= 0):
            raise ValueError(f"a live episode needs seconds above 0 and at least one request, not {self}")


class LiveWorld:
    """Real time: requests go to running servers over HTTP, and an episode ends within its bounds.

    ``urls`` must name servers for every pool of the scenario; each is a worker with the pool's in-flight limit.
    """

    def __init__(self, urls: Urls, bounds: LiveBounds) -> None:
        self.urls = {pool: tuple(roots) for pool, roots in urls.items()}
        self.bounds = bounds
        self.patience_s: float = bounds.finish_s

    def length(self, episode: Episode) -> float:
        """As the scenario has it, within bounds."""
        return min(episode.scenario.duration_s, self.bounds.seconds)

    def bounded(self, episode: Episode) -> Episode:
        """Its first requests."""
        within = [request for request in episode.requests if request.at < self.bounds.seconds]
        return replace(episode, requests=tuple(within[: self.bounds.requests]))

    def takes(self, now: float, requests: int) -> bool:
        """Within bounds."""
        return now < self.bounds.seconds and requests < self.bounds.requests

    def fleet(self, episode: Episode, control: ControlPlane) -> Fleet:
        """One worker a server."""
        from envs.live_fleet import Bounds, LiveFleet

        workers = self.workers(episode)
        bounds = Bounds(max_seconds=self.bounds.seconds + self.bounds.finish_s)
        return LiveFleet(control, workers, episode.clock, bounds=bounds)

    def workers(self, episode: Episode) -> list[WorkerSpec]:
        """A worker a server, named as the simulated ones are.

        Raises:
            ValueError: there are pools without servers, or servers of unknown pools.
        """
        pools = {pool.name: pool for pool in episode.scenario.pools}
        if set(pools) != set(self.urls) or not all(self.urls.values()):
            raise ValueError(f"urls must name servers of the pools {sorted(pools)}, not of {sorted(self.urls)}")
        return [
            pools[name].worker(f"{name}-{place}", url)
            for name, roots in self.urls.items()
            for place, url in enumerate(roots)
        ]

    def look(self, fleet: Fleet, control: ControlPlane) -> FleetView:
        """The fleet as its control plane sees it now; asked in the thread that owns it."""
        from envs.live_fleet import LiveFleet

        assert isinstance(fleet, LiveFleet)
        return fleet.consult(lambda plane, now: plane.view(now))


def choose_world(engine: EngineKind, urls: Urls | None, bounds: LiveBounds | None) -> World:
    """The world of an environment.

    Raises:
        ValueError: a live one needs to be told where its servers are, and a simulated one must not be.
    """
    if engine is EngineKind.SIM:
        if urls is not None or bounds is not None:
            raise ValueError("urls=… and bounds=… are for engine='live'; with engine='sim' leave them out")
        return SimWorld()
    if not urls:
        raise ValueError("engine='live' needs urls={pool: [URL, …], …}: where the servers of each pool are")
    return LiveWorld(urls, bounds or LiveBounds())
