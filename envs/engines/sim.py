"""The simulated engine: iteration-level continuous batching that jumps from event to event.

The scheduler is that of vLLM's V1 engine, without prefix caching or speculation (see :mod:`envs.engines.reference`
for the same thing one step at a time). At each step's start: every decoding sequence takes one token of the budget
``max_num_batched_tokens`` and, where its context crosses into a new KV block, one block; while blocks are short, the
running sequence with the greatest (priority, arrival) is preempted and will be recomputed. If nothing was preempted,
the prompt left unfinished by the previous step and then waiting ones share the rest of the budget, in order, as long
as there are seats (``max_num_seqs``) and blocks for the whole prompt. A new request waits for the step in progress.

As long as nobody joins or leaves, the next k steps take ``k·(a + cB + dS) + dB·k(k-1)/2``, so a run of decode steps
costs the same work whatever its length and its batch.
"""

from __future__ import annotations

import copy
from bisect import insort
from collections import deque
from heapq import heappop, heappush

from envs.engines.base import EngineEvent, EnginePhase, EngineRequest, EngineState, EventKind
from envs.engines.blocks import BlockPool
from envs.engines.sequence import EngineTotals, Key, SchedulingPolicy, Sequence, Stage, StepRun
from envs.engines.timing import StepTiming, run_duration, run_length, to_ps, to_seconds
from predictors.latency.model import Profile

_NEVER = 1 << 62
_Visible = tuple[int, EngineEvent]


def _visible_at(item: _Visible) -> int:
    return item[0]


