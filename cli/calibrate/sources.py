"""Which saved measurements a fit is given, and where it begins."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli.missing import fail

if TYPE_CHECKING:
    from predictors.latency.campaign import Campaign, Limits, LoadEntry, Role
    from predictors.latency.measurements import Measurements
    from predictors.latency.model import Profile


@dataclass(frozen=True)
class Sources:
    """What is fitted, what is held out, and what is known of the server; ``skipped`` says which loads were not used."""

    fit: Sequence[Measurements]
    held_out: Sequence[Measurements]
    limits: Limits
    model: str
    skipped: Sequence[str] = ()


def read_sources(measurements: Sequence[Path], holdout: Sequence[Path], limits: Limits) -> Sources:
    """Read files and folders. A folder's index says which of its loads are held out; given ones take their place.

    Raises:
        MeasurementsError: something cannot be used, a file is both fitted and held out, or nothing is left to fit.
    """
    from predictors.latency.campaign import Limits, Role
    from predictors.latency.measurements import MeasurementsError

    fit: list[Measurements] = []
    held_out: list[Measurements] = []
    known, model, skipped = Limits(), "unknown", list[str]()
    for path in measurements:
        fit += _loads(path, Role.FIT)
        held_out += _loads(path, Role.HOLDOUT) if path.is_dir() and not holdout else []
        if (campaign := _index(path if path.is_dir() else path.parent)) is not None:
            known, model = known.or_else(campaign.limits), campaign.model
            skipped += [_why(entry) for entry in campaign.entries if not entry.usable and path.is_dir()]
    for path in holdout:
        held_out += _loads(path, Role.HOLDOUT) or _loads(path, Role.FIT)
    if not fit:
        raise MeasurementsError(f"no usable load to fit to in {', '.join(map(str, measurements))}")
    if both := {load.sha256 for load in fit} & {load.sha256 for load in held_out}:
        names = ", ".join(load.name for load in held_out if load.sha256 in both)
        raise MeasurementsError(f"{names}: fitted and held out at once; a held-out load must be another one")
    return Sources(fit, held_out, limits.or_else(known), model, skipped)


def _loads(path: Path, role: Role) -> list[Measurements]:
    """A folder's loads of that role, or a file, which is taken for what it is asked to be."""
    from predictors.latency.campaign import INDEX, Role
    from predictors.latency.measurements import read_measurements

    if not path.is_dir():
        campaign = _index(path.parent)
        entry = next((e for e in campaign.entries if e.name == path.stem), None) if campaign else None
        return [replace(read_measurements(path), concurrency=entry.concurrency if entry else None)]
    campaign = _index(path)
    if campaign is not None:
        return campaign.loads(path, role)
    files = sorted(path.glob("*.csv")) if role is Role.FIT else []
    if role is Role.FIT and not files:
        raise fail(f"{path} has neither {INDEX} nor any CSV")
    return [read_measurements(file) for file in files]


def _index(folder: Path) -> Campaign | None:
    from predictors.latency.campaign import INDEX, Campaign

    return Campaign.read(folder) if (folder / INDEX).exists() else None


def _why(entry: LoadEntry) -> str:
    if entry.failed == entry.requests:
        return f"{entry.name}: every request failed"
    return f"{entry.name}: the client was {1000 * entry.late_p99_s:.1f} ms late (99th percentile), so it timed itself"


def read_limits(file: Path | None, **options: int | None) -> Limits:
    """The server's limits from a JSON file and from options, which win.

    Raises:
        MeasurementsError: the file is not one.
    """
    from predictors.latency.campaign import Limits
    from predictors.latency.measurements import MeasurementsError

    given = Limits(**options)
    if file is None:
        return given
    try:
        return given.or_else(Limits.parse(json.loads(file.read_bytes()), str(file)))
    except OSError as error:
        raise MeasurementsError(f"{file}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise MeasurementsError(f"{file}: not JSON: {error}") from error


def begin(name: str, sources: Sources, start: str | None) -> list[Profile]:
    """Where the fit begins: the profile named ``start`` under the limits that are known, else guesses from the data."""
    from predictors.latency.guess import guesses
    from predictors.latency.model import ProfileError

    try:
        if start is None:
            return guesses(name, sources.model, sources.fit, _held(sources))
        known = {field: value for field, value in asdict(sources.limits).items() if value is not None}
        return [replace(_stored(start), name=name, errors={}, scaled_from=None, **known)]
    except (ProfileError, ValueError) as error:
        raise fail(f"the fit has nowhere to begin: {error}") from error


def _held(sources: Sources) -> Limits:
    """The limits, with room at least for what is held out where the longest request is not known."""
    from predictors.latency.campaign import Limits

    loads = (*sources.fit, *sources.held_out)
    longest = max(int((load.prompt_tokens + load.output_tokens).max()) for load in loads)
    return sources.limits.or_else(Limits(max_model_len=1 << longest.bit_length()))


def _stored(name: str) -> Profile:
    from controller.errors import StoreError
    from controller.store import ArtifactStore, home_in, shipped_models
    from predictors.artifact import ArtifactError
    from predictors.latency.model import KIND, Profile

    try:
        if "/" in name or Path(name).is_dir():
            return Profile.load(Path(name))
        store = ArtifactStore(shipped_models(), home_in(os.environ))
        return Profile.load(store.resolve(f"{KIND}/{name}"))
    except (ArtifactError, StoreError) as error:
        raise fail(f"--start {name}: {error}", 1) from error
