"""What ordering the queue gains: a burst of 2,000 requests at once, and streams near and beyond capacity.

    python -m benchmarks.burst [--mode burst|stream …] [--workload arena|lmsys|sharegpt …] [--seeds 8]
                               [--data DIR] [--scores FILE.npz] [--json FILE] [--plot DIR]

One engine (the 8B profile, 256 in flight) behind the control plane, in simulated time, under each policy in turn on the
same requests. Every figure is a ratio to first come, first served with the same seed: the mean over seeds with its 95 %
interval (Student's t).

``arena`` has real prompts and the lengths of real answers, those of another model at each seed, where the folder of
public data is at hand; prompts are scored by rankers that never saw them. ``lmsys`` and ``sharegpt`` are made, with the
mean lengths that vllm-ltr reports of those sets (Fu et al., NeurIPS'24, §5) and rankers as good as their names say.

``--scores`` brings rankers of ``arena``'s prompts, each fitted without the prompts it scores: an npz with ``group``
(the prompts' content hashes) and an array a ranker; those of its own names are then not fitted here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.burst_workloads import LONGEST, TRUTH, Floats, Made, Sized, Workload, read_arena
from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import PoolSpec, Ticket, WorkerSpec
from envs.engines.sim import SimEngine
from envs.fleet import Ended, FleetRequest, SimFleet

if TYPE_CHECKING:
    from cli.report import Report
    from predictors.latency.model import Profile
    from predictors.types import Interval

POOL: Final = "pool"
MADE: Final = {"lmsys": (85.0, 293.0, (0.25, 0.4, 0.62)), "sharegpt": (240.0, 412.0, (0.25, 0.4, 0.54))}
"""Mean prompt and answer in tokens, and how good the rankers are; the last as vllm-ltr's."""
RELATIVE: Final[Mapping[str, Any]] = {"ageing": "relative"}
VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "by quantile": {"ageing": "quantile"},
    "no ageing": {"ageing": "none"},
    "no tail": {**RELATIVE, "tail_weight": 0.0},
}
"""Other options of ``length_rank``, tried with the best ranker."""
SHOWN: Final = ("normalised_mean", "normalised_p90", "ttft_mean", "ttft_p99", "e2e_mean", "e2e_p99", "longest_wait")
ARENA_LENGTHS: Final = "lengths/arena_lengths.csv.gz"
LOADS: Final = (0.8, 0.95, 1.1, 1.3)
_PROFILE: Final = Path(__file__).resolve().parent.parent / "models" / "profile" / "h100-8b" / "1"
_SETTINGS: Final = ControlSettings(max_queue=1_000_000, max_queue_s=1e9, record_share=0.0)


class Mode(StrEnum):
    """How requests come."""

    BURST = "burst"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Policy:
    """An order with its options, and whose scores it is given; ``None`` for nobody's."""

    name: str
    order: str
    options: Mapping[str, Any] = field(default_factory=dict)
    ranker: str | None = None


def policies(rankers: Sequence[str]) -> list[Policy]:
    """First the baseline."""
    best = "deep" if "deep" in rankers else rankers[-1]
    return [
        Policy("fcfs", "fcfs"),
        *(Policy(f"length_rank ({ranker})", "length_rank", RELATIVE, ranker) for ranker in rankers),
        *(Policy(f"length_rank ({best}), {name}", "length_rank", options, best) for name, options in VARIANTS.items()),
        Policy("boost", "boost"),
        Policy(f"boost ({best})", "boost", {"size": "predicted"}, best),
        Policy("mlfq", "mlfq"),
        Policy("oracle", "oracle", {}, TRUTH),
    ]


def requests_of(sized: Sized, at: Floats, ranker: str | None) -> list[FleetRequest]:
    """As a fleet takes them, in order of arrival (n,) in seconds."""
    prompts, outputs = sized.prompt_tokens.tolist(), sized.output_tokens.tolist()
    return [
        FleetRequest(when, Ticket(str(i), POOL, prompt_tokens=prompts[i]), prompts[i], {POOL: outputs[i]}, scores, i)
        for i, (when, scores) in enumerate(zip(at.tolist(), sized.scores(ranker), strict=True))
    ]


def replay(policy: Policy, requests: Sequence[FleetRequest], profile: Profile, inflight: int) -> list[Ended]:
    """Every request to its end."""
    pools = (PoolSpec(POOL, profile.model, 0, context_length=2 * LONGEST),)
    stages = build({"order": (policy.order, policy.options)}, Resources(pools, _SETTINGS))
    fleet = SimFleet(ControlPlane(pools, stages, settings=_SETTINGS))
    fleet.add_worker(WorkerSpec("w", POOL, "sim://w", inflight), SimEngine(profile))
    return fleet.replay(requests)


