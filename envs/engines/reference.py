"""The simulated engine's meaning, one step at a time: slow, plain, and what :class:`SimEngine` must agree with.

Every step walks over every sequence and counts its blocks afresh. Nothing here is shared with the fast engine but the
step-time formula, the conversion of seconds, and the names of policies.
"""

from __future__ import annotations

from dataclasses import dataclass

from envs.engines.base import EngineEvent, EngineRequest, EngineState, EventKind
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

    @property
    def length(self) -> int:
        return self.request.prompt_tokens + self.produced


class ReferenceEngine:
    """One simulated model server, stepped; implements :class:`envs.engines.base.Engine`. Always ready."""

    def __init__(self, profile: Profile, *, policy: SchedulingPolicy = SchedulingPolicy.FCFS, now: float = 0.0) -> None:
        self.profile = profile
        self.policy = policy
        self._timing = StepTiming.of(profile)
        self._now = self._clock = self._visible = to_ps(now)
        self._end: int | None = None
        self._scheduled: dict[_Item, int] = {}
        self._coming: list[_Item] = []
        self._waiting: list[_Item] = []
        self._running: list[_Item] = []
        self._known: dict[str, _Item] = {}
        self._outbox: list[tuple[int, EngineEvent]] = []
        self._submitted = 0
        self.preemptions = 0
        self.step_ends: list[int] = []

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
        if request.prompt_tokens + request.output_tokens > self.profile.max_model_len:
            self._emit(arrival, EventKind.REJECTED, request.id, 0)
            return
        self._submitted += 1
        rank = request.priority if self.policy is SchedulingPolicy.PRIORITY else 0
        item = _Item(request, (rank, arrival, self._submitted), arrival + self._timing.request_overhead)
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
            self._running.remove(item)
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
        if self._end is not None:
            times.append(self._end)
        elif self._running or self._waiting:
            times.append(self._clock + self._timing.a)
        else:
            times.extend(max(self._clock, item.entry) + self._timing.a for item in self._coming)
        return to_seconds(min(times)) if times else None

    def state(self) -> EngineState:
        """See :meth:`Engine.state`."""
        waiting = len(self._waiting) + sum(item.entry <= self._now for item in self._coming)
        usage = (self.profile.kv_blocks - self._free()) / self.profile.kv_blocks
        return EngineState(self.now, len(self._running), waiting, usage, self.preemptions)

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.profile.block_size)

    def _held(self, item: _Item) -> int:
        """A prompt's blocks are all taken when it is admitted, an output token's in the step that computes it."""
        in_step = item in self._scheduled and item.decoding
        return self._blocks(item.computed + in_step if item.decoding else item.length)

    def _free(self) -> int:
        return self.profile.kv_blocks - sum(self._held(item) for item in self._running)

    def _begin_step(self) -> bool:
        if not self._running and not self._waiting:
            at = min((item.entry for item in self._coming), default=self._now)
            self._clock = min(max(self._clock, at), self._now)
            if at >= self._now:
                return False
        self._take_arrivals()
        decoding = self._schedule()
        prefill = sum(tokens for item, tokens in self._scheduled.items() if item not in decoding)
        context = sum(item.length for item in decoding)
        self._end = self._clock + self._timing.step(prefill, len(decoding), context)
        return True

    def _take_arrivals(self) -> None:
        arrived = [item for item in self._coming if item.entry <= self._clock]
        self._coming = [item for item in self._coming if item.entry > self._clock]
        self._waiting = sorted(self._waiting + arrived, key=lambda item: item.order)

    def _schedule(self) -> list[_Item]:
        preempted = False
        while sum(self._blocks(i.length) - self._held(i) for i in self._running if i.decoding) > self._free():
            victim = max(self._running, key=lambda item: item.order)
            self._running.remove(victim)
            victim.computed, victim.decoding = 0, False
            self._waiting = sorted([*self._waiting, victim], key=lambda item: item.order)
            self.preemptions += 1
            preempted = True
        decoding = [item for item in self._running if item.decoding]
        self._scheduled = dict.fromkeys(decoding, 1)
        budget = self.profile.max_num_batched_tokens - len(decoding)
        for item in self._running:
            if not item.decoding:
                budget -= self._give(item, budget)
        while self._waiting and budget > 0 and not preempted and len(self._running) < self.profile.max_num_seqs:
            if self._blocks(self._waiting[0].length) > self._free():
                break
            item = self._waiting.pop(0)
            self._running.append(item)
            budget -= self._give(item, budget)
        return decoding

    def _give(self, item: _Item, budget: int) -> int:
        tokens = min(item.length - item.computed, budget)
        self._scheduled[item] = tokens
        return tokens

    def _finish_step(self) -> None:
        assert self._end is not None
        self._clock, self._end = self._end, None
        self.step_ends.append(self._clock)
        for item, tokens in self._scheduled.items():
            item.computed += tokens
        producing = [item for item in self._scheduled if item.computed == item.length]
        self._scheduled = {}
        self._visible = max(self._visible, self._clock + self._timing.token_overhead * len(producing))
        self._running = [item for item in self._running if not item.cancelled]
        for item in producing:
            item.produced += 1
            item.decoding = True
            if not item.cancelled:
                self._tell(item)

    def _tell(self, item: _Item) -> None:
        if item.produced == 1:
            self._emit(self._visible, EventKind.FIRST_TOKEN, item.request.id, 1)
        if item.produced == item.request.output_tokens:
            self._emit(self._visible, EventKind.FINISHED, item.request.id, item.produced)
            self._running.remove(item)
            del self._known[item.request.id]

    def _emit(self, at: int, kind: EventKind, request_id: str, produced: int) -> None:
        self._outbox.append((at, EngineEvent(kind, request_id, to_seconds(at), produced)))
