"""The simulated engine's meaning, one step at a time: slow, plain, and what :class:`SimEngine` must agree with.

Every step walks over every sequence and counts its blocks afresh. Nothing here is shared with the fast engine but the
step-time formula, the conversion of seconds, and the names of policies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from envs.engines.base import EngineEvent, EnginePhase, EngineRequest, EngineState, EventKind
from envs.engines.sequence import SchedulingPolicy
from envs.engines.timing import StepTiming, to_ps, to_seconds
from predictors.latency.model import Profile


@dataclass(eq=False)
class _Item:
    request: EngineRequest
    order: tuple[int, int, int]
    entry: int
    computed: int = 0
    """Tokens of prompt and output whose KV is in the cache."""
    produced: int = 0
    decoding: bool = False
    cancelled: bool = False
    cached: int | None = None
    """Tokens found in the prefix cache at the first admission."""
    considered: int = 0
    """Of its hashes, those that could have gone into the prefix cache by now."""
    units: dict[int, int] = field(default_factory=dict)
    """Which of its hashes, by their place, it shares by way of the prefix cache."""

    @property
    def length(self) -> int:
        return self.request.prompt_tokens + self.produced


class _PrefixCache:
    """Which blocks can be found again. ``tokens`` of 0 is a cache that never finds anything."""

    def __init__(self, tokens: int, block_size: int) -> None:
        self.tokens = tokens
        self.blocks = tokens // block_size
        self.idle: list[int] = []
        """Hashes whose blocks nobody holds, the one let go first in front."""
        self.queries = self.hits = 0

    def found(self, item: _Item, running: Iterable[_Item]) -> int:
        """How many leading units of an item are there."""
        if not self.tokens:
            return 0
        known = {*self.idle, *(unit for other in running for unit in other.units.values())}
        count = 0
        for unit in item.request.prefix[: (item.length - 1) // self.tokens]:
            if unit not in known:
                break
            count += 1
        return count

    def admit(self, item: _Item, count: int) -> None:
        item.units = dict(enumerate(item.request.prefix[:count]))
        self.idle = [unit for unit in self.idle if unit not in item.units.values()]
        item.computed, item.considered = count * self.tokens, count
        self.queries += item.length if self.tokens else 0
        self.hits += item.computed
        item.cached = item.computed if item.cached is None else item.cached

    def know(self, item: _Item, running: Iterable[_Item]) -> None:
        """What the item has computed, or is about to, can be found from now on."""
        if not self.tokens:
            return
        known = {*self.idle, *(unit for other in running for unit in other.units.values())}
        for place, unit in enumerate(item.request.prefix[: item.computed // self.tokens]):
            if place >= item.considered and unit not in known:
                item.units[place] = unit
                known.add(unit)
        item.considered = item.computed // self.tokens

    def let_go(self, item: _Item, running: Iterable[_Item]) -> None:
        held = {unit for other in running if other is not item for unit in other.units.values()}
        self.idle += [unit for _, unit in sorted(item.units.items(), reverse=True) if unit not in held]
        item.units = {}


class ReferenceEngine:
    """One simulated model server, stepped; implements :class:`envs.engines.base.Engine`.

    The arguments are those of :class:`envs.engines.sim.SimEngine`.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        policy: SchedulingPolicy = SchedulingPolicy.FCFS,
        now: float = 0.0,
        cold: bool = False,
        prefix_tokens: int | None = None,
    ) -> None:
        self.profile = profile
        self.policy = policy
        self._steady = StepTiming.of(profile)
        self._now = self._clock = self._visible = self._ready_at = self._slow_until = self._started = to_ps(now)
        self._phase = EnginePhase.READY
        self._wake_s = profile.wake_s
        self._end: int | None = None
        self._scheduled: dict[_Item, int] = {}
        self._coming: list[_Item] = []
        self._waiting: list[_Item] = []
        self._running: list[_Item] = []
        self._known: dict[str, _Item] = {}
        self._outbox: list[tuple[int, EngineEvent]] = []
        self._submitted = 0
        self._cache = _PrefixCache(prefix_tokens or 0, profile.block_size)
        self.preemptions = 0
        self.step_ends: list[int] = []
        if cold:
            self._start_cold()

    @property
    def now(self) -> float:
        """The clock, in seconds."""
        return to_seconds(self._now)

    def submit(self, request: EngineRequest) -> None:
        """See :meth:`Engine.submit`."""
        if request.id in self._known:
            raise ValueError(f"request id {request.id!r} is in use")
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError(f"request {request.id!r}: prompt_tokens and output_tokens must be at least 1")
        arrival = to_ps(request.arrival)
        if arrival < self._now:
            raise ValueError(f"request {request.id!r} arrives before the clock")
        too_long = request.prompt_tokens + request.output_tokens > self.profile.max_model_len
        if too_long or self._phase is EnginePhase.FAILED:
            self._emit(arrival, EventKind.REJECTED, request.id, 0)
            return
        self._submitted += 1
        rank = request.priority if self.policy is SchedulingPolicy.PRIORITY else 0
        item = _Item(request, (rank, arrival, self._submitted), arrival + self._steady.request_overhead)
        self._known[request.id] = item
        self._coming.append(item)

    def cancel(self, request_id: str) -> bool:
        """See :meth:`Engine.cancel`."""
        item = self._known.pop(request_id, None)
        if item is None:
            return False
        item.cancelled = True
        for queue in (self._coming, self._waiting):
            if item in queue:
                queue.remove(item)
        if self._end is None and item in self._running:
            self._leave(item)
        self._outbox = [entry for entry in self._outbox if entry[1].id != request_id]
        self._emit(self._now, EventKind.ABORTED, request_id, item.produced)
        return True

    def advance(self, until: float) -> list[EngineEvent]:
        """See :meth:`Engine.advance`."""
        self._now = to_ps(until)
        while True:
            if self._end is not None:
                if self._end > self._now:
                    break
                self._finish_step()
            if self._clock >= self._now or not self._begin_step():
                break
        self._outbox.sort(key=lambda entry: entry[0])
        due = [event for at, event in self._outbox if at <= self._now]
        self._outbox = [entry for entry in self._outbox if entry[0] > self._now]
        return due

    def next_event_at(self) -> float | None:
        """See :meth:`Engine.next_event_at`."""
        times = [at for at, _ in self._outbox]
        boundary = max(self._clock, self._ready_at)
        if self._end is not None:
            times.append(self._end)
        elif self._phase not in (EnginePhase.SLEEPING, EnginePhase.FAILED):
            if self._running or self._waiting:
                times.append(boundary + self._steady.a)
            times.extend(max(boundary, item.entry) + self._steady.a for item in self._coming)
        return to_seconds(min(times)) if times else None

    def state(self) -> EngineState:
        """See :meth:`Engine.state`."""
        self._settle_phase()
        waiting = len(self._waiting) + sum(item.entry <= self._now for item in self._coming)
        usage = (self.profile.kv_blocks - self._free()) / self.profile.kv_blocks
        counts = len(self._running), waiting, usage, self.preemptions
        return EngineState(self.now, *counts, self._phase, self._cache.queries, self._cache.hits)

    # What happens to a server

    def sleep(self, level: int = 1) -> None:
        """See :meth:`SimEngine.sleep`."""
        self._require_phase(EnginePhase.READY)
        self._abort_all()
        deep = self.profile.cold_start_s if self.profile.wake_level2_s is None else self.profile.wake_level2_s
        self._phase, self._wake_s = EnginePhase.SLEEPING, self.profile.wake_s if level == 1 else deep
        self._ready_at = self._now + to_ps(self.profile.sleep_s)

    def wake(self) -> None:
        """See :meth:`SimEngine.wake`."""
        self._require_phase(EnginePhase.SLEEPING)
        self._phase = EnginePhase.WAKING
        self._ready_at = max(self._now, self._ready_at) + to_ps(self._wake_s)

    def fail(self) -> None:
        """See :meth:`SimEngine.fail`."""
        self._abort_all()
        self._phase = EnginePhase.FAILED

    def start(self) -> None:
        """See :meth:`SimEngine.start`."""
        self._require_phase(EnginePhase.FAILED)
        self._start_cold()

    def slow_down(self, factor: float) -> None:
        """See :meth:`SimEngine.slow_down`."""
        self._steady = StepTiming.of(self.profile).scaled(factor)

    def _start_cold(self) -> None:
        self._phase = EnginePhase.STARTING
        self._ready_at = self._now + to_ps(self.profile.cold_start_s)
        self._slow_until = self._ready_at + to_ps(self.profile.warm_up_s)

    def _require_phase(self, phase: EnginePhase) -> None:
        self._settle_phase()
        if self._phase is not phase:
            raise ValueError(f"the engine is {self._phase.value}, not {phase.value}")

    def _settle_phase(self) -> None:
        if self._phase in (EnginePhase.STARTING, EnginePhase.WAKING) and self._now >= self._ready_at:
            self._phase = EnginePhase.READY
            self._started = self._clock = max(self._clock, self._ready_at)

    def _abort_all(self) -> None:
        for request_id in list(self._known):
            self.cancel(request_id)
        if self._end is not None:
            self._clock, self._end = self._now, None
            self.step_ends.append(self._clock)
        self._running, self._scheduled, self._cache.idle = [], {}, []

    # Blocks

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.profile.block_size)

    def _held(self, item: _Item) -> int:
        """A prompt's blocks are all taken when it is admitted, an output token's in the step that computes it."""
        in_step = item in self._scheduled and item.decoding
        return self._blocks(item.computed + in_step if item.decoding else item.length)

    def _free(self) -> int:
        alone = sum(self._held(item) - len(item.units) * self._cache.blocks for item in self._running)
        shared = {unit for item in self._running for unit in item.units.values()}
        return self.profile.kv_blocks - alone - len(shared) * self._cache.blocks

    def _evict(self) -> None:
        while self._cache.idle and len(self._cache.idle) * self._cache.blocks > self._free():
            self._cache.idle.pop(0)

    def _leave(self, item: _Item) -> None:
        self._cache.know(item, self._running)
        self._cache.let_go(item, self._running)
        self._running.remove(item)

    # Steps

    def _begin_step(self) -> bool:
        if self._phase is not EnginePhase.READY:
            asleep = self._phase in (EnginePhase.SLEEPING, EnginePhase.FAILED)
            if asleep or self._ready_at >= self._now:
                self._clock = self._now
                return False
            self._phase = EnginePhase.READY
            self._started = self._clock = max(self._clock, self._ready_at)
        self._take_arrivals()
        if not self._running and not self._waiting:
            at = min((item.entry for item in self._coming), default=self._now)
            self._started = self._clock = min(max(self._clock, at), self._now)
            return at < self._now
        decoding = self._schedule()
        prefill = sum(tokens for item, tokens in self._scheduled.items() if item not in decoding)
        context = sum(item.length for item in decoding)
        slow = self._clock < self._slow_until
        timing = self._steady.scaled(self.profile.warm_up_factor) if slow else self._steady
        self._started, self._end = self._clock, self._clock + timing.step(prefill, len(decoding), context)
        return True

    def _take_arrivals(self) -> None:
        known_by = self._started if self.profile.async_scheduling else self._clock
        arrived = [item for item in self._coming if item.entry <= known_by]
        self._coming = [item for item in self._coming if item.entry > known_by]
        self._waiting = sorted(self._waiting + arrived, key=lambda item: item.order)

    def _schedule(self) -> list[_Item]:
        preempted = False
        while sum(self._blocks(i.length) - self._held(i) for i in self._running if i.decoding) > self._free():
            victim = max(self._running, key=lambda item: item.order)
            self._leave(victim)
            victim.computed, victim.decoding = 0, False
            self._waiting = sorted([*self._waiting, victim], key=lambda item: item.order)
            self.preemptions += 1
            preempted = True
        decoding = [item for item in self._running if item.decoding]
        self._scheduled = dict.fromkeys(decoding, 1)
        self._evict()
        budget = self.profile.max_num_batched_tokens - len(decoding)
        for item in self._running:
            if not item.decoding:
                budget -= self._give(item, budget)
        while self._waiting and budget > 0 and not preempted and len(self._running) < self.profile.max_num_seqs:
            found = self._cache.found(self._waiting[0], self._running)
            if not self._fits(self._waiting[0], found):
                break
            item = self._waiting.pop(0)
            self._cache.admit(item, found)
            self._running.append(item)
            self._evict()
            budget -= self._give(item, budget)
        return decoding

    def _fits(self, item: _Item, found: int) -> bool:
        held = {unit for other in self._running for unit in other.units.values()}
        shared = sum(unit in held for unit in item.request.prefix[:found])
        return self._blocks(item.length) - shared * self._cache.blocks <= self._free()

    def _give(self, item: _Item, budget: int) -> int:
        tokens = min(item.length - item.computed, budget)
        self._scheduled[item] = tokens
        item.computed += tokens
        self._cache.know(item, self._running)
        return tokens

    def _finish_step(self) -> None:
        assert self._end is not None
        self._clock, self._end = self._end, None
        self.step_ends.append(self._clock)
        for item in self._scheduled:
            item.computed += item.decoding
        producing = [item for item in self._scheduled if item.computed == item.length]
        self._scheduled = {}
        self._visible = max(self._visible, self._clock + self._steady.token_overhead * len(producing))
        for item in [item for item in self._running if item.cancelled]:
            self._leave(item)
        for item in producing:
            item.produced += 1
            item.decoding = True
            if not item.cancelled:
                self._tell(item)

    def _tell(self, item: _Item) -> None:
        cached = item.cached or 0
        if item.produced == 1:
            self._emit(self._visible, EventKind.FIRST_TOKEN, item.request.id, 1, cached)
        if item.produced == item.request.output_tokens:
            self._emit(self._visible, EventKind.FINISHED, item.request.id, item.produced, cached)
            self._leave(item)
            del self._known[item.request.id]

    def _emit(self, at: int, kind: EventKind, request_id: str, produced: int, cached: int = 0) -> None:
        self._outbox.append((at, EngineEvent(kind, request_id, to_seconds(at), produced, cached)))
