"""Writing a profile as an artifact, with its model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from predictors import artifact
from predictors.artifact import DataSource, Manifest
from predictors.latency.model import FILE, KIND, Profile
from predictors.types import Interval

_SKILL_NOTE = """\
## Skill

The shapes that were timed have random weights and answer nothing. The table below is an **assumption** of the
simulated ladder, not a measurement: the probability that a simulated worker answers a task of a family rightly, by
level. The same holds for `verbosity`, which multiplies the length of simulated answers, and for `usd_per_hour`."""


def write_profile(
    models: Path,
    profile: Profile,
    *,
    version: int,
    created: str,
    data: Sequence[DataSource],
    metrics: Mapping[str, Interval | None],
    method: str,
    held_out: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    warning: str | None = None,
) -> Manifest:
    """Write ``models/profile/NAME/VERSION``. ``method`` says how the constants were found, for the card.

    ``warning`` marks a profile that is not good enough to be relied on, and says why.

    Raises:
        artifact.ArtifactExists: the version exists and ``overwrite`` is false.
    """
    return artifact.write(
        models / KIND / profile.name / str(version),
        kind=KIND,
        name=profile.name,
        version=version,
        features=(),
        data=data,
        metrics=metrics,
        files={FILE: profile.to_json().encode(), "card.md": _page(profile, data, metrics, method, warning).encode()},
        created=created,
        held_out=held_out,
        settings={"method": method, "scaled_from": profile.scaled_from, **({"warning": warning} if warning else {})},
        overwrite=overwrite,
    )


def _page(
    profile: Profile,
    data: Sequence[DataSource],
    metrics: Mapping[str, Interval | None],
    method: str,
    warning: str | None,
) -> str:
    page = card(profile, data, metrics, method)
    return f"> **Not a good fit.** {warning}\n\n{page}" if warning else page


def card(profile: Profile, data: Sequence[DataSource], metrics: Mapping[str, Interval | None], method: str) -> str:
    """The model card, in Markdown."""
    kind = f"scaled from `{profile.scaled_from}`, not fitted" if profile.scaled_from else "fitted to measured runs"
    parts = [
        f"# Engine profile `{profile.name}`",
        f"Timing of `{profile.model}` under vLLM, {kind}. {method}",
        "## Constants",
        _table(
            ("constant", "value"), [(n, _shown(v)) for n, v in asdict(profile).items() if not isinstance(v, Mapping)]
        ),
        "## Errors on held-out load",
        _errors(profile, metrics),
        "## Data",
        _table(("source", "licence", "rows"), [(d.name, d.licence, str(d.rows)) for d in data]) if data else "None.",
        _SKILL_NOTE,
        _table(("family", "by level"), [(f, " · ".join(f"{p:.2f}" for p in ps)) for f, ps in profile.skill.items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _errors(profile: Profile, metrics: Mapping[str, Interval | None]) -> str:
    known = [(name, m) for name, m in metrics.items() if m is not None]
    if not known:
        return f"Unknown: nothing was measured. Do not take `{profile.name}` for a fit."
    rows = [(name, f"{m.value:+.1%}", f"{m.lo:+.1%} … {m.hi:+.1%}") for name, m in known]
    return "Signed relative error of each statistic, with its 95 % interval.\n\n" + _table(
        ("", "error", "interval"), rows
    )


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