class SimEngine:
    """One simulated model server; implements :class:`envs.engines.base.Engine`.

    ``now`` is the clock's start in seconds. ``cold`` starts the engine from nothing, which takes the profile's
    ``cold_start_s``. ``stream`` makes each :meth:`advance` report every running sequence's progress as one ``TOKENS``
    event (at work proportional to the batch); without it only first tokens and ends are reported. ``log_runs`` keeps
    in :attr:`runs` what is needed to reconstruct the time of every token.
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
    ) -> None:
        self.profile = profile
        self.policy = policy
        self.stream = stream
        self.log_runs = log_runs
        self._timing = StepTiming.of(profile)
        self.reset(now, cold=cold)

    def reset(self, now: float = 0.0, *, cold: bool = False) -> None:
        """Forget everything and start at ``now``."""
        self._now = to_ps(now)
        self._clock = self._now
        """The last step boundary: everything before it is settled."""
        self._end: int | None = None
        """End of the step in progress, whose members are settled."""
        self._step = 0
        self._ready_at = self._now + (to_ps(self.profile.cold_start_s) if cold else 0)
        self._phase = EnginePhase.STARTING if cold else EnginePhase.READY
        self._visible = self._now
        self._blocks = BlockPool(self.profile.kv_blocks, self.profile.block_size)
        self._live: dict[str, Sequence] = {}
        self._coming: list[tuple[int, Key, Sequence]] = []
        self._waiting: list[tuple[Key, Sequence]] = []
        self._waiting_count = 0
        self._decoding: dict[Sequence, None] = {}
        self._ends: list[tuple[int, int, Sequence]] = []
        """Heap of (step counter at the end, number of joining, sequence); stale entries are skipped."""
        self._joins = 0
        self._base_sum = 0
        """Sum of the decoding sequences' ``base``."""
        self._partial: Sequence | None = None
        self._partial_left = 0
        self._filling: list[Sequence] = []
        """Prompts that the step in progress completes."""
        self._doomed: list[Sequence] = []
        """Cancelled during the step in progress."""
        self._outbox: deque[_Visible] = deque()
        self._sequence_number = 0
        self._prefill_tokens = self._output_tokens = self._preemptions = 0
        self.runs: list[StepRun] = []
        """With ``log_runs``: everything the engine has done, in order."""

    # ------------------------------------------------------------------ the Engine protocol

    @property
    def now(self) -> float:
        """The clock, in seconds."""
        return to_seconds(self._now)

    def submit(self, request: EngineRequest) -> None:
        """See :meth:`Engine.submit`. While starting, asleep or waking, requests wait."""
        if request.id in self._live:
            raise ValueError(f"request id {request.id!r} is in use")
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError(f"request {request.id!r}: prompt_tokens and output_tokens must be at least 1")
        arrival = to_ps(request.arrival)
        if arrival < self._now:
            raise ValueError(f"request {request.id!r} arrives at {request.arrival} s, before the clock at {self.now} s")
        too_long = request.prompt_tokens + request.output_tokens > self.profile.max_model_len
        if too_long or self._phase is EnginePhase.FAILED:
            self._emit(arrival, EventKind.REJECTED, request.id, 0)
            return
        self._sequence_number += 1
        rank = request.priority if self.policy is SchedulingPolicy.PRIORITY else 0
        sequence = Sequence(request, (rank, arrival, self._sequence_number), arrival + self._timing.request_overhead)
        self._live[request.id] = sequence
        heappush(self._coming, (sequence.entry, sequence.key, sequence))

    def cancel(self, request_id: str) -> bool:
        """See :meth:`Engine.cancel`. A running sequence keeps its seat and blocks until the step's end."""
        sequence = self._live.pop(request_id, None)
        if sequence is None:
            return False
        produced = sequence.produced_by(self._step)
        stage, sequence.stage = sequence.stage, Stage.ENDED
        if stage is Stage.WAITING:
            self._waiting_count -= 1
        elif stage is not Stage.COMING:
            sequence.stage = stage
            self._doomed.append(sequence)
            if self._end is None:
                self._drop_doomed()
        if any(event.id == request_id for _, event in self._outbox):
            self._outbox = deque(item for item in self._outbox if item[1].id != request_id)
        self._emit(self._now, EventKind.ABORTED, request_id, produced)
        return True

    def advance(self, until: float) -> list[EngineEvent]:
        """See :meth:`Engine.advance`.

        Raises:
            ValueError: ``until`` lies before the clock.
        """
        limit = to_ps(until)
        if limit < self._now:
            raise ValueError(f"cannot go back from {self.now} s to {until} s")
        self._now = limit
        self._run(limit)
        if self.stream:
            self._report_progress()
        events = []
        outbox = self._outbox
        while outbox and outbox[0][0] <= limit:
            events.append(outbox.popleft()[1])
        return events

    def next_event_at(self) -> float | None:
        """See :meth:`Engine.next_event_at`."""
        due = self._outbox[0][0] if self._outbox else _NEVER
        due = min(due, self._next_change())
        return None if due == _NEVER else to_seconds(due)

    def state(self) -> EngineState:
        """See :meth:`Engine.state`."""
        self._admit_arrivals(self._now)
        self._settle_phase()
        running = len(self._decoding) + len(self._filling) + (self._partial is not None)
        return EngineState(
            at=self.now,
            running=running,
            waiting=self._waiting_count,
            kv_usage=self._blocks.used / self._blocks.total,
            preemptions=self._preemptions,
            phase=self._phase,
        )

    # ------------------------------------------------------------------ beyond the protocol

    @property
    def totals(self) -> EngineTotals:
        """Counters since the last :meth:`reset`."""
        return EngineTotals(self._step, self._prefill_tokens, self._output_tokens, self._preemptions)

    def snapshot(self) -> SimEngine:
        """An independent engine in the same state; both go on alike when treated alike."""
        return copy.deepcopy(self, {id(self.profile): self.profile, id(self._timing): self._timing})

    def sleep(self) -> None:
        """Abort what is in flight and fall asleep, which takes ``sleep_s``; requests wait until :meth:`wake`.

        Raises:
            ValueError: the engine is not ready.
        """
        self._require_phase(EnginePhase.READY)
        self._abort_all()
        self._phase = EnginePhase.SLEEPING
        self._ready_at = self._now + to_ps(self.profile.sleep_s)

    def wake(self) -> None:
        """Wake up, which takes ``wake_s`` from when the engine has fallen asleep.

        Raises:
            ValueError: the engine does not sleep.
        """
        self._require_phase(EnginePhase.SLEEPING)
        self._phase = EnginePhase.WAKING
        self._ready_at = max(self._now, self._ready_at) + to_ps(self.profile.wake_s)

    def fail(self) -> None:
        """Crash: everything in flight is aborted, and everything submitted is rejected until :meth:`start`."""
        self._abort_all()
        self._phase = EnginePhase.FAILED

    def start(self) -> None:
        """Start a failed engine again, cold.

        Raises:
            ValueError: the engine has not failed.
        """
        self._require_phase(EnginePhase.FAILED)
        self._phase = EnginePhase.STARTING
        self._ready_at = self._now + to_ps(self.profile.cold_start_s)

    def _require_phase(self, phase: EnginePhase) -> None:
        self._settle_phase()
        if self._phase is not phase:
            raise ValueError(f"the engine is {self._phase.value}, not {phase.value}")

    def _settle_phase(self) -> None:
        if self._phase in (EnginePhase.STARTING, EnginePhase.WAKING) and self._now >= self._ready_at:
            self._phase = EnginePhase.READY
            self._clock = max(self._clock, self._ready_at)

    def _abort_all(self) -> None:
        for request_id in list(self._live):
            self.cancel(request_id)

    # ------------------------------------------------------------------ time

    def _run(self, limit: int) -> None:
        """Settle every step boundary before ``limit``, and every step that ends by it."""
        while True:
            if self._end is not None:
                if self._end > limit:
                    return
                self._complete()
            if self._clock >= limit or not self._start_step(limit):
                return

    def _start_step(self, limit: int) -> bool:
        """At a boundary before ``limit``: start the next step, or a whole run. False when there is nothing to do."""
        if self._phase is not EnginePhase.READY and not self._become_ready(limit):
            return False
        if self._coming and self._coming[0][0] <= self._clock:
            self._admit_arrivals(self._clock)
        if not (self._decoding or self._waiting_count or self._partial):
            return self._idle(limit)
        preempted = self._preempt_while_short()
        prefill = self._schedule_prefills(admit=not preempted)
        if prefill:
            self._begin(prefill)
        else:
            self._decode(limit, single=preempted)
        return True

    def _become_ready(self, limit: int) -> bool:
        waiting_for_wake = self._phase in (EnginePhase.SLEEPING, EnginePhase.FAILED)
        if waiting_for_wake or self._ready_at >= limit:
            self._clock = limit
            return False
        self._phase = EnginePhase.READY
        self._clock = max(self._clock, self._ready_at)
        return True

    def _idle(self, limit: int) -> bool:
        """Go to the next arrival before ``limit``, if there is one."""
        at = self._coming[0][0] if self._coming else limit
        self._clock = min(at, limit)
        return at < limit

    def _admit_arrivals(self, until: int) -> None:
        coming = self._coming
        while coming and coming[0][0] <= until:
            sequence = heappop(coming)[2]
            if sequence.stage is Stage.COMING:
                self._enqueue(sequence)

    def _enqueue(self, sequence: Sequence) -> None:
        sequence.stage = Stage.WAITING
        heappush(self._waiting, (sequence.key, sequence))
        self._waiting_count += 1

    # ------------------------------------------------------------------ what goes into a step

    def _preempt_while_short(self) -> bool:
        """Preempt until every decoding sequence that needs a block can have it."""
        preempted = False
        while self._blocks.needed(self._step) > self._blocks.free:
            running = self._decoding if self._partial is None else (*self._decoding, self._partial)
            self._preempt(max(running, key=_key))
            preempted = True
        return preempted

    def _preempt(self, sequence: Sequence) -> None:
        produced = sequence.produced_by(self._step)
        if self.stream:
            self._show(sequence, produced)
        self._remove(sequence)
        sequence.produced = produced
        self._enqueue(sequence)
        self._preemptions += 1

    def _remove(self, sequence: Sequence) -> None:
        """Take a running sequence's seat and blocks away, at a boundary."""
        if sequence.stage is Stage.DECODE:
            del self._decoding[sequence]
            self._base_sum -= sequence.base
            self._blocks.leave(sequence.base, self._step)
            return
        self._blocks.used -= self._blocks.for_tokens(sequence.context)
        if sequence is self._partial:
            self._partial = None
        else:
            self._filling.remove(sequence)

    def _schedule_prefills(self, *, admit: bool) -> int:
        """Choose the step's prompt tokens: the unfinished prompt first, then waiting ones in order."""
        budget = self.profile.max_num_batched_tokens - len(self._decoding)
        before = budget
        if self._partial is not None:
            budget -= self._fill(self._partial, budget)
        while admit and budget and self._waiting_count and (sequence := self._next_admissible()) is not None:
            heappop(self._waiting)
            self._waiting_count -= 1
            self._blocks.used += self._blocks.for_tokens(sequence.context)
            sequence.stage = Stage.PREFILL
            self._partial_left = sequence.context
            budget -= self._fill(sequence, budget)
        return before - budget

    def _next_admissible(self) -> Sequence | None:
        """The head of the queue, if there is a seat and there are blocks for all of its prompt."""
        while self._waiting[0][1].stage is not Stage.WAITING:
            heappop(self._waiting)
        if len(self._decoding) + len(self._filling) >= self.profile.max_num_seqs:
            return None
        sequence = self._waiting[0][1]
        free = self._blocks.free - self._blocks.needed(self._step)
        return sequence if self._blocks.for_tokens(sequence.context) <= free else None

    def _fill(self, sequence: Sequence, budget: int) -> int:
        """Give a prompt up to ``budget`` tokens of this step; how many it took."""
        taken = min(self._partial_left, budget)
        self._partial_left -= taken
        if self._partial_left:
            self._partial = sequence
        else:
            self._partial = None
            self._filling.append(sequence)
        return taken

    # ------------------------------------------------------------------ steps

    def _begin(self, prefill: int) -> None:
        """Start one step; what it works on is settled now, its results come with :meth:`_complete`."""
        batch = len(self._decoding)
        duration = self._timing.step(prefill, batch, self._base_sum + batch * self._step)
        self._blocks.grow(self._step, 1)
        self._prefill_tokens += prefill
        if self.log_runs:
            context = self._base_sum + batch * self._step
            self.runs.append(StepRun(self._clock, duration, 0, 1, prefill, batch, context, batch + len(self._filling)))
        self._end = self._clock + duration

    def _complete(self) -> None:
        """Settle the end of the step in progress."""
        assert self._end is not None
        self._clock, self._end = self._end, None
        self._step += 1
        self._produce(len(self._decoding) + len(self._filling), 1)
        if self._doomed:
            self._drop_doomed()
        self._finish_due()
        if self._filling:
            self._join_filled()

    def _decode(self, limit: int, *, single: bool) -> None:
        """Run decode steps until somebody may join or leave, or a step would pass ``limit``; that one is begun."""
        batch, growth = len(self._decoding), self._timing.d * len(self._decoding)
        first = self._timing.step(0, batch, self._base_sum + batch * self._step)
        steps = 1 if single else self._steps_alike(batch, first, growth)
        duration = run_duration(first, growth, steps)
        if self._clock + duration > limit:
            steps = run_length(first, growth, limit - self._clock)
            duration = run_duration(first, growth, steps)
        if steps == 0:
            self._begin(0)
            return
        if self.log_runs:
            context = self._base_sum + batch * self._step
            self.runs.append(StepRun(self._clock, first, growth, steps, 0, batch, context, batch))
        self._blocks.grow(self._step, steps)
        self._step += steps
        self._clock += duration
        self._produce(batch, steps)
        self._finish_due()

    def _steps_alike(self, batch: int, first: int, growth: int) -> int:
        """Decode steps until the first end, until blocks run short, or until an arrival could be admitted."""
        self._drop_stale_ends()
        steps = self._blocks.steps_until_short(self._step, self._ends[0][0] - self._step)
        blocked = batch >= self.profile.max_num_seqs or (self._waiting_count and self.policy is SchedulingPolicy.FCFS)
        if self._coming and not blocked:
            steps = min(steps, 1 + run_length(first, growth, self._coming[0][0] - self._clock - 1))
        return steps

    def _produce(self, batch: int, steps: int) -> None:
        self._output_tokens += batch * steps
        self._visible = max(self._visible, self._clock + self._timing.token_overhead * batch)

    # ------------------------------------------------------------------ joining and leaving, at a boundary

    def _join_filled(self) -> None:
        for sequence in self._filling:
            sequence.join(self._step)
            if sequence.produced == 1:
                self._emit(self._visible, EventKind.FIRST_TOKEN, sequence.id, 1)
                sequence.shown = 1
            self._joins += 1
            self._decoding[sequence] = None
            self._base_sum += sequence.base
            self._blocks.join(sequence.base)
            heappush(self._ends, (sequence.finish, self._joins, sequence))
        self._filling.clear()
        self._finish_due()

    def _finish_due(self) -> None:
        ends = self._ends
        while ends and ends[0][0] <= self._step:
            finish, _, sequence = heappop(ends)
            if sequence.stage is Stage.DECODE and sequence.finish == finish:
                self._remove(sequence)
                sequence.stage = Stage.ENDED
                del self._live[sequence.id]
                self._emit(self._visible, EventKind.FINISHED, sequence.id, sequence.output_tokens)

    def _drop_stale_ends(self) -> None:
        ends = self._ends
        while ends[0][2].stage is not Stage.DECODE or ends[0][2].finish != ends[0][0]:
            heappop(ends)

    def _drop_doomed(self) -> None:
        for sequence in self._doomed:
            self._remove(sequence)
            sequence.stage = Stage.ENDED
        self._doomed.clear()

    # ------------------------------------------------------------------ what the client sees

    def _emit(self, at: int, kind: EventKind, request_id: str, produced: int) -> None:
        item = (at, EngineEvent(kind, request_id, to_seconds(at), produced))
        if self._outbox and self._outbox[-1][0] > at:
            insort(self._outbox, item, key=_visible_at)
        else:
            self._outbox.append(item)

    def _show(self, sequence: Sequence, produced: int) -> None:
        if produced > sequence.shown:
            sequence.shown = produced
            self._emit(self._visible, EventKind.TOKENS, sequence.id, produced)

    def _report_progress(self) -> None:
        for sequence in self._decoding:
            self._show(sequence, sequence.produced_by(self._step))

    # ------------------------------------------------------------------ looking ahead

    def _next_change(self) -> int:
        """A time after the clock before which no event can be produced; ``_NEVER`` if none is due."""
        coming = self._coming[0][0] if self._coming else _NEVER
        if self._end is not None:
            if self._waiting_count or self._filling or self._partial or self._doomed or coming <= self._end:
                return self._end
            return min(coming, self._next_end(self._end, self._step + 1))
        if not self._live or self._phase in (EnginePhase.SLEEPING, EnginePhase.FAILED):
            return _NEVER
        boundary = max(self._clock, self._ready_at)
        if not self._decoding or self._waiting_count or self._partial or coming <= boundary:
            at_work = self._decoding or self._waiting_count or self._partial
            return (boundary if at_work else max(boundary, coming)) + self._timing.a
        return min(coming, self._next_end(boundary, self._step))

    def _next_end(self, boundary: int, step: int) -> int:
        """When the first decoding sequence ends if nobody joins."""
        self._drop_stale_ends()
        batch = len(self._decoding)
        first = self._timing.step(0, batch, self._base_sum + batch * step)
        return boundary + run_duration(first, self._timing.d * batch, self._ends[0][0] - step)


def _key(sequence: Sequence) -> Key:
    return sequence.key
