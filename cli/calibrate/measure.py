"""The measuring half of ``headway calibrate``, which runs without the rest: see :mod:`cli.calibrate.__main__`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envs.calibration.loads import Sizes
    from predictors.latency.campaign import Campaign, Limits, LoadEntry


@dataclass(frozen=True)
class Asked:
    """What to measure, for about ``minutes``. ``rates`` are requests/s, ``only`` has beginnings of loads' names."""

    target: str
    out: Path
    model: str | None
    api_key: str | None
    limits: Limits
    minutes: float
    trace: Path | None
    rates: Sequence[float]
    only: Sequence[str]
    seed: int


def run(asked: Asked, say: Callable[[str], None]) -> Campaign:
    """Measure, saving as it goes; loads that ``asked.out`` already holds are not run again.

    Raises:
        MeasurementsError: the target cannot be measured, or the folder holds another target's measurements.
    """
    from envs.calibration.live import LiveWorker
    from envs.calibration.measuring import Options, measure
    from envs.calibration.server import TargetError, look
    from predictors.latency.campaign import INDEX, Campaign
    from predictors.latency.measurements import MeasurementsError

    headers = ((b"authorization", f"Bearer {asked.api_key}".encode()),) if asked.api_key else ()
    try:
        shown = look(asked.target, asked.model, headers)
    except TargetError as error:
        raise MeasurementsError(str(error)) from error
    campaign = Campaign(asked.target, shown.model, asked.limits.or_else(shown.limits))
    if (asked.out / INDEX).exists():
        campaign = _going_on(campaign, Campaign.read(asked.out), asked.out)
    worker = LiveWorker(asked.target, shown.model, headers=headers, seed=asked.seed)
    if (why := worker.probe()) is not None:
        raise MeasurementsError(f"{asked.target} answers no /v1/completions: {why}")
    options = Options(asked.minutes, asked.seed, _sizes(asked.trace), asked.rates, asked.only)
    say(f"measuring {shown.model} at {asked.target} for about {asked.minutes:g} minutes, into {asked.out}")
    return measure(worker, campaign, asked.out, options, on_load=lambda entry: say(_line(entry)))


def _going_on(now: Campaign, before: Campaign, folder: Path) -> Campaign:
    from predictors.latency.measurements import MeasurementsError

    if before.model != now.model:
        raise MeasurementsError(
            f"{folder} holds measurements of {before.model!r}; give another --out for {now.model!r}"
        )
    return replace(now, entries=before.entries)


def _sizes(trace: Path | None) -> list[Sizes]:
    from envs.calibration.traces import read_sizes

    return read_sizes(trace) if trace is not None else []


def _line(entry: LoadEntry) -> str:
    said = f"{entry.name}: {entry.requests} requests in {entry.seconds:.1f} s"
    said += f", {entry.failed} failed" if entry.failed else ""
    return said + ("" if entry.usable else f"; NOT USABLE (client {1000 * entry.late_p99_s:.1f} ms late)")