def figures(ended: Sequence[Ended]) -> dict[str, float]:
    """Seconds, seconds a token, and the time to the last end."""
    come = np.array([one.request.at for one in ended])
    e2e = np.array([one.at for one in ended]) - come
    ttft = np.array([one.first_token_at or np.nan for one in ended]) - come
    pace = e2e / np.array([one.output_tokens for one in ended])
    return {
        "normalised_mean": float(pace.mean()),
        "normalised_p90": float(np.quantile(pace, 0.9)),
        "ttft_mean": float(ttft.mean()),
        "ttft_p99": float(np.quantile(ttft, 0.99)),
        "e2e_mean": float(e2e.mean()),
        "e2e_p99": float(np.quantile(e2e, 0.99)),
        "longest_wait": float(ttft.max()),
        "makespan": float((come + e2e).max() - come.min()),
    }


def capacity(sized: Sized, profile: Profile, inflight: int) -> float:
    """Requests/s that the engine ends while a queue of them is never empty, after the first quarter of that time."""
    ended = replay(Policy("fcfs", "fcfs"), requests_of(sized, np.zeros(len(sized)), None), profile, inflight)
    last = max(one.first_token_at or 0.0 for one in ended)
    ends = np.array([one.at for one in ended])
    return float(((ends > last / 4.0) & (ends <= last)).sum() / (0.75 * last))


@dataclass(frozen=True, slots=True)
class Case:
    """One way of coming: all at once, or Poisson at a share of the engine's capacity for ``count`` requests."""

    mode: Mode
    load: float | None
    count: int

    def arrivals(self, sized: Sized, seed: int, profile: Profile, inflight: int) -> Floats:
        """Seconds (n,), in order."""
        if self.load is None:
            return np.zeros(len(sized))
        rate = self.load * capacity(sized, profile, inflight)
        return np.cumsum(np.random.default_rng([seed, 29]).exponential(1.0 / rate, len(sized)))


def cases(modes: Sequence[Mode], requests: int, stream: int, loads: Sequence[float]) -> Iterator[Case]:
    """In the order of the modes."""
    for mode in modes:
        if mode is Mode.BURST:
            yield Case(mode, None, requests)
        else:
            yield from (Case(mode, load, stream) for load in loads)


def study(
    case: Case, workload: Workload, orders: Sequence[Policy], seeds: int, profile: Profile, inflight: int
) -> dict[str, list[dict[str, float]]]:
    """Figures of every policy, seed by seed."""
    found: dict[str, list[dict[str, float]]] = {policy.name: [] for policy in orders}
    for seed in range(seeds):
        sized = workload.draw(case.count, seed)
        at = case.arrivals(sized, seed, profile, inflight)
        for policy in orders:
            ended = replay(policy, requests_of(sized, at, policy.ranker), profile, inflight)
            found[policy.name].append(figures(ended))
    return found


