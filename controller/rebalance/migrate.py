"""Rebalance ``migrate``: running streams move to another worker of their pool where that saves more than it costs.

Moving costs a pause, and reading the prompt and the answer so far once more, which also holds up what runs there (token
replay; no KV cache travels). It saves the difference between what a token takes here and there, for every token still
expected. Which workers give and take is Llumnix's: the lowest *freeness*, room per running request, gives, the highest
takes (Sun et al., OSDI'24).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import Field

from controller.errors import HeadwayError
from controller.protocols import Options, Resources
from controller.rebalance.paces import Paces, batch_of
from controller.types import Move, PoolName, TicketId, WorkerName, WorkerPhase
from controller.view import Breaker, FleetView, PoolView, TicketView, WorkerView
from predictors.artifact import ArtifactError
from predictors.latency.model import Profile

__all__ = ["Migrate", "MigrateOptions"]


class MigrateOptions(Options):
    """Options of ``migrate``. Times in seconds, sizes in tokens."""

    interval_s: float = Field(0.5, gt=0)
    """Between two plans."""
    pause_s: float = Field(0.1, ge=0)
    """What breaking off and asking again takes, but for reading."""
    min_gain_s: float = Field(1.0, ge=0)
    """A move has to save so much more than it costs …"""
    min_ratio: float = Field(2.0, ge=1)
    """… and so many times as much as it costs."""
    min_remaining: int = Field(64, ge=1)
    """A stream with fewer tokens to come stays, unless its worker leaves."""
    max_moves: int = Field(3, ge=1)
    """Times one request is moved."""
    settle_s: float = Field(3.0, ge=0)
    """A request that was asked to move is left alone for so long; longer each time it could not."""
    moves_per_plan: int = Field(8, ge=1)
    """Over all pools."""
    moves_per_s: float = Field(16.0, gt=0)
    """On average, over all pools."""
    stretch: float = Field(1.25, ge=1)
    """How many times as long a token takes at a full worker as at one that has a single request, for pools of which no
    profile says."""
    kv_high: float = Field(0.9, gt=0, le=1)
    """A worker that reports more of its KV cache in use is given none."""


@dataclass(frozen=True, slots=True)
class _Saving:
    """What a move would save and cost its stream and, in waiting, those that it joins. Seconds."""

    saved: float
    cost: float

    @property
    def net(self) -> float:
        return self.saved - self.cost


@dataclass(slots=True)
class _Asked:
    """A move that was asked for."""

    moved: int
    """The ticket's moves before."""
    refused: int
    until: float


class Migrate:
    """Empties workers that leave, evens out the others, and has streams give their seats up to more urgent tickets that
    wait for a full pool. Only streams that have begun move."""

    name = "migrate"

    def __init__(
        self,
        options: MigrateOptions,
        prompt_work: float = 0.1,
        profiles: Mapping[PoolName, Profile] | None = None,
    ) -> None:
        self._options = options
        self._prompt_work = prompt_work
        self._paces = Paces(options.stretch, profiles)
        self._asked: dict[TicketId, _Asked] = {}
        self._credit = float(options.moves_per_plan)
        self._at: float | None = None

    @classmethod
    def create(cls, options: MigrateOptions, resources: Resources) -> Migrate:
        return cls(options, resources.settings.prompt_work, dict(_profiles(resources)))

    @property
    def interval_s(self) -> float | None:
        """See :class:`~controller.protocols.RebalanceStage`."""
        return self._options.interval_s

    def plan(self, view: FleetView, running: Sequence[TicketView], now: float) -> tuple[Move, ...]:
        """See :class:`~controller.protocols.RebalanceStage`; workers that leave come first."""
        self._paces.observe(view, running, now)
        self._earn(now)
        self._recall(running)
        movable = [ticket for ticket in running if self._may(ticket, now)]
        boards = [self._board(pool, movable) for pool in view.pools]
        moves = self._take(move for board in boards for move in board.emptying())
        moves += self._take(move for board in boards for move in board.evening())
        self._note(moves, movable, now)
        return tuple(moves)

    def make_room(
        self, view: FleetView, running: Sequence[TicketView], waiting: Sequence[TicketView], now: float
    ) -> tuple[Move, ...]:
        """See :class:`~controller.protocols.MakesRoom`."""
        movable = [ticket for ticket in running if self._may(ticket, now)]
        boards = {pool.name: self._board(pool, movable) for pool in view.pools}
        able = (ticket for ticket in waiting if ticket.pool in boards)
        first = heapq.nsmallest(4 * self._options.moves_per_plan, able, key=lambda ticket: ticket.key or 0.0)
        moves = self._take(
            Move(found.ticket, None, f"makes room for {urgent.ticket}")
            for urgent in first
            if urgent.pool is not None and (found := boards[urgent.pool].yielding(urgent, running)) is not None
        )
        self._note(moves, movable, now)
        return tuple(moves)

    def _board(self, pool: PoolView, movable: Sequence[TicketView]) -> _Board:
        return _Board(pool, movable, self._paces, self._options, self._prompt_work)

    def _earn(self, now: float) -> None:
        most = float(self._options.moves_per_plan)
        if self._at is not None:
            self._credit = min(most, self._credit + (now - self._at) * self._options.moves_per_s)
        self._at = now

    def _take(self, moves: Iterable[Move]) -> list[Move]:
        """As many as are allowed; the rest is not even looked for."""
        taken: list[Move] = []
        if self._credit >= 1.0:
            for move in moves:
                taken.append(move)
                self._credit -= 1.0
                if self._credit < 1.0:
                    break
        return taken

    def _may(self, ticket: TicketView, now: float) -> bool:
        if ticket.first_token_at is None or ticket.moved >= self._options.max_moves:
            return False
        asked = self._asked.get(ticket.ticket)
        return asked is None or asked.until <= now

    def _recall(self, running: Sequence[TicketView]) -> None:
        """Forget tickets that have ended, and refusals of those that moved after all. One that is between two workers
        is missing here, and forgotten: it has moved."""
        kept: dict[TicketId, _Asked] = {}
        for ticket in running:
            asked = self._asked.get(ticket.ticket)
            if asked is not None:
                if ticket.moved > asked.moved:
                    asked.refused = 0
                kept[ticket.ticket] = asked
        self._asked = kept

    def _note(self, moves: Sequence[Move], movable: Sequence[TicketView], now: float) -> None:
        moved = {ticket.ticket: ticket.moved for ticket in movable}
        for move in moves:
            asked = self._asked.get(move.ticket)
            refused = 0 if asked is None or asked.moved < moved[move.ticket] else asked.refused + 1
            wait = self._options.settle_s * 2.0 ** min(refused, 6)
            self._asked[move.ticket] = _Asked(moved[move.ticket], refused, now + wait)


