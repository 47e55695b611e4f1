"""The fit, its judgement on held-out load, and what is written of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.report import Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.calibrate.sources import Sources
    from predictors.latency.judgement import Failure, Judged
    from predictors.latency.model import Profile
    from predictors.types import Interval

_UNUSUAL = 1.15
"""By how much less a fit must cost that has steps put together one at a time, which vLLM rarely does on a GPU."""
_METHOD = (
    "Fitted by bounded least squares through the simulator to {fit}; judged on {held_out}, which the fit has not seen."
)


@dataclass(frozen=True)
class Calibration:
    """A fitted profile, and how it does on what it was fitted to and on what it was not."""

    profile: Profile
    fit: Sequence[Judged]
    held_out: Sequence[Judged]
    failures: Sequence[Failure]

    @property
    def good(self) -> bool:
        """Whether every statistic of every held-out load is within its bar; never so without held-out load."""
        return bool(self.held_out) and not self.failures

    @property
    def worst(self) -> Judged | None:
        """The held-out load that strains the bars most."""
        return max(self.held_out, key=lambda one: one.strain, default=None)

    def objections(self) -> list[str]:
        """Why the profile is not called good, and what to do; empty if it is."""
        if not self.held_out:
            return ["no load was held out, so nothing is known of its errors; pass --holdout with another run"]
        return [str(failure) for failure in self.failures]


def calibrate(sources: Sources, begin: Sequence[Profile], *, starts: int, seed: int) -> Calibration:
    """Fit from each place to begin at, with ``starts`` points around it; judge what costs least."""
    from envs.engines.replay import closed_loop, replay
    from predictors.latency.judgement import failures, judged
    from predictors.latency.train import ProfileFitter

    fitters = [ProfileFitter(one, replay, closed_loop, starts=starts, seed=seed).fit(sources.fit) for one in begin]
    fitter = min(fitters, key=lambda one: one.cost_ * (1.0 if one.profile_.async_scheduling else _UNUSUAL))
    fit, held_out = (
        [judged(load, fitter.predict(load), seed=seed) for load in loads] for loads in (sources.fit, sources.held_out)
    )
    worst = max(held_out, key=lambda one: one.strain, default=None)
    errors = {name: round(error.value, 4) for name, error in worst.errors.items()} if worst else {}
    return Calibration(replace(fitter.profile_, errors=errors), fit, held_out, failures(held_out))


def report(calibration: Calibration, sources: Sources, settings: Mapping[str, Any], seed: int) -> Report:
    """A row a load. ``errors`` are those of the held-out load that strains its bars most, which ``errors_of`` names."""
    from predictors.latency.judgement import nested

    found = Report("calibrate", seed, settings)
    for split, loads in (("fit", calibration.fit), ("held_out", calibration.held_out)):
        for one in loads:
            loop = one.load.concurrency
            labels = {"load": one.load.name, "split": split, "loop": "open" if loop is None else f"closed {loop}"}
            found.row({**labels, "requests": len(one.load)}, dict(one.errors))
    worst = calibration.worst
    found.extra("errors", nested(worst.errors) if worst else None)
    found.extra("errors_of", worst.load.name if worst else None)
    found.extra("good", calibration.good)
    found.extra("failures", [failure.as_json() for failure in calibration.failures])
    found.extra("objections", calibration.objections())
    found.extra("skipped", list(sources.skipped))
    found.extra("profile", {k: v for k, v in asdict(calibration.profile).items() if k not in ("skill", "errors")})
    return found


def write_artifact(calibration: Calibration, models: Path, seed: int) -> Path:
    """Write the profile as the next version under ``models``, marked if it is not good; its folder."""
    from predictors.artifact import DataSource, next_version
    from predictors.latency.card import write_profile
    from predictors.latency.model import KIND

    profile = calibration.profile
    version = next_version(models, KIND, profile.name)
    names = {role: _listed([one.load.name for one in loads]) for role, loads in _roles(calibration)}
    metrics: dict[str, Interval | None] = dict(calibration.worst.errors) if calibration.worst else {}
    write_profile(
        models,
        profile,
        version=version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data=[DataSource(o.load.name, "measured by the user", o.load.sha256, len(o.load)) for o in calibration.fit],
        metrics=metrics,
        method=_METHOD.format(**names),
        held_out={o.load.name: {"rows": "all", "sha256": o.load.sha256} for o in calibration.held_out},
        warning=None if calibration.good else "; ".join(calibration.objections()),
    )
    return models / KIND / profile.name / str(version)


def _roles(calibration: Calibration) -> tuple[tuple[str, Sequence[Judged]], ...]:
    return ("fit", calibration.fit), ("held_out", calibration.held_out)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "nothing"
