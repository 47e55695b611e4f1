"""Replaying a measured load in the simulator: what the same requests would have seen there, and what that hangs on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from envs.engines.base import EngineRequest, EventKind
from envs.engines.sequence import SchedulingPolicy, StepRun
from envs.engines.sim import SimEngine
from envs.engines.timing import PS_PER_S, StepTiming
from predictors.latency.measurements import (
    CONSTANTS,
    ClosedLoop,
    Floats,
    Latencies,
    Measurements,
    Simulated,
    SimulatedLoop,
    Slopes,
)
from predictors.latency.model import Profile, padded

Ints = NDArray[np.int64]

_STEP_CONSTANTS = CONSTANTS[:8]


class StepLedger:
    """An engine's runs, step by step: when each ended, when its tokens were seen, and what it was made of.

    ``parts`` is (n, 8): by how much each step grows with each of the step's constants.
    """

    def __init__(self, runs: Sequence[StepRun], timing: StepTiming) -> None:
        columns = np.array(runs, dtype=np.int64).reshape(-1, 8)
        counts = columns[:, 3]
        start, first, growth, _, prefill, batch, context, self.tokens = np.repeat(columns, counts, axis=0).T
        k = np.arange(len(start)) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = start + first * k + growth * (k * (k - 1) // 2)
        ends = starts + first + growth * k
        self.starts, self.ends = starts / PS_PER_S, ends / PS_PER_S
        self.visible = np.maximum.accumulate(ends + timing.token_overhead * self.tokens) / PS_PER_S
        self.parts = _parts(timing, ends - starts, prefill, batch, context + batch * k)

    def parts_until(self, times: Floats) -> Floats:
        """Sum of parts (m, 8) up to each time; of a step in progress, the share that has passed."""
        moments = np.stack([self.starts, self.ends], axis=1).ravel()
        sums = np.cumsum(self.parts, axis=0)
        before = np.stack([sums - self.parts, sums], axis=1).reshape(-1, self.parts.shape[1])
        return np.stack([np.interp(times, moments, column) for column in before.T], axis=1)


def _parts(timing: StepTiming, durations: Ints, prefill: Ints, batch: Ints, context: Ints) -> Floats:
    """By how much each step grows with each of :data:`_STEP_CONSTANTS`: a floor that is reached is all of its step."""
    ones, zeros = np.ones(len(prefill)), np.zeros(len(prefill))
    seen = timing.b * prefill > timing.overlap
    wide = np.clip(batch - timing.wide_batch, 0, None)
    columns = (ones, prefill * seen, _padded(batch, timing.graph_step), context, zeros, -1.0 * seen, zeros, wide)
    parts = np.stack(columns, axis=1).astype(np.float64)
    for column, floor, within in (
        (4, timing.eager_floor, prefill + batch > timing.graph_tokens),
        (6, timing.mixed_floor, prefill + batch <= timing.graph_tokens),
    ):
        reached = (prefill > 0) & within & (durations <= floor)
        parts[reached] = np.eye(len(_STEP_CONSTANTS))[column]
    return parts


def _padded(batch: Ints, step: int) -> Ints:
    table = np.array([padded(size, step) for size in range(int(batch.max(initial=0)) + 1)], dtype=np.int64)
    return table[batch]


def replay(profile: Profile, load: Measurements, *, policy: SchedulingPolicy = SchedulingPolicy.FCFS) -> Simulated:
    """Send the load's requests to one simulated engine: at their times, or of a closed loop one after the other.

    A closed loop's client takes as long as it was seen to take between an end and the next request.

    Raises:
        ValueError: the profile cannot hold one of the requests.
    """
    engine = SimEngine(profile, policy=policy, log_runs=True)
    count = len(load)
    arrival = load.arrival.copy()
    first, last = np.full(count, np.nan), np.full(count, np.nan)
    pauses = _pauses(load)
    waiting = iter(range(count))

    def send(how_many: int, at: float | None) -> None:
        for i in islice(waiting, how_many):
            sizes = int(load.prompt_tokens[i]), int(load.output_tokens[i])
            arrival[i] = load.arrival[i] if at is None else at + pauses[i]
            engine.submit(EngineRequest(str(i), *sizes, arrival=float(arrival[i])))

    send(load.concurrency or count, None)
    while (at := engine.next_event_at()) is not None:
        for event in engine.advance(at if load.concurrency else at + 3600.0):
            if event.kind is EventKind.REJECTED:
                raise ValueError(f"{profile.name}: request {event.id} of {load.name} does not fit max_model_len")
            (first if event.kind is EventKind.FIRST_TOKEN else last)[int(event.id)] = event.at
            if load.concurrency and event.kind is EventKind.FINISHED:
                send(1, at)
    ledger = StepLedger(engine.runs, StepTiming.of(profile))
    return _explained(ledger, profile, arrival, first, last)


def _pauses(load: Measurements) -> Floats:
    """How long after an end each request of a closed loop was sent, matched in order; zero of the first, and where
    nothing was measured."""
    pauses = np.zeros(len(load))
    ends = np.sort(load.arrival + load.measured.e2e)
    if load.concurrency and np.isfinite(ends).all():
        later = len(load) - load.concurrency
        pauses[load.concurrency :] = np.clip(load.arrival[load.concurrency :] - ends[: max(later, 0)], 0.0, None)
    return pauses


def _explained(ledger: StepLedger, profile: Profile, arrival: Floats, first: Floats, last: Floats) -> Simulated:
    """A sequence that is never preempted gets one token a step from its first to its last."""
    first_step = np.searchsorted(ledger.visible, first - 1e-11)
    last_step = np.searchsorted(ledger.visible, last - 1e-11)
    entered = ledger.parts_until(arrival + profile.request_overhead_s)

    def slopes(steps: NDArray[np.intp]) -> Floats:
        parts = ledger.parts_until(ledger.ends[steps]) - entered
        return np.column_stack([parts, np.ones(len(steps)), ledger.tokens[steps]])

    gaps, gap_slopes = _median_gaps(ledger, first_step, last_step)
    return Simulated(
        Latencies(first - arrival, last - arrival, gaps),
        Slopes(slopes(first_step), slopes(last_step), gap_slopes),
        arrival,
    )


def _median_gaps(
    ledger: StepLedger, first_step: NDArray[np.intp], last_step: NDArray[np.intp]
) -> tuple[Floats, Floats]:
    gaps = np.diff(ledger.visible)
    medians = np.full(len(first_step), np.nan)
    slopes = np.zeros((len(first_step), len(CONSTANTS)))
    for i, (begin, end) in enumerate(zip(first_step, last_step, strict=True)):
        if end == begin:
            continue
        order = begin + np.argsort(gaps[begin:end], kind="stable")
        middle = order[[(len(order) - 1) // 2, len(order) // 2]]
        medians[i] = gaps[middle].mean()
        slopes[i, : len(_STEP_CONSTANTS)] = ledger.parts[middle + 1].mean(axis=0)
    return medians, slopes


def closed_loop(profile: Profile, load: ClosedLoop) -> SimulatedLoop:
    """Keep ``load.concurrency`` requests in flight, each followed by the next at once; output tokens/s."""
    engine = SimEngine(profile, log_runs=True)
    waiting = iter(range(load.requests))

    def send(how_many: int, at: float) -> None:
        for _, i in zip(range(how_many), waiting, strict=False):
            engine.submit(EngineRequest(str(i), load.prompt_tokens, load.output_tokens, arrival=at))

    send(load.concurrency, 0.0)
    finished_at = 0.0
    while (at := engine.next_event_at()) is not None:
        ended = [event for event in engine.advance(at) if event.kind is EventKind.FINISHED]
        finished_at = ended[-1].at if ended else finished_at
        send(len(ended), at)
    rate = load.requests * load.output_tokens / finished_at
    ledger = StepLedger(engine.runs, StepTiming.of(profile))
    return SimulatedLoop(rate, -rate / finished_at * _time_slopes(ledger, profile, finished_at))


def _time_slopes(ledger: StepLedger, profile: Profile, total: float) -> Floats:
    """Derivatives of the whole run's duration: busy time by its parts, idle time by the overheads that made it."""
    busy = float((ledger.ends - ledger.starts).sum())
    overheads = profile.request_overhead_s + profile.token_overhead_s
    idle = (total - busy) / overheads if overheads else 0.0
    return np.concatenate([ledger.parts.sum(axis=0), [idle, idle]])
