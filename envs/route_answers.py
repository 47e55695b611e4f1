"""Where the routing environment's answers come from: a table, or live servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from controller.observation import Codec
from controller.protocols import Resources, Stages
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import PoolSpec, Ticket
from envs.episode import ALIAS, Episode, EpisodeSource
from envs.fleet import Ended, Fleet, FleetRequest
from envs.handed import HandedTier
from envs.route_table import RouteTable
from envs.tasks import grade
from envs.worlds import World

__all__ = ["Answer", "Answers", "LiveAnswers", "TableAnswers"]


@dataclass(frozen=True, slots=True)
class Answer:
    """How good one was, in [0, 1], and what it cost, in dollars."""

    quality: float
    usd: float


class Answers(Protocol):
    """Answers prompts of a table."""

    @property
    def over(self) -> bool:
        """Whether no more prompts are answered in this episode."""
        ...

    def begin(self, seed: int) -> None:
        """The next episode begins."""
        ...

    def answer(self, row: int, model: int) -> Answer:
        """The answer of a model (its column) to a prompt (its row)."""
        ...

    def close(self) -> None:
        """There will be no more episodes."""
        ...


class TableAnswers:
    """Looks them up."""

    over: bool = False

    def __init__(self, table: RouteTable) -> None:
        self._quality: list[list[float]] = table.quality.tolist()
        self._usd: list[list[float]] = table.usd.tolist()

    def begin(self, seed: int) -> None:
        """See :class:`Answers`."""

    def answer(self, row: int, model: int) -> Answer:
        """See :class:`Answers`."""
        return Answer(self._quality[row][model], self._usd[row][model])

    def close(self) -> None:
        """See :class:`Answers`."""


class LiveAnswers:
    """Sends each prompt through the control plane to a server of the chosen pool, waits, and checks the answer."""

    def __init__(self, source: EpisodeSource, table: RouteTable, world: World) -> None:
        self._source = source
        self._table = table
        self._world = world
        self._episode: Episode
        self._fleet: Fleet | None = None
        self._asked = 0
        self._tier = HandedTier(Codec(len(table.models)))

    @property
    def over(self) -> bool:
        """See :class:`Answers`: its bounds in time or requests are reached."""
        fleet = self._fleet
        return fleet is not None and not self._world.takes(fleet.now, self._asked)

    def begin(self, seed: int) -> None:
        """See :class:`Answers`."""
        self.close()
        self._episode = self._source.draw(seed)
        self._asked = 0
        self._fleet = self._world.fleet(self._episode, self._episode.control(self._stages))

    def answer(self, row: int, model: int) -> Answer:
        """See :class:`Answers`; waits for it. What does not come in time, or fails, has no quality."""
        fleet = self._fleet
        assert fleet is not None
        request = self._request(fleet.now, row)
        self._asked += 1
        self._tier.hand(request.ticket.id, model)
        if fleet.submit(request):
            fleet.score(request.ticket.id)
        fleet.drain(fleet.now + self._world.patience_s)
        fleet.abort(request.ticket.id)
        (ended,) = fleet.take_ended()
        return self._judged(ended, row)

    def close(self) -> None:
        """See :class:`Answers`."""
        fleet, self._fleet = self._fleet, None
        if fleet is not None:
            fleet.close()

    def _request(self, now: float, row: int) -> FleetRequest:
        prompts, limit = self._source.prompts, self._episode.scenario.max_tokens
        text, tokens = prompts.tasks[row].prompt, int(prompts.prompt_tokens[row])
        scores = replace(prompts.scores[row], output_tokens=prompts.scores[row].output_tokens or float(limit))
        lengths = dict(zip(prompts.pools, prompts.output_tokens[row].tolist(), strict=True))
        ticket = Ticket(id=f"p{self._asked}", model=ALIAS, prompt_chars=len(text), max_tokens=limit)
        return FleetRequest(now, ticket, tokens, lengths, scores, row, text)

    def _judged(self, ended: Ended, row: int) -> Answer:
        if ended.pool is None:
            return Answer(0.0, 0.0)
        price = self._table.prices[self._table.models.index(ended.pool)]
        tokens = int(self._table.prompt_tokens[row])
        usd = (tokens * price.input_usd_per_mtok + ended.output_tokens * price.output_usd_per_mtok) / 1e6
        right = ended.latency is not None and grade(self._source.prompts.tasks[row], ended.text or "")
        return Answer(float(right), usd)

    def _stages(self, pools: Sequence[PoolSpec], settings: ControlSettings) -> Stages:
        self._tier = HandedTier(Codec(len(pools)))
        return replace(build({}, Resources(pools=tuple(pools), settings=settings)), tier=self._tier)
