"""What placement gains: fleets of unlike workers, of conversations, and of workers short of KV cache.

    python -m benchmarks.placement [--fleet even|straggler|mixed|sessions|short_kv …] [--seeds 5] [--requests 3000]
                                   [--json FILE] [--plot DIR]

Simulated workers (the 8B profile) behind the control plane; requests arrive at random at a share of what the fleet can
end, and every policy gets the same ones. Answers' lengths are predicted with an error of half a natural logarithm, and
the queue, where there is one, goes by them. ``straggler`` has one worker that is slower than its pool's profile says,
``mixed`` one half of such; ``sessions`` has conversations that grow, with prefix
caching, at more than the fleet could do without. Every figure is a ratio to
``least_load`` with the same seed: the mean over seeds with its 95 % interval (Student's t), beside the plain figures.

``short_kv`` gives workers of a small KV cache long answers, with and without admission against it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from controller.kv.account import KvLimits
from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.settings import ControlSettings
from controller.stages import build
from controller.store.artifacts import ArtifactStore, shipped_models
from controller.types import PoolSpec, Scores, Ticket, WorkerSpec
from envs.engines.sim import SimEngine
from envs.fleet import Ended, FleetRequest, SimFleet
from predictors.latency.model import Profile

if TYPE_CHECKING:
    from cli.report import Report
    from predictors.types import Interval

POOL: Final = "pool"
PROFILE: Final = "h100-8b"
BASELINE: Final = "least_load"
BLOCK: Final = 64
"""Tokens that one hash of a prompt's prefix stands for."""
MISPREDICTED: Final = 0.5
"""Standard deviation of the logarithm of predicted over true length."""
_QUANTILE: Final = 1.2815515655446004
_LONGEST: Final = 6000
SHOWN: Final = ("ttft_mean", "ttft_p99", "e2e_mean", "e2e_p99", "normalised_mean")
ABSOLUTE: Final = ("preemptions", "cached", "outgrown")

Integers = npt.NDArray[np.int64]


class FleetKind(StrEnum):
    """What is served, and by what."""

    EVEN = "even"
    STRAGGLER = "straggler"
    MIXED = "mixed"
    SESSIONS = "sessions"
    SHORT_KV = "short_kv"


@dataclass(frozen=True, slots=True)
class Policy:
    """A placement with its options, and the admission against KV, if any."""

    name: str
    place: str
    options: Mapping[str, Any] = field(default_factory=dict)
    kv: KvLimits | None = None


