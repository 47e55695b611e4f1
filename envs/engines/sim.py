"""The simulated engine: iteration-level continuous batching that jumps from event to event.

The scheduler is that of vLLM's V1 engine, without speculation (see :mod:`envs.engines.reference` for the same thing one
step at a time). At each step's start: every decoding sequence takes one token of the budget ``max_num_batched_tokens``
and, where its context crosses into a new KV block, one block; while blocks are short, the running sequence with the
greatest (priority, arrival) is preempted and will be recomputed. If nothing was preempted, the prompt left unfinished
by the previous step and then waiting ones share the rest of the budget, in order, as long as there are seats
(``max_num_seqs``) and blocks for the whole prompt. A new request waits for the step in progress. With prefix caching,
the leading full blocks of a prompt that are in the cache cost no tokens (see :mod:`envs.engines.kernel.blocks`).

As long as nobody joins or leaves, the next k steps take ``k·(a + cB + dS) + dB·k(k-1)/2``, so a run of decode steps
costs the same work whatever its length and its batch. The loops are compiled (:mod:`envs.engines.kernel`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np

from envs.engines.base import EngineEvent, EnginePhase, EngineRequest, EngineState, EventKind
from envs.engines.kernel import calls, core, memory
from envs.engines.sequence import EngineTotals, SchedulingPolicy, StepRun
from envs.engines.timing import StepTiming, to_ps, to_seconds
from predictors.latency.model import Profile

_KINDS: Final = tuple(EventKind)
_PHASES: Final = tuple(EnginePhase)
_LOGGED_AT_ONCE: Final = 4096
_HASH: Final = 2**64 - 1
_ENDS: Final = core.FINISHED
"""Kinds of event from this one on end their request."""
_FAILED: Final = _PHASES.index(EnginePhase.FAILED)
_NO_CHAIN: Final = np.zeros(0, dtype=np.int64)


class SimEngine:
    """One simulated model server; implements :class:`envs.engines.base.Engine`.

    ``now`` is the clock's start in seconds. ``cold`` starts the engine from nothing, which takes the profile's
    ``cold_start_s``. ``stream`` makes each :meth:`advance` report every running sequence's progress as one ``TOKENS``
    event (at work proportional to the batch); without it only first tokens and ends are reported. ``log_runs`` keeps
    in :attr:`runs` what is needed to reconstruct the time of every token. ``prefix_tokens`` turns prefix caching on and
    says how many tokens one hash of a request's ``prefix`` stands for, a multiple of the profile's block size. ``room``
    is for how many requests at once there is memory at first; it grows.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        policy: SchedulingPolicy = SchedulingPolicy.FCFS,
        now: float = 0.0,
        cold: bool = False,
        stream: bool = False,
        log_runs: bool = False,
        prefix_tokens: int | None = None,
        room: int = 64,
    ) -> None:
        if prefix_tokens is not None and (prefix_tokens < 1 or prefix_tokens % profile.block_size):
            raise ValueError(f"prefix_tokens must be a multiple of the block size {profile.block_size}")
        self.profile = profile
        self.policy = policy
        self.log_runs = log_runs
        self.prefix_tokens = prefix_tokens
        self._stream = stream
        self._layout = self._initial_layout(room)
        self.reset(now, cold=cold)

    def _initial_layout(self, room: int) -> memory.Layout:
        log, tokens = _LOGGED_AT_ONCE if self.log_runs else 0, self.prefix_tokens
        if tokens is None:
            return memory.Layout(room, self.profile.block_size, log)
        units = self.profile.kv_blocks // (tokens // self.profile.block_size)
        return memory.Layout(room, self.profile.block_size, log, units, self.profile.max_model_len // tokens)

    def reset(self, now: float = 0.0, *, cold: bool = False) -> None:
        """Forget everything and start at ``now``."""
        self.memory = self._fresh(self._layout, now)
        if cold:
            self._start_cold()
        self._ids: dict[int, str] = {}
        self._live: dict[str, tuple[int, int]] = {}
        """Slot and tag by id."""
        self._tags = 0
        self.runs: list[StepRun] = []
        """With ``log_runs``: everything the engine has done, in order."""

    def fresh_memory(self, slots: int) -> memory.Memory:
        """The memory of an engine like this one that has done nothing yet, with room for so many requests."""
        return self._fresh(replace(self._layout, slots=slots), 0.0)

    def _fresh(self, layout: memory.Layout, now: float) -> memory.Memory:
        m = memory.empty(layout)
        m[memory.NOW] = m[memory.CLOCK] = m[memory.VISIBLE] = m[memory.READY_AT] = m[memory.STARTED] = to_ps(now)
        m[memory.MAX_SEQS] = self.profile.max_num_seqs
        m[memory.MAX_BATCHED_TOKENS] = self.profile.max_num_batched_tokens
        m[memory.BLOCK_SIZE] = self.profile.block_size
        m[memory.BLOCKS] = self.profile.kv_blocks
        size = self.profile.block_size
        m[memory.BLOCK_SHIFT] = size.bit_length() - 1 if size & (size - 1) == 0 else memory.NONE
        m[memory.BY_PRIORITY] = self.policy is SchedulingPolicy.PRIORITY
        m[memory.STREAM] = self._stream
        if self.prefix_tokens is not None:
            m[memory.UNIT_TOKENS] = self.prefix_tokens
            m[memory.UNIT_BLOCKS] = self.prefix_tokens // self.profile.block_size
        m[memory.PHASE] = _PHASES.index(EnginePhase.READY)
        _set_timing(m, self.profile, 1.0)
        return m

    # ------------------------------------------------------------------ the Engine protocol

    @property
    def now(self) -> float:
        """The clock, in seconds."""
        return to_seconds(int(self.memory[memory.NOW]))

    @property
    def stream(self) -> bool:
        """Whether :meth:`advance` reports progress."""
        return self._stream

    @stream.setter
    def stream(self, stream: bool) -> None:
        self._stream = stream
        self.memory[memory.STREAM] = stream

    def submit(self, request: EngineRequest) -> None:
        """See :meth:`Engine.submit`. While starting, asleep or waking, requests wait."""
        live = self._live.get(request.id)
        if live is not None and calls.lives(self.memory, *live):
            raise ValueError(f"request id {request.id!r} is in use")
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError(f"request {request.id!r}: prompt_tokens and output_tokens must be at least 1")
        self._tags += 1
        too_long = request.prompt_tokens + request.output_tokens > self.profile.max_model_len
        if too_long or self.memory[memory.PHASE] == _FAILED:
            self._reject(request)
            return
        chain = chain_of(request.prefix) if request.prefix and self.prefix_tokens else _NO_CHAIN
        sizes = request.prompt_tokens, request.output_tokens, request.priority
        slot = calls.submit(self.memory, self._tags, *sizes, request.arrival, chain)
        if slot == calls.NO_ROOM:
            self.grow()
            slot = calls.submit(self.memory, self._tags, *sizes, request.arrival, chain)
        if slot == calls.BACKWARDS:
            raise self._too_early(request)
        self._ids[self._tags] = request.id
        self._live[request.id] = slot, self._tags

    def cancel(self, request_id: str) -> bool:
        """See :meth:`Engine.cancel`. A running sequence keeps its seat and blocks until the step's end."""
        if request_id not in self._live or not calls.lives(self.memory, *self._live[request_id]):
            return False
        slot, _ = self._live.pop(request_id)
        while not calls.cancel(self.memory, slot):
            self.grow()
        return True

    def advance(self, until: float) -> list[EngineEvent]:
        """See :meth:`Engine.advance`.

        Raises:
            ValueError: ``until`` lies before the clock.
        """
        count, done = calls.advance(self.memory, until)
        if count == calls.BACKWARDS:
            raise ValueError(f"cannot go back from {self.now} s to {until} s")
        if count == 0 and done:
            if self.log_runs:
                self._take_runs()
            return []
        events = self._take(count)
        while not done:
            self._take_runs()
            if count == 0:
                self.grow()
            count, done = calls.advance(self.memory, until)
            events += self._take(count)
        if self.log_runs:
            self._take_runs()
        return events

    def next_event_at(self) -> float | None:
        """See :meth:`Engine.next_event_at`."""
        due = calls.next_event(self.memory)
        return None if due == np.inf else due

    def state(self) -> EngineState:
        """See :meth:`Engine.state`."""
        running, waiting, usage, preemptions, phase, queries, hits = calls.gauges(self.memory)
        return EngineState(self.now, running, waiting, usage, preemptions, _PHASES[phase], queries, hits)

    # ------------------------------------------------------------------ beyond the protocol

    @property
    def phase(self) -> EnginePhase:
        """Where the engine stands, as of the last step it made or the last reading of its state."""
        return _PHASES[int(self.memory[memory.PHASE])]

    @property
    def totals(self) -> EngineTotals:
        """Counters since the last :meth:`reset`."""
        fields = (memory.STEP, memory.PREFILL_TOKENS, memory.OUTPUT_TOKENS, memory.PREEMPTIONS)
        return EngineTotals(*(int(self.memory[field]) for field in fields))

    def snapshot(self) -> SimEngine:
        """An independent engine in the same state; both go on alike when treated alike."""
        twin = object.__new__(SimEngine)
        twin.__dict__.update(self.__dict__)
        twin.memory = self.memory.copy()
        twin._ids, twin._live, twin.runs = dict(self._ids), dict(self._live), list(self.runs)
        return twin

    def sleep(self, level: int = 1) -> None:
        """Abort what is in flight and fall asleep, which takes ``sleep_s``; requests wait until :meth:`wake`.

        At level 1 the weights go to host memory, at level 2 they are thrown away, which costs the time to load them
        when waking. The prefix cache is lost.

        Raises:
            ValueError: the engine is not ready, or the level is not 1 or 2.
        """
        if level not in (1, 2):
            raise ValueError(f"a sleep level is 1 or 2, not {level}")
        self._require_phase(EnginePhase.READY)
        self._abort_all()
        self._set_phase(EnginePhase.SLEEPING)
        deep = self.profile.cold_start_s if self.profile.wake_level2_s is None else self.profile.wake_level2_s
        self._wake_s = self.profile.wake_s if level == 1 else deep
        self.memory[memory.READY_AT] = self.memory[memory.NOW] + to_ps(self.profile.sleep_s)

    def wake(self) -> None:
        """Wake up, which takes ``wake_s`` (at level 2 ``wake_level2_s``) from when the engine has fallen asleep.

        Raises:
            ValueError: the engine does not sleep.
        """
        self._require_phase(EnginePhase.SLEEPING)
        self._set_phase(EnginePhase.WAKING)
        m = self.memory
        m[memory.READY_AT] = max(m[memory.NOW], m[memory.READY_AT]) + to_ps(self._wake_s)

    def fail(self) -> None:
        """Crash: everything in flight is aborted, and everything submitted is rejected until :meth:`start`."""
        self._abort_all()
        self._set_phase(EnginePhase.FAILED)

    def start(self) -> None:
        """Start a failed engine again, cold.

        Raises:
            ValueError: the engine has not failed.
        """
        self._require_phase(EnginePhase.FAILED)
        self._start_cold()

    def slow_down(self, factor: float) -> None:
        """From the next step on, everything takes ``factor`` times as long as the profile says: a straggler.

        Raises:
            ValueError: the factor is not positive.
        """
        if not factor > 0.0:
            raise ValueError(f"a factor is above 0, not {factor}")
        _set_timing(self.memory, self.profile, factor)

    def move_to(self, room: memory.Memory) -> None:
        """Live on in this array, which is long enough."""
        size = len(self.memory)
        room[:size] = self.memory
        self.memory = room[:size]

    def grow(self) -> None:
        """Twice the room for requests."""
        self.memory, self._layout = memory.grown(self.memory, self._layout, 2 * self._layout.slots)

    # ------------------------------------------------------------------ phases

    def _require_phase(self, phase: EnginePhase) -> None:
        self.state()
        if self.phase is not phase:
            raise ValueError(f"the engine is {self.phase.value}, not {phase.value}")

    def _set_phase(self, phase: EnginePhase) -> None:
        self.memory[memory.PHASE] = _PHASES.index(phase)

    def _start_cold(self) -> None:
        m = self.memory
        self._set_phase(EnginePhase.STARTING)
        m[memory.READY_AT] = m[memory.NOW] + to_ps(self.profile.cold_start_s)
        m[memory.SLOW_UNTIL] = m[memory.READY_AT] + to_ps(self.profile.warm_up_s)

    def _abort_all(self) -> None:
        """Whatever runs ends at once, with the step in progress and what the cache holds."""
        for request_id in list(self._live):
            self.cancel(request_id)
        core.break_off(self.memory)

    # ------------------------------------------------------------------ events and room

    def _reject(self, request: EngineRequest) -> None:
        if to_ps(request.arrival) < self.memory[memory.NOW]:
            raise self._too_early(request)
        self._ids[self._tags] = request.id
        while not calls.tell(self.memory, request.arrival, _KINDS.index(EventKind.REJECTED), self._tags):
            self.grow()

    def _too_early(self, request: EngineRequest) -> ValueError:
        return ValueError(f"request {request.id!r} arrives at {request.arrival} s, before the clock at {self.now} s")

    def event(self, at: float, kind: int, tag: int, produced: int, cached: int) -> EngineEvent:
        """An event of the compiled loop, which ends its request or not, as the world knows it."""
        if kind < _ENDS:
            return EngineEvent(_KINDS[kind], self._ids[tag], at, produced, cached)
        request_id = self._ids.pop(tag)
        live = self._live.get(request_id)
        if live is not None and live[1] == tag:
            del self._live[request_id]
        return EngineEvent(_KINDS[kind], request_id, at, produced, cached)

    def _take(self, count: int) -> list[EngineEvent]:
        if count == 0:
            return []
        rows = _rows(self.memory, memory.OUT, count, memory.OUT_WIDTH)
        core.drop_events(self.memory, count)
        events, now, seconds = [], -1, 0.0
        for at, kind, tag, produced, cached in rows:
            if at != now:  # what running requests report comes at one time
                now, seconds = at, to_seconds(at)
            events.append(self.event(seconds, kind, tag, produced, cached))
        return events

    def _take_runs(self) -> None:
        if count := int(self.memory[memory.LOG_COUNT]):
            self.runs += [StepRun(*row) for row in _rows(self.memory, memory.LOG, count, memory.LOG_WIDTH)]
            self.memory[memory.LOG_COUNT] = 0


def _rows(m: memory.Memory, table: int, count: int, width: int) -> Iterable[list[int]]:
    rows: list[list[int]] = m[m[table] : m[table] + count * width].reshape(count, width).tolist()
    return rows


def chain_of(prefix: Iterable[int]) -> memory.Memory:
    """Block hashes as the compiled loops take them."""
    return np.array([block & _HASH for block in prefix], dtype=np.uint64).view(np.int64)


def _set_timing(m: memory.Memory, profile: Profile, slowness: float) -> None:
    timing = StepTiming.of(profile).scaled(slowness)
    for place, steps in ((memory.STEADY, timing), (memory.SLOW, timing.scaled(profile.warm_up_factor))):
        m[place : place + 5] = steps.a, steps.b, steps.c, steps.d, steps.eager_floor
        more = memory.STEADY_PREFILL if place == memory.STEADY else memory.SLOW_PREFILL
        m[more : more + 2] = steps.overlap, steps.mixed_floor
        m[memory.STEADY_WIDE if place == memory.STEADY else memory.SLOW_WIDE] = steps.wide
    m[memory.WIDE_BATCH], m[memory.GRAPH_STEP] = timing.wide_batch, timing.graph_step
    m[memory.AHEAD] = profile.async_scheduling
    m[memory.GRAPH_TOKENS] = timing.graph_tokens
    m[memory.REQUEST_OVERHEAD] = timing.request_overhead
    m[memory.TOKEN_OVERHEAD] = timing.token_overhead
