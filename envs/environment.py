"""What all environments over a fleet have in common: a world to draw, simulated or live, an end, and a picture.

An environment drives one :class:`envs.fleet.Fleet` an episode. ``engine="sim"`` simulates it, as fast as it goes;
``engine="live"`` sends the same requests to running servers, in real time (:mod:`envs.worlds`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

import gymnasium
import numpy as np
import numpy.typing as npt

from controller.pipeline import ControlPlane
from controller.settings import ControlSettings
from controller.view import FleetView
from envs.episode import Episode, EpisodeSource, StageFactory
from envs.fleet import Ended, Fleet
from envs.rendering import Chronicle, Painter
from envs.scenarios import WorkloadKind
from envs.tasks import grade
from envs.worlds import EngineKind, LiveBounds, Urls, choose_world

__all__ = ["FleetEnv"]

Obs = TypeVar("Obs")
Act = TypeVar("Act")


class FleetEnv(gymnasium.Env[Obs, Act], Generic[Obs, Act]):
    """Draws episodes, opens their fleets one after the other, and paints them.

    ``kind`` fixes the workload; ``None`` draws one an episode; ``reset(options={"kind": …})`` overrides it once.
    ``urls`` (pool → its servers' roots) and ``bounds`` are for ``engine="live"``. ``record_share`` is the share of the
    requests of which the control plane keeps a decision record.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(
        self,
        source: EpisodeSource,
        *,
        kind: WorkloadKind | str | None = None,
        engine: EngineKind | str = EngineKind.SIM,
        urls: Urls | None = None,
        bounds: LiveBounds | None = None,
        record_share: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode is 'rgb_array' or None, not {render_mode!r}")
        self.source = source
        self.kind = None if kind is None else WorkloadKind(kind)
        self.engine = EngineKind(engine)
        self.record_share = record_share
        self.render_mode = render_mode
        self.episode: Episode
        self._world = choose_world(self.engine, urls, bounds)
        self._fleet: Fleet | None = None
        self._control: ControlPlane
        self._chronicle = Chronicle() if render_mode else None
        self._painter: Painter | None = None

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The fleet at this moment (height, width, 3); ``None`` unless ``render_mode`` is ``rgb_array``."""
        if self._chronicle is None or self._fleet is None:
            return None
        if self._painter is None:
            self._painter = Painter(type(self).__name__.removesuffix("Env"))
        return self._painter.paint(self._look(), self._chronicle)

    def close(self) -> None:
        """Let go of the fleet; a live one has its requests aborted."""
        self._leave()

    def _leave(self) -> None:
        fleet, self._fleet = self._fleet, None
        if fleet is not None:
            fleet.close()

    def _draw(self, options: dict[str, Any] | None) -> Episode:
        """The next episode, as long as this world allows."""
        wanted = (options or {}).get("kind", self.kind)
        kind = None if wanted is None else WorkloadKind(wanted)
        return self._world.bounded(self.source.draw(int(self.np_random.integers(2**63)), kind))

    def _enter(
        self,
        episode: Episode,
        stages: StageFactory,
        settings: ControlSettings | None = None,
    ) -> Fleet:
        """Open the episode's fleet, with these stages and settings."""
        self._leave()
        self.episode = episode
        settings = replace(settings or episode.settings(), record_share=self.record_share)
        self._control = episode.control(stages, settings)
        fleet = self._fleet = self._manned(episode, self._control)
        if self._chronicle is not None:
            self._chronicle.clear()
        return fleet

    def _manned(self, episode: Episode, control: ControlPlane) -> Fleet:
        """The episode's fleet under its control plane."""
        return self._world.fleet(episode, control)

    def _look(self) -> FleetView:
        """The fleet as its control plane sees it now."""
        assert self._fleet is not None
        return self._world.look(self._fleet, self._control)

    def _finish(self, drain: Callable[[float], None] | None = None) -> None:
        """Run what is open to its end; a live fleet has some time for that, and what is left is aborted."""
        fleet = self._fleet
        assert fleet is not None
        (drain or fleet.drain)(fleet.now + self._world.patience_s)
        if fleet.open:
            for request in self.episode.requests:
                fleet.abort(request.ticket.id)

    def _graded(self, ended: Ended) -> bool | None:
        """Whether the answer that came is right; ``None`` where there is no text to read."""
        if ended.text is None:
            return None
        return grade(self.episode.prompts.tasks[self.episode.rows[ended.request.index]], ended.text)

    def _note(self, ended: list[Ended], reward: float, /) -> None:
        if self._chronicle is not None and self._fleet is not None:
            self._chronicle.note(self._fleet.now, ended, reward)
