"""The figures of ``benchmarks.peers``: goodput against objectives, latency, who pays, and ratios with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers_drive import Told
from predictors.types import Interval

Floats = NDArray[np.float64]
HEADWAY: Final = "headway"
RATES: Final = ("goodput", "good_share", "throughput", "normalised_mean", "ttft_mean")


@dataclass(frozen=True, slots=True)
class Objectives:
    """A request is good if its first token came within ``ttft_s`` and ``ttft_per_1k_s`` more for each 1,000 tokens of
    its prompt, and its further tokens took ``tpot_s`` each at most, on average. A failed one is not.

    The limit on the first token grows with the prompt as SMetric's does, so that long prompts can be served in time."""

    ttft_s: float = 2.0
    ttft_per_1k_s: float = 0.0625
    tpot_s: float = 0.1
    normalised_s: float = 0.1
    """Of the other kind of goodput: seconds a token, waiting included."""


@dataclass(frozen=True)
class Run:
    """One run's requests as columns (n,); failed ones took for ever."""

    told: tuple[Told, ...]
    hit_rate: float | None

    def __post_init__(self) -> None:
        if not self.told:
            raise ValueError("a run without requests has no figures")

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Not answered, or not to the end."""
        return np.array([one.error is not None for one in self.told])

    @property
    def ttft(self) -> Floats:
        """Seconds."""
        return np.where(self.failed, np.inf, [one.ttft for one in self.told])

    @property
    def e2e(self) -> Floats:
        """Seconds."""
        return np.where(self.failed, np.inf, [one.e2e for one in self.told])

    @property
    def tokens(self) -> Floats:
        """Of the answer."""
        return np.array([one.output_tokens for one in self.told], dtype=float)

    @property
    def normalised(self) -> Floats:
        """Seconds a token, waiting included."""
        return np.asarray(self.e2e / np.maximum(self.tokens, 1.0))

    @property
    def seconds(self) -> float:
        """Until the last answer ended."""
        return max(one.at + one.e2e for one in self.told)

    def good(self, objectives: Objectives) -> NDArray[np.bool_]:
        """Which met the objectives."""
        prompts = np.array([one.prompt_tokens for one in self.told], dtype=float)
        limits = objectives.ttft_s + objectives.ttft_per_1k_s * prompts / 1000.0
        with np.errstate(invalid="ignore"):
            further = (self.e2e - self.ttft) / np.maximum(self.tokens - 1.0, 1.0)
        return np.asarray(~self.failed & (self.ttft <= limits) & (further <= objectives.tpot_s))


def figures(run: Run, objectives: Objectives) -> dict[str, float | None]:
    """Statistics of one run, in seconds, requests/s and tokens/s."""
    good, quick = run.good(objectives), run.normalised <= objectives.normalised_s
    found: dict[str, float | None] = {
        "requests": float(len(run.told)),
        "failed": float(run.failed.sum()),
        "goodput": float(good.sum()) / run.seconds,
        "good_share": float(good.mean()),
        "goodput_normalised": float(quick.sum()) / run.seconds,
        "throughput": float(run.tokens.sum()) / run.seconds,
        "hit_rate": run.hit_rate,
        "normalised_mean": float(run.normalised.mean()),
        "normalised_p90": _quantile(run.normalised, 0.9),
        "seconds": run.seconds,
    }
    for name, values in (("ttft", run.ttft), ("e2e", run.e2e)):
        found[f"{name}_mean"] = float(values.mean())
        found |= {f"{name}_p{percent}": _quantile(values, percent / 100.0) for percent in (50, 90, 99)}
    return found | by_tenant(run, good)


def by_tenant(run: Run, good: NDArray[np.bool_]) -> dict[str, float | None]:
    """p99 end to end and the good share of the tenant with most requests, and of the light one that is worst off."""
    tenants = np.array([one.tenant for one in run.told])
    names, counts = np.unique(tenants, return_counts=True)
    heavy = names[counts.argmax()]
    p99 = {name: _quantile(run.e2e[tenants == name], 0.99) for name in names}
    shares = {name: float(good[tenants == name].mean()) for name in names}
    light = [name for name in names if name != heavy]
    return {
        "heavy_e2e_p99": p99[heavy],
        "light_e2e_p99": max((p99[name] for name in light), default=None),
        "heavy_good_share": shares[heavy],
        "light_good_share": min((shares[name] for name in light), default=None),
    }


def _quantile(values: Floats, at: float) -> float:
    """The value that is reached: between a finite and an infinite one there is nothing to interpolate."""
    return float(np.quantile(values, at, method="higher"))


def mean_figures(runs: Sequence[Run], objectives: Objectives) -> dict[str, float | None]:
    """Over the runs of one system and level."""
    each = [figures(run, objectives) for run in runs]
    found: dict[str, float | None] = {}
    for name in each[0]:
        values = [value for one in each if (value := one[name]) is not None]
        found[name] = float(np.mean(values)) if values else None
    return found


def ratios(
    runs: Mapping[str, Sequence[Run]], ours: str, objectives: Objectives, resamples: int, rng: np.random.Generator
) -> dict[str, Interval]:
    """Ours over the peers' at one level, of each of :data:`RATES` (above 1 is better for the first, worse for the
    last), with 95 % intervals over sessions, which are drawn anew, the same ones for every system. The peer is the one
    with most goodput, in each draw anew."""
    peers = [name for name in runs if not name.startswith(HEADWAY)]
    names = sorted({one.session for each in runs.values() for run in each for one in run.told})
    totals = {name: _totals(runs[name], names, objectives) for name in (ours, *peers)}
    seconds = {name: sum(run.seconds for run in runs[name]) for name in totals}
    drawn = rng.multinomial(len(names), np.full(len(names), 1.0 / len(names)), resamples)
    values = _over(totals, seconds, ours, peers, np.ones((1, len(names))))
    samples = _over(totals, seconds, ours, peers, drawn.astype(float))
    return {name: Interval(float(values[name][0]), *_bounds(samples[name])) for name in RATES}


def best_peer(runs: Mapping[str, Sequence[Run]], objectives: Objectives) -> str | None:
    """Who has most goodput; ``None`` where only headway was measured."""
    peers = [name for name in runs if not name.startswith(HEADWAY)]
    return max(peers, key=lambda name: mean_figures(runs[name], objectives)["goodput"] or 0.0, default=None)


def _totals(runs: Sequence[Run], names: Sequence[str], objectives: Objectives) -> Floats:
    """By session (n,): requests, good ones, tokens, and seconds a token, to the first and to the last: (5, n)."""
    places = {name: place for place, name in enumerate(names)}
    sums = np.zeros((5, len(names)))
    for run in runs:
        rows = np.array([places[one.session] for one in run.told])
        of_each = (np.ones(len(rows)), run.good(objectives), run.tokens, run.normalised, run.ttft)
        for sum_, values in zip(sums, of_each, strict=True):
            np.add.at(sum_, rows, values)
    return sums


def _over(
    totals: Mapping[str, Floats], seconds: Mapping[str, float], ours: str, peers: Sequence[str], weights: Floats
) -> dict[str, Floats]:
    """The ratios of every draw; ``weights`` (draws, n) is how often each session is in it."""
    rates = {}
    for name, sums in totals.items():
        with np.errstate(invalid="ignore"):  # nothing of what took for ever
            count, good, tokens, normalised, ttft = (np.where(weights > 0, weights * each, 0.0).sum(1) for each in sums)
        rates[name] = np.array(
            [good / seconds[name], good / count, tokens / seconds[name], normalised / count, ttft / count]
        )
    best = np.argmax([rates[name][0] for name in peers], axis=0)
    theirs = np.array([rates[name] for name in peers])[best, :, np.arange(len(best))].T
    with np.errstate(divide="ignore", invalid="ignore"):
        return dict(zip(RATES, rates[ours] / theirs, strict=True))


def _bounds(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(np.nan_to_num(values, nan=np.inf, posinf=np.inf), (0.025, 0.975), method="nearest")
    return float(low), float(high)
