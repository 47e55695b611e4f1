"""A worker's whole campaign: closed loops, then open ones at a rate found from them, each saved when it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from envs.calibration.design import OPEN_PARTS, Part, Scale, closed_loads, conversation, open_load
from envs.calibration.loads import ClosedLoad, Load, Sizes, Worker
from predictors.latency.campaign import LATE_S, Campaign, LoadEntry, Role, write_samples
from predictors.latency.guess import bearable_rate, guess
from predictors.latency.measurements import MeasurementsError

_Named = TypeVar("_Named", ClosedLoad, Part)

_CLOSED_SHARE: Final = 0.4
"""Of the budget. What the closed loops leave goes to the open ones."""
_NEEDED: Final = 7
"""Closed loops that are run whatever they take: without them no rate is known."""


@dataclass(frozen=True, slots=True)
class Options:
    """``minutes`` bounds the time under load, roughly: a load that has begun is finished. ``rates`` (requests/s) take
    the place of those found, in the order of :data:`~envs.calibration.design.OPEN_PARTS`; ``trace`` gives the sizes.
    """

    minutes: float
    seed: int = 0
    trace: Sequence[Sizes] = ()
    rates: Sequence[float] = ()
    only: Sequence[str] = field(default_factory=tuple)
    """Names, or beginnings of names, of the loads to run; all if empty."""


def measure(
    worker: Worker,
    campaign: Campaign,
    out: Path,
    options: Options,
    *,
    on_load: Callable[[LoadEntry], None] = lambda entry: None,
) -> Campaign:
    """Run the design and write ``out`` as it goes; the campaign as it stands at the end.

    ``campaign`` names target and limits, and may hold loads of an earlier run, which are not run again.

    Raises:
        MeasurementsError: no closed loop gave anything to find a rate from.
    """
    running = _Running(worker, campaign, out, on_load)
    limits = campaign.limits
    scale = Scale(limits.max_num_seqs or 256, limits.max_model_len or 4096)
    budget = 60.0 * options.minutes
    for number, load in enumerate(_chosen(closed_loads(scale, budget / 20), options)):
        if number < _NEEDED or running.seconds < _CLOSED_SHARE * budget:
            running.run(load)
    parts = _chosen(OPEN_PARTS, options)
    bearable = _bearable(running.campaign, out, scale, options) if parts and not options.rates else 1.0
    left = max(budget - running.seconds, 0.2 * budget)
    traces = _slices(options.trace)
    for part in parts:
        at = OPEN_PARTS.index(part)
        rate = options.rates[min(at, len(options.rates) - 1)] / part.load if options.rates else bearable
        running.run(open_load(part, rate, left, scale, options.seed, traces[at]))
    return running.campaign


class _Running:
    """Runs loads, saves them, and counts the time."""

    def __init__(self, worker: Worker, campaign: Campaign, out: Path, on_load: Callable[[LoadEntry], None]) -> None:
        self.campaign = campaign
        self.seconds = sum(entry.seconds for entry in campaign.entries)
        self._worker = worker
        self._out = out
        self._on_load = on_load

    def run(self, load: Load) -> None:
        if any(entry.name == load.name for entry in self.campaign.entries):
            return
        recorded = self._worker.run(load)
        write_samples(self._out, load.name, recorded.samples)
        entry = LoadEntry(
            name=load.name,
            role=load.role,
            concurrency=load.concurrency if isinstance(load, ClosedLoad) else None,
            requests=len(recorded.samples),
            failed=sum(bool(sample.error) for sample in recorded.samples),
            seconds=round(recorded.seconds, 3),
            late_p99_s=round(float(np.quantile(recorded.lateness, 0.99)), 6) if recorded.lateness else 0.0,
        )
        self.campaign = self.campaign.with_entry(entry)
        self.campaign.write(self._out)
        self.seconds += recorded.seconds
        self._on_load(entry)


def _chosen(things: Sequence[_Named], options: Options) -> list[_Named]:
    return [one for one in things if not options.only or one.name.startswith(tuple(options.only))]


def _bearable(campaign: Campaign, out: Path, scale: Scale, options: Options) -> float:
    """Requests/s of the open loads' sizes that would keep the engine just busy."""
    loads = [load for load in campaign.loads(out, Role.FIT) if load.concurrency]
    if not loads:
        late = [entry for entry in campaign.entries if entry.late_p99_s > LATE_S]
        why = f"the client was late in all of {len(late)}" if late else "every request failed"
        raise MeasurementsError(f"{out}: no closed loop is usable ({why}), so no rate can be found; give rates")
    sizes = options.trace or conversation(np.random.default_rng(options.seed), 500, scale.max_model_len)
    start = guess("target", campaign.model, loads, campaign.limits)
    prompt, output = (float(np.mean([getattr(s, n) for s in sizes])) for n in ("prompt_tokens", "output_tokens"))
    return bearable_rate(start, prompt, output)


def _slices(trace: Sequence[Sizes]) -> list[Sequence[Sizes]]:
    """A stretch of the trace for each open load, so that no two ask for the same."""
    each = len(trace) // len(OPEN_PARTS)
    return [trace[i * each : (i + 1) * each] for i in range(len(OPEN_PARTS))]