PLACES: Final = (
    Policy("round_robin", "round_robin"),
    Policy("power_of_two", "power_of_two"),
    Policy(BASELINE, BASELINE),
    Policy("prefix", "prefix"),
    Policy("freeness", "freeness"),
    Policy("predicted_latency", "predicted_latency"),
    Policy("predicted_latency, sum of all", "predicted_latency", {"externality": 1.0, "first_token": 1.0}),
    Policy("predicted_latency, own alone", "predicted_latency", {"externality": 0.0, "first_token": 1.0}),
)
ADMISSIONS: Final = (
    Policy(BASELINE, BASELINE),
    Policy("kv 1.0", BASELINE, kv=KvLimits(share=1.0)),
    Policy("kv 1.0, quantile", BASELINE, kv=KvLimits(share=1.0, high=True)),
    Policy("kv 1.3", BASELINE, kv=KvLimits(share=1.3)),
    Policy("kv 1.6", BASELINE, kv=KvLimits(share=1.6)),
    Policy("freeness", "freeness"),
    Policy("kv 2.0", BASELINE, kv=KvLimits(share=2.0)),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests without times of arrival: sizes (n,), and what their prompts begin with."""

    prompts: Integers
    outputs: Integers
    prefixes: Sequence[tuple[int, ...]]
    gaps: npt.NDArray[np.float64]
    """Seconds after the one before it of its conversation; 0 for a first one, which arrives by itself."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One fleet and its load."""

    kind: FleetKind
    profiles: tuple[Profile, ...]
    """Of the workers."""
    draw: Callable[[int, np.random.Generator], Asked]
    load: float
    policies: Sequence[Policy]
    prefix_tokens: int | None = None


def slower(profile: Profile, factor: float) -> Profile:
    """Every step of it takes so many times as long."""
    return replace(
        profile, a=factor * profile.a, b=factor * profile.b, c=factor * profile.c, d=factor * profile.d,
        wide_s=factor * profile.wide_s,
    )  # fmt: skip


def settings_of(kind: FleetKind, profile: Profile, workers: int) -> Iterator[Setting]:
    """The loads at which a fleet is studied."""
    even, half = (profile,) * workers, workers // 2
    alone = [policy for policy in PLACES if policy.place != "prefix"]
    if kind is FleetKind.EVEN:
        yield Setting(kind, even, single, 0.85, alone)
    elif kind is FleetKind.STRAGGLER:
        slow = (*even[1:], slower(profile, 2.5))
        yield from (Setting(kind, slow, single, load, alone) for load in (0.6, 0.85))
    elif kind is FleetKind.MIXED:
        unlike = (*even[half:], *((slower(profile, 2.0),) * half))
        yield Setting(kind, unlike, single, 0.85, alone)
    elif kind is FleetKind.SESSIONS:
        yield Setting(kind, even, conversations, 1.2, PLACES, BLOCK)
    else:
        small = replace(profile, kv_blocks=max(2500, -(-profile.max_model_len // profile.block_size)))
        yield from (Setting(kind, (small,) * half, long_answers, load, ADMISSIONS) for load in (0.9, 1.2))


def single(count: int, random: np.random.Generator) -> Asked:
    """Short and long prompts (one in six), and answers of all lengths."""
    long = random.random(count) < 1 / 6
    prompts = np.where(long, random.lognormal(7.6, 0.5, count), random.lognormal(5.0, 0.7, count))
    return _alone(prompts, random.lognormal(5.2, 1.0, count))


def long_answers(count: int, random: np.random.Generator) -> Asked:
    """Short questions, long answers."""
    return _alone(random.lognormal(5.0, 0.7, count), random.lognormal(6.6, 0.8, count))


def conversations(count: int, random: np.random.Generator) -> Asked:
    """Conversations of five turns on average that begin with one of eight system prompts, and grow."""
    prompts: list[int] = []
    outputs: list[int] = []
    prefixes: list[tuple[int, ...]] = []
    gaps: list[float] = []
    session = 0
    while len(prompts) < count:
        session += 1
        app = int(random.integers(8))
        length, gap = 1024, 0.0
        for turn in range(int(random.geometric(0.2))):
            length += int(min(random.lognormal(5.0, 0.7), 1500))
            answer = int(np.clip(random.lognormal(5.2, 1.0), 2, 1500))
            if length + answer > _LONGEST:
                break
            prompts.append(length)
            outputs.append(answer)
            prefixes.append(tuple(_block(app, session, i) for i in range(length // BLOCK)))
            gaps.append(gap if turn else 0.0)
            length, gap = length + answer, 1.0 + 0.02 * answer + float(random.exponential(4.0))
    cut = slice(0, count)
    return Asked(np.array(prompts[cut]), np.array(outputs[cut]), prefixes[cut], np.array(gaps[cut]))


def _block(app: int, session: int, index: int) -> int:
    owner = app if index < 1024 // BLOCK else 1000 + session
    return owner * 1_000_000 + index + 1


def _alone(prompts: npt.NDArray[np.float64], outputs: npt.NDArray[np.float64]) -> Asked:
    count = len(prompts)
    sizes = np.clip(prompts, 8, _LONGEST).astype(int), np.clip(outputs, 2, 2000).astype(int)
    return Asked(*sizes, [()] * count, np.zeros(count))


def requests_of(asked: Asked, rate: float, random: np.random.Generator) -> list[FleetRequest]:
    """In order of arrival: first ones at so many requests/s as give ``rate`` in all, the others in their conversations;
    all at once at an infinite rate."""
    count = len(asked.prompts)
    firsts = asked.gaps == 0.0
    share = firsts.mean()
    at, start, last = np.zeros(count), 0.0, 0.0
    for i in range(count):
        if firsts[i]:
            start += float(random.exponential(1.0 / (rate * share))) if np.isfinite(rate) else 0.0
            last = start
        elif np.isfinite(rate):
            last += asked.gaps[i]
        at[i] = last
    said = asked.outputs * np.exp(random.normal(0.0, MISPREDICTED, count))
    high = said * np.exp(_QUANTILE * MISPREDICTED)
    found = []
    for i in np.argsort(at, kind="stable").tolist():
        scores = Scores(float(np.log(said[i])), float(said[i]), output_high=float(high[i]))
        prompt = int(asked.prompts[i])
        ticket = Ticket(str(i), POOL, prompt_tokens=prompt, prefix=asked.prefixes[i])
        found.append(FleetRequest(float(at[i]), ticket, prompt, {POOL: int(asked.outputs[i])}, scores, i))
    return found


def replay(policy: Policy, requests: Sequence[FleetRequest], setting: Setting, inflight: int) -> dict[str, float]:
    """Every request to its end: seconds, seconds a token, and counts."""
    settings = ControlSettings(
        max_queue=1_000_000, max_queue_s=1e9, record_share=0.0, kv=policy.kv, score_always=True
    )  # fmt: skip
    profile = setting.profiles[0]
    pools = (PoolSpec(POOL, profile.model, 0, context_length=profile.max_model_len, profile=PROFILE),)
    chosen = {"order": ("length_rank", {"ageing": "relative"}), "place": (policy.place, policy.options)}
    control = ControlPlane(
        pools, build(chosen, Resources(pools, settings, artifacts=ArtifactStore(shipped_models(), None))),
        settings=settings,
    )  # fmt: skip
    fleet = SimFleet(control)
    engines = [SimEngine(one, prefix_tokens=setting.prefix_tokens) for one in setting.profiles]
    for i, engine in enumerate(engines):
        held = engine.profile.kv_blocks * engine.profile.block_size
        fleet.add_worker(WorkerSpec(f"w{i}", POOL, f"sim://w{i}", inflight, kv_tokens=held), engine)
    ended = fleet.replay(requests)
    states = [engine.state() for engine in engines]
    workers = control.view(fleet.now).pool(POOL).workers
    return {
        **figures(ended),
        "preemptions": float(sum(state.preemptions for state in states)),
        "cached": sum(s.prefix_hits for s in states) / max(sum(s.prefix_queries for s in states), 1),
        "outgrown": float(sum(worker.outgrown for worker in workers)),
    }


def figures(ended: Sequence[Ended]) -> dict[str, float]:
    """Of the requests after the first tenth, in which the fleet fills up."""
    late = sorted(ended, key=lambda one: one.request.at)[len(ended) // 10 :]
    come = np.array([one.request.at for one in late])
    e2e = np.array([one.at for one in late]) - come
    ttft = np.array([one.first_token_at or np.nan for one in late]) - come
    pace = e2e / np.array([one.output_tokens for one in late])
    return {
        "ttft_mean": float(ttft.mean()),
        "ttft_p50": float(np.median(ttft)),
        "ttft_p99": float(np.quantile(ttft, 0.99)),
        "e2e_mean": float(e2e.mean()),
        "e2e_p50": float(np.median(e2e)),
        "e2e_p99": float(np.quantile(e2e, 0.99)),
        "normalised_mean": float(pace.mean()),
    }


def capacity(setting: Setting, inflight: int, seed: int) -> float:
    """Requests/s that the fleet ends while a queue of them is never empty and nothing is cached, after the first
    quarter of that time: those of one worker of the pool's profile, times the speed of all."""
    random = np.random.default_rng([seed, 31])
    profile = setting.profiles[0]
    asked = setting.draw(max(4 * inflight, 1000), random)
    requests = requests_of(replace(asked, prefixes=[()] * len(asked.prompts)), np.inf, random)
    pools = (PoolSpec(POOL, profile.model, 0, context_length=profile.max_model_len),)
    settings = ControlSettings(max_queue=1_000_000, max_queue_s=1e9, record_share=0.0)
    fleet = SimFleet(ControlPlane(pools, build({}, Resources(pools, settings)), settings=settings))
    fleet.add_worker(WorkerSpec("w", POOL, "sim://w", inflight), SimEngine(profile))
    ended = fleet.replay(requests)
    last = max(one.first_token_at or 0.0 for one in ended)
    ends = np.array([one.at for one in ended])
    rate = float(((ends > last / 4.0) & (ends <= last)).sum() / (0.75 * last))
    return rate * sum(profile.a / one.a for one in setting.profiles)


def study(setting: Setting, requests: int, seeds: int, inflight: int) -> dict[str, list[dict[str, float]]]:
    """Figures of every policy, seed by seed."""
    found: dict[str, list[dict[str, float]]] = {policy.name: [] for policy in setting.policies}
    rate = setting.load * capacity(setting, inflight, 0)
    for seed in range(seeds):
        random = np.random.default_rng([seed, 41])
        asked = requests_of(setting.draw(requests, random), rate, random)
        for policy in setting.policies:
            found[policy.name].append(replay(policy, asked, setting, inflight))
    return found


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean and Student's 95 % interval; of one seed, the value alone."""
    from scipy.stats import t

    from predictors.types import Interval

    mean, n = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    return Interval(mean, mean - half, mean + half)


def ratio(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], name: str) -> Interval:
    """Mean over seeds of a figure ÷ the baseline's, with its interval."""
    return over_seeds([one[name] / other[name] for one, other in zip(ours, theirs, strict=True)])


def main(
    fleet: Annotated[list[FleetKind] | None, typer.Option(help="Repeat for more; all if left out.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with other requests.")] = 5,
    requests: Annotated[int, typer.Option(min=300, help="Of a run.")] = 3000,
    workers: Annotated[int, typer.Option(min=2, help="Of a fleet; half as many where KV cache is short.")] = 6,
    inflight: Annotated[int, typer.Option(min=1, help="Requests each is given at once.")] = 256,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report here.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw a picture here.")] = None,
) -> None:
    """Replay every fleet under every placement."""
    from cli.report import Report

    console, errors = Console(), Console(stderr=True)
    profile = Profile.load(ArtifactStore(shipped_models(), None).resolve(f"profile/{PROFILE}"))
    settings = {"seeds": seeds, "requests": requests, "workers": workers, "inflight": inflight, "profile": PROFILE}
    report = Report("benchmarks placement", 0, settings)
    for kind in fleet or list(FleetKind):
        for setting in settings_of(kind, profile, workers):
            errors.print(f"{kind} at {setting.load}")
            runs = study(setting, requests, seeds, inflight)
            baseline = runs[BASELINE]
            for policy in setting.policies:
                mine = runs[policy.name]
                ratios = {f"{name}_ratio": ratio(mine, baseline, name) for name in mine[0] if name not in ABSOLUTE}
                plain = {name: over_seeds([run[name] for run in mine]) for name in mine[0]}
                report.row({"fleet": kind.value, "load": setting.load, "policy": policy.name}, {**ratios, **plain})
    columns = [*(f"{name}_ratio" for name in SHOWN), "e2e_mean", *ABSOLUTE]
    report.show(console, f"÷ {BASELINE} (mean over seeds, 95 % interval)", columns)
    report.write(json_path)
    if plot is not None:
        draw(report, plot)


def draw(report: Report, folder: Path) -> None:
    """One row of panels a fleet and load: each policy against the baseline."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    titles = {"ttft_mean": "mean TTFT", "e2e_mean": "mean end to end", "e2e_p99": "p99 end to end"}
    cases = list(dict.fromkeys((str(row["fleet"]), row["load"]) for row, _ in report.results))
    figure, axes = plt.subplots(
        len(cases), len(titles), figsize=(13, 1.0 + 2.1 * len(cases)), squeeze=False, sharey="row"
    )
    for line, (kind, load) in zip(axes, cases, strict=True):
        of = [(str(row["policy"]), m) for row, m in report.results if (row["fleet"], row["load"]) == (kind, load)]
        for axis, (name, title) in zip(line, titles.items(), strict=True):
            intervals: list[Any] = [metrics[f"{name}_ratio"] for _, metrics in of]
            values = [one.value for one in intervals]
            reach = [[one.value - one.lo for one in intervals], [one.hi - one.value for one in intervals]]
            axis.barh([label for label, _ in of], values, xerr=reach, color="#2f6db3", height=0.7, capsize=2)
            axis.axvline(1.0, color="#b33", linewidth=1.0)
            axis.set_title(f"{kind} at {load}: {title} ÷ {BASELINE}", fontsize=9)
            axis.tick_params(labelsize=8)
            axis.invert_yaxis()
    figure.tight_layout()
    figure.savefig(folder / "placement.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