class _Board:
    """One pool while its moves are planned: each planned move changes what the next one finds."""

    def __init__(
        self,
        pool: PoolView,
        movable: Sequence[TicketView],
        paces: Paces,
        options: MigrateOptions,
        prompt_work: float,
    ) -> None:
        self._pool = pool
        self._paces = paces
        self._options = options
        self._alone: Mapping[WorkerName, float] = paces.alone(pool.workers)
        self._fastest = min(self._alone.values(), default=0.0)
        rate = pool.service_rate / pool.ready if pool.ready else 0.0
        self._read_s = prompt_work / rate if rate > 0 else 0.0
        """To read a token."""
        self._batch = {worker.name: batch_of(worker) for worker in pool.workers}
        self._room = {worker.name: worker.limit - self._batch[worker.name] for worker in pool.workers}
        self._load = {worker.name: worker.load for worker in pool.workers}
        self._streams: dict[WorkerName, list[TicketView]] = {worker.name: [] for worker in pool.workers}
        for ticket in movable:
            if ticket.pool == pool.name and ticket.worker in self._streams:
                self._streams[ticket.worker].append(ticket)
        self._least_urgent = max((t.priority for streams in self._streams.values() for t in streams), default=-math.inf)
        """The lowest priority of a stream here, as a number."""

    def emptying(self) -> Iterable[Move]:
        """Streams of workers that leave, those with the most to come first. One that ends sooner than it could have
        moved stays."""
        for source in self._pool.workers:
            if source.phase is not WorkerPhase.DRAINING and not source.removed:
                continue
            for ticket in sorted(self._streams[source.name], key=_remaining, reverse=True):
                target = self._roomiest(source)
                if target is None:
                    return
                alone = self._alone.get(source.name)
                stays = 0.0 if alone is None else self._paces.seconds(source, alone, self._batch[source.name])
                if alone is None or _remaining(ticket) * stays > self._cost(ticket, 0):
                    yield self._move(ticket, source, target, f"{source.name} leaves")

    def evening(self) -> Iterable[Move]:
        """Streams of the least free workers to the freest one, the greatest savings first. Where tickets wait, every
        seat is wanted anyway, and nothing moves."""
        if not self._alone or self._pool.queued:
            return
        for source in sorted((one for one in self._pool.workers if one.serves), key=self._freeness):
            while (target := self._roomiest(source)) is not None and self._freeness(target) > self._freeness(source):
                ticket = max(
                    self._streams[source.name], key=lambda one: self._saving(one, source, target).net, default=None
                )
                if ticket is None or _remaining(ticket) < self._options.min_remaining:
                    break
                saving = self._saving(ticket, source, target)
                if (
                    self._refills(ticket, source, target)
                    or saving.net < self._options.min_gain_s
                    or saving.saved < self._options.min_ratio * saving.cost
                ):
                    break
                yield self._move(ticket, source, target, f"saves {saving.saved:.1f} s for {saving.cost:.1f} s")

    def yielding(self, urgent: TicketView, running: Sequence[TicketView]) -> TicketView | None:
        """The stream that should give its seat up to a ticket that waits: of those that the queue's own order puts
        behind it and that have a lower priority, of the lowest the one with the most to come. None while there is room,
        or a seat becomes free soon enough by itself."""
        if urgent.priority >= self._least_urgent:
            return None
        if not self._alone or any(self._room[one.name] > 0 for one in self._pool.workers if one.serves):
            return None
        able = [
            ticket
            for worker in self._pool.workers
            if worker.serves and worker.breaker is Breaker.CLOSED
            for ticket in self._streams[worker.name]
            if ticket.priority > urgent.priority
            and (ticket.key or 0.0) > (urgent.key or 0.0)
            and _remaining(ticket) >= self._options.min_remaining
        ]
        found = max(able, key=lambda ticket: (ticket.priority, _remaining(ticket)), default=None)
        if found is None:
            return None
        saved, cost = self._wait(running), self._cost(found, 0)
        if saved - cost < self._options.min_gain_s or saved < self._options.min_ratio * cost:
            return None
        self._streams[found.worker or ""].remove(found)
        return found

    def _wait(self, running: Sequence[TicketView]) -> float:
        """Seconds until the first seat should be free."""
        workers = {worker.name: worker for worker in self._pool.workers if worker.serves}
        return min(
            (
                _remaining(ticket) * self._paces.seconds(worker, self._alone[worker.name], self._batch[worker.name])
                for ticket in running
                if ticket.pool == self._pool.name and (worker := workers.get(ticket.worker or "")) is not None
            ),
            default=0.0,
        )

    def _saving(self, ticket: TicketView, source: WorkerView, target: WorkerView) -> _Saving:
        here = self._paces.seconds(source, self._alone[source.name], self._batch[source.name])
        there = self._paces.seconds(target, self._alone[target.name], self._batch[target.name] + 1)
        return _Saving(_remaining(ticket) * (here - there), self._cost(ticket, self._batch[target.name]))

    def _refills(self, ticket: TicketView, source: WorkerView, target: WorkerView) -> bool:
        """Whether the source would be left with less work in front of it than the target has: whoever places by load
        would at once give it as much as it has been relieved of, and nothing would be won."""
        return self._load[source.name] - _remaining(ticket) / source.limit < self._load[target.name]

    def _cost(self, ticket: TicketView, held_up: int) -> float:
        """Seconds that a stream loses by moving, and those that run there by its being read."""
        read = self._read_s * (ticket.prompt_tokens + ticket.output_tokens)
        return self._options.pause_s + read * (1 + held_up)

    def _roomiest(self, source: WorkerView) -> WorkerView | None:
        """Where a stream of this worker would go."""
        able = [worker for worker in self._pool.workers if worker is not source and self._takes(worker)]
        return max(able, key=self._freeness, default=None)

    def _takes(self, worker: WorkerView) -> bool:
        if not worker.serves or worker.breaker is not Breaker.CLOSED or self._room[worker.name] < 1:
            return False
        return worker.report is None or worker.report.kv_usage <= self._options.kv_high

    def _freeness(self, worker: WorkerView) -> float:
        """Room for each request there: (capacity − load) / batch, in seats, of which a full KV cache leaves none; by
        how much slower than the fastest the worker is."""
        batch, limit = self._batch[worker.name], worker.limit
        kv = 0.0 if worker.report is None else worker.report.kv_usage
        room = limit * (1.0 - max(batch / limit, kv)) / max(batch, 1)
        return room * self._fastest / self._alone[worker.name] if self._alone and room > 0.0 else room

    def _move(self, ticket: TicketView, source: WorkerView, target: WorkerView, reason: str) -> Move:
        self._streams[source.name].remove(ticket)
        self._batch[source.name] -= 1
        self._batch[target.name] += 1
        self._room[target.name] -= 1  # what leaves the source may be refused: its seat is not free yet
        self._load[source.name] -= _remaining(ticket) / source.limit
        self._load[target.name] += _remaining(ticket) / target.limit
        return Move(ticket.ticket, target.name, reason)


def _profiles(resources: Resources) -> Iterator[tuple[PoolName, Profile]]:
    """Those that can be read; the gateway says of the others why they cannot."""
    for pool in resources.pools:
        if pool.profile is not None and resources.artifacts is not None:
            with suppress(HeadwayError, ArtifactError):
                yield pool.name, Profile.load(resources.artifacts.resolve(f"profile/{pool.profile}"))


def _remaining(ticket: TicketView) -> int:
    """Tokens that are still expected."""
    return max(ticket.expected_output - ticket.output_tokens, 1)