def ratios(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    """Mean over seeds of each figure ÷ the baseline's, with its interval."""
    return {
        name: over_seeds([one[name] / other[name] for one, other in zip(ours, theirs, strict=True)]) for name in ours[0]
    }


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean and Student's 95 % interval; of one seed, the value alone."""
    from scipy.stats import t

    from predictors.types import Interval

    mean, n = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    return Interval(mean, mean - half, mean + half)


def main(
    mode: Annotated[list[Mode] | None, typer.Option(help="Repeat for more; all if left out.")] = None,
    workload: Annotated[list[str] | None, typer.Option(help="arena, lmsys, sharegpt; all there are.")] = None,
    requests: Annotated[int, typer.Option(min=300, help="Of a burst.")] = 2000,
    stream: Annotated[int, typer.Option(min=300, help="Requests of a stream.")] = 5000,
    load: Annotated[list[float] | None, typer.Option(help=f"Of a stream, in capacities; {LOADS} if left out.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with other requests.")] = 8,
    inflight: Annotated[int, typer.Option(min=1, help="Requests the worker is given at once.")] = 256,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of public data; or HEADWAY_DATA.")] = None,
    scores: Annotated[Path | None, typer.Option(metavar="FILE", help="Further rankers of arena's prompts.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report here.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw pictures here.")] = None,
) -> None:
    """Replay every workload under every policy."""
    from cli.report import Report
    from predictors.latency.model import Profile

    console, errors = Console(), Console(stderr=True)
    profile = Profile.load(_PROFILE)
    folder = data or (Path(os.environ["HEADWAY_DATA"]) if os.environ.get("HEADWAY_DATA") else None)
    found = list(workloads(workload, folder, scores, errors))
    settings = {"requests": requests, "stream": stream, "seeds": seeds, "inflight": inflight, "profile": profile.name}
    report = Report("benchmarks burst", 0, settings)
    for case in cases(mode or list(Mode), requests, stream, load or LOADS):
        for source in found:
            errors.print(f"{case.mode} {case.load or ''} {source.name}")
            orders = policies(source.rankers)
            runs = study(case, source, orders, seeds, profile, inflight)
            baseline = runs[orders[0].name]
            for policy in orders:
                labels = {"mode": case.mode.value, "load": case.load, "workload": source.name, "policy": policy.name}
                absolute = {name: over_seeds([run[name] for run in runs[policy.name]]) for name in baseline[0]}
                relative = {f"{n}_ratio": r for n, r in ratios(runs[policy.name], baseline).items()}
                report.row(labels, {**relative, **absolute})
    console.print(table(report))
    report.write(json_path)
    if plot is not None:
        draw(report, plot)


def workloads(
    names: Sequence[str] | None, folder: Path | None, scores: Path | None, errors: Console
) -> Iterator[Workload]:
    """Those asked for; without the folder of public data, those that are made.

    Raises:
        typer.BadParameter: there is none of a name, or it needs the folder.
    """
    wanted = list(names or ("arena", *MADE))
    if unknown := sorted(set(wanted) - {"arena", *MADE}):
        raise typer.BadParameter(f"no workload is called {unknown[0]!r}; there are arena, {', '.join(MADE)}")
    for name in wanted:
        if name != "arena":
            yield Made(name, *MADE[name])
        elif folder is not None and (folder / ARENA_LENGTHS).exists():
            yield read_arena(folder, scores, lambda what: errors.print(f"arena: {what}, five folds"))
        elif names:
            raise typer.BadParameter(f"arena needs {ARENA_LENGTHS} in --data or HEADWAY_DATA")
        else:
            errors.print(f"arena is left out: no {ARENA_LENGTHS} in --data or HEADWAY_DATA")


def table(report: Report) -> Table:
    """Ratios to the baseline; intervals with ±."""
    found = Table("load", "workload", "policy", *(name.replace("_", "\n") for name in SHOWN))
    found.title = "÷ fcfs, mean over seeds ± 95 % interval"
    for labels, metrics in report.results:
        cells = []
        for name in SHOWN:
            ratio: Any = metrics[f"{name}_ratio"]
            cells.append(f"{ratio.value:.2f} ±{(ratio.hi - ratio.lo) / 2.0:.2f}")
        load = labels["mode"] if labels["load"] is None else labels["load"]
        found.add_row(str(load), str(labels["workload"]), str(labels["policy"]), *cells)
    return found


def draw(report: Report, folder: Path) -> None:
    """One picture a mode and load: what each policy costs and gains, workload by workload."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    titles = {"normalised_mean": "mean seconds a token", "e2e_p99": "p99 end to end", "longest_wait": "longest wait"}
    for mode, load in dict.fromkeys((row["mode"], row["load"]) for row, _ in report.results):
        rows = [(row, metrics) for row, metrics in report.results if (row["mode"], row["load"]) == (mode, load)]
        sources = list(dict.fromkeys(str(row["workload"]) for row, _ in rows))
        figure, axes = plt.subplots(
            len(sources), len(titles), figsize=(13, 1.0 + 2.4 * len(sources)), squeeze=False, sharey="row"
        )
        for line, source in zip(axes, sources, strict=True):
            of = [(str(row["policy"]), metrics) for row, metrics in rows if row["workload"] == source][1:]
            for axis, (name, title) in zip(line, titles.items(), strict=True):
                intervals: list[Any] = [metrics[f"{name}_ratio"] for _, metrics in of]
                values = [one.value for one in intervals]
                reach = [[one.value - one.lo for one in intervals], [one.hi - one.value for one in intervals]]
                colours = ["#7a7a7a" if label.startswith(("oracle", "mlfq", "boost")) else "#2f6db3" for label, _ in of]
                axis.barh([label for label, _ in of], values, xerr=reach, color=colours, height=0.7, capsize=2)
                axis.axvline(1.0, color="#b33", linewidth=1.0)
                axis.set_title(f"{source}: {title} ÷ fcfs", fontsize=9)
                axis.tick_params(labelsize=8)
                axis.invert_yaxis()
        at_once = f"{report.settings['requests']:,} requests at once"
        figure.suptitle(at_once if load is None else f"A stream at {load} of capacity", fontsize=11)
        figure.tight_layout()
        figure.savefig(folder / (f"{mode}.png" if load is None else f"{mode}-{load}.png"), dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
