"""Does the simulator rank policies as real servers do? Twelve policies: order × placement × in-flight limit.

    python -m benchmarks.policy_ranking live --worker URL [--worker URL …] --out DIR [--trace FILE]
    python -m benchmarks.policy_ranking compare DIR --profile PROFILE [--json FILE] [--plot FILE]

``live`` puts the same requests, a steady stream with a burst in it, on the workers under each policy in turn, through
the control plane in real time (:class:`envs.live_fleet.LiveFleet`), and writes what became of each request as CSV. The
workers run vLLM with ``--scheduling-policy priority``. ``compare`` replays the requests under the same policies in the
simulator, with a profile that was fitted to other loads, and tells how many pairs of policies whose live intervals do
not overlap are ordered alike, and whether the winner is the same.

The order ``length_rank`` is given the true length with noise, log-normal with a sigma of ``--noise``: about what a good
predictor knows (Kendall's tau 0.5 at 1.0). Lengths are those of a trace, or log-normal; answers are cut by nobody.
"""

from __future__ import annotations

import csv
import itertools
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import PoolSpec, Scores, Ticket, WorkerSpec
from envs.fleet import Ended, FleetClock, FleetRequest

if TYPE_CHECKING:
    from predictors.types import Interval

POOL: Final = "pool"
ORDERS: Final = ("fcfs", "length_rank")
PLACES: Final = ("round_robin", "least_load")
LIMITS: Final = (16, 48, 256)
STATISTICS: Final = ("mean", "p90")
_SETTINGS: Final = ControlSettings(max_queue=100_000, max_queue_s=3600.0)
_COLUMNS: Final = ("policy", "repetition", "i", "at", "prompt_tokens", "output_tokens", "rank", "ttft", "e2e", "result")
_LONGEST_PROMPT: Final = 4000
_FEWEST: Final = 2

Floats = npt.NDArray[np.float64]
app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True, slots=True)
class Policy:
    """What differs between the runs."""

    order: str
    place: str
    limit: int

    @property
    def name(self) -> str:
        """``length_rank/least_load/48``."""
        return f"{self.order}/{self.place}/{self.limit}"

    def control(self, model: str) -> ControlPlane:
        """A fresh control plane of one pool."""
        pools = (PoolSpec(POOL, model, 0, context_length=8192),)
        chosen = {"order": (self.order, {}), "place": (self.place, {})}
        return ControlPlane(pools, build(chosen, Resources(pools=pools, settings=_SETTINGS)), settings=_SETTINGS)

    def specs(self, urls: Sequence[str]) -> list[WorkerSpec]:
        """The workers, with the limit."""
        return [WorkerSpec(f"w{i}", POOL, url, self.limit, priority_scheduling=True) for i, url in enumerate(urls)]


POLICIES: Final = tuple(Policy(*each) for each in itertools.product(ORDERS, PLACES, LIMITS))


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it comes (s), its sizes (tokens), and what the predictor says of its length."""

    at: float
    prompt_tokens: int
    output_tokens: int
    rank: float


def load(sizes: Sequence[tuple[int, int]], rate: float, burst: int, noise: float, seed: int) -> list[Asked]:
    """Poisson arrivals with ``burst`` requests at once a third of the way in."""
    rng = np.random.default_rng(seed)
    steady = len(sizes) - burst
    at = np.sort(np.append(np.cumsum(rng.exponential(1.0 / rate, steady)), np.full(burst, steady / rate / 3.0)))
    ranks = [math.log(output) + noise * rng.normal() for _, output in sizes]
    return [Asked(float(a), *size, rank) for a, size, rank in zip(at, sizes, ranks, strict=True)]


def requests_of(asked: Sequence[Asked]) -> list[FleetRequest]:
    """As a fleet takes them."""
    return [
        FleetRequest(
            one.at,
            Ticket(str(i), POOL, prompt_tokens=one.prompt_tokens),
            one.prompt_tokens,
            {POOL: one.output_tokens},
            Scores(length_rank=one.rank),
            i,
        )
        for i, one in enumerate(asked)
    ]


@app.command()
def live(
    worker: Annotated[list[str], typer.Option(help="A server's root URL; more than once for more.")],
    out: Annotated[Path, typer.Option(help="Folder for the CSV.")],
    model: Annotated[str, typer.Option(help="The model they serve.")],
    trace: Annotated[Path | None, typer.Option(help="A trace that gives the lengths.")] = None,
    start: Annotated[int, typer.Option(help="First row of the trace to take.")] = 8000,
    count: Annotated[int, typer.Option(help="Requests a run.")] = 500,
    burst: Annotated[int, typer.Option(help="Of them, how many come at once.")] = 120,
    rate: Annotated[float, typer.Option(help="Requests/s of the others.")] = 16.0,
    noise: Annotated[float, typer.Option(help="Sigma of what the predictor errs by, in logarithms.")] = 1.0,
    repetitions: Annotated[int, typer.Option(help="Runs of each policy, each with requests of its own.")] = 2,
    minutes: Annotated[float, typer.Option(help="No run is begun after so long.")] = 15.0,
) -> None:
    """Measure every policy on real servers."""
    from envs.live_fleet import LiveFleet

    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with (out / "ranking.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        for repetition, policy in itertools.product(range(repetitions), POLICIES):
            if time.monotonic() - began > 60.0 * minutes:
                break
            asked = load(list(_sizes(trace, start + repetition * count, count)), rate, burst, noise, repetition)
            with LiveFleet(policy.control(model), policy.specs(worker), FleetClock()) as fleet:
                lag = fleet.now + 0.5
                moved = [Asked(one.at + lag, one.prompt_tokens, one.output_tokens, one.rank) for one in asked]
                ended = fleet.replay(requests_of(moved))
            rows.writerows(_rows(policy, repetition, asked, ended))
            file.flush()
            mean = np.mean([one.latency for one in ended if one.latency is not None])
            sys.stderr.write(f"{policy.name} #{repetition}: {len(ended)} ended, mean {mean:.2f} s\n")


def _rows(policy: Policy, repetition: int, asked: Sequence[Asked], ended: Sequence[Ended]) -> Iterator[tuple[Any, ...]]:
    for one in sorted(ended, key=lambda one: one.request.index):
        i = one.request.index
        first = math.nan if one.first_token_at is None else one.first_token_at - one.request.at
        latency = math.nan if one.latency is None else one.latency
        what = asked[i]
        sizes = what.prompt_tokens, what.output_tokens, round(what.rank, 6)
        yield (
            policy.name,
            repetition,
            i,
            round(what.at, 6),
            *sizes,
            round(first, 5),
            round(latency, 5),
            one.result.value,
        )


def _sizes(trace: Path | None, start: int, count: int) -> Iterator[tuple[int, int]]:
    if trace is None:
        rng = np.random.default_rng(start)
        for prompt, output in zip(rng.lognormal(6.6, 0.8, count), rng.lognormal(5.0, 0.8, count), strict=True):
            yield int(np.clip(prompt, 8, _LONGEST_PROMPT)), int(np.clip(output, 2, 1000))
        return
    from envs.traces import Reading, open_trace

    for arrival in open_trace(trace, None, Reading(start=start, limit=count)):
        if arrival.lengths is not None:
            yield min(arrival.lengths.prompt_tokens, _LONGEST_PROMPT), max(2, arrival.lengths.output_tokens)


@dataclass(frozen=True, slots=True)
class Run:
    """All repetitions of one policy: what was asked in each, and the latencies (s), in order."""

    policy: Policy
    asked: tuple[tuple[Asked, ...], ...]
    e2e: Floats


def read(folder: Path, least: int) -> list[Run]:
    """What ``live`` wrote: of every policy with at least so many repetitions, the first so many."""
    found: dict[str, dict[int, list[dict[str, str]]]] = {}
    with (folder / "ranking.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["policy"], {}).setdefault(int(row["repetition"]), []).append(row)
    runs = []
    for name, repetitions in found.items():
        if len(repetitions) >= least:
            order, place, limit = name.split("/")
            kept = [repetitions[number] for number in sorted(repetitions)[:least]]
            e2e = np.array([float(row["e2e"]) for rows in kept for row in rows])
            asked = tuple(tuple(map(_asked, rows)) for rows in kept)
            runs.append(Run(Policy(order, place, int(limit)), asked, np.where(np.isnan(e2e), np.inf, e2e)))
    if len(runs) < _FEWEST:
        raise typer.BadParameter(f"{folder} has {len(runs)} policies with {least} repetitions; it takes {_FEWEST}")
    return runs


def _asked(row: dict[str, str]) -> Asked:
    return Asked(float(row["at"]), int(row["prompt_tokens"]), int(row["output_tokens"]), float(row["rank"]))


def simulated(run: Run, workers: int, profile: Any) -> Floats:
    """Latencies of the same requests in the simulator, in the same order."""
    from envs.engines.sequence import SchedulingPolicy
    from envs.engines.sim import SimEngine
    from envs.fleet import SimFleet

    latencies = []
    for asked in run.asked:
        fleet = SimFleet(run.policy.control(profile.model))
        for spec in run.policy.specs([f"sim://{i}" for i in range(workers)]):
            fleet.add_worker(spec, SimEngine(profile, policy=SchedulingPolicy.PRIORITY))
        ended = sorted(fleet.replay(requests_of(asked)), key=lambda one: one.request.index)
        latencies += [math.inf if one.latency is None else one.latency for one in ended]
    return np.array(latencies)


@app.command()
def compare(
    folder: Annotated[Path, typer.Argument(help="What live wrote.")],
    profile: Annotated[Path, typer.Option(help="A profile: an artifact's folder, or a JSON file.")],
    workers: Annotated[int, typer.Option(help="How many servers there were.")] = 2,
    repetitions: Annotated[int, typer.Option(min=1, help="Of each policy; those that have fewer are left out.")] = 1,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw measured against simulated here.")] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals' resampling.")] = 0,
) -> None:
    """Judge the simulator's ranking against the live one."""
    from cli.report import Report
    from cli.simulate.resampling import Blocks, Resampled
    from predictors.latency.model import Profile

    engine = Profile.load(profile) if profile.is_dir() else Profile.from_json(profile.read_bytes())
    report = Report("benchmarks policy_ranking", seed, {"folder": folder.name, "profile": engine.name})
    runs = read(folder, repetitions)
    measured: dict[str, list[Interval]] = {name: [] for name in STATISTICS}
    ours: dict[str, list[float]] = {name: [] for name in STATISTICS}
    for run in runs:
        sim = simulated(run, workers, engine)
        blocks = Blocks(len(run.e2e), seed)
        pairs = zip(_statistics(run.e2e, blocks, Resampled), _statistics(sim, blocks, Resampled), strict=True)
        for name, (on_vllm, in_sim) in zip(STATISTICS, pairs, strict=True):
            measured[name].append(on_vllm)
            ours[name].append(in_sim.value)
        labels = {"policy": run.policy.name}
        values = {f"live_{name}": measured[name][-1] for name in STATISTICS}
        report.row(labels, {**values, **{f"sim_{name}": _plain(ours[name][-1]) for name in STATISTICS}})
    verdicts = {name: judge([run.policy.name for run in runs], measured[name], ours[name]) for name in STATISTICS}
    _show(runs, measured, ours, verdicts)
    for name, verdict in verdicts.items():
        report.row({"statistic": name}, {key: _plain(value) for key, value in verdict.items() if key != "winners"})
    if plot is not None:
        _draw(plot, runs, measured, ours)
    if json_path is not None:
        report.write(json_path)


def _statistics(values: Floats, blocks: Any, resampled: Any) -> tuple[Any, Any]:
    column = resampled(values, blocks)
    return column.mean(), column.quantile(0.9)


def _plain(value: float) -> Interval:
    from predictors.types import Interval

    return Interval(value, value, value)


def judge(names: Sequence[str], measured: Sequence[Interval], ours: Sequence[float]) -> dict[str, Any]:
    """Pairs told apart live, the share of them ordered alike, Kendall's tau over all pairs, and both winners."""
    alike = apart = agreeing = 0
    pairs = list(itertools.combinations(range(len(names)), 2))
    for i, j in pairs:
        same = (measured[i].value - measured[j].value) * (ours[i] - ours[j]) > 0
        agreeing += same
        if measured[i].hi < measured[j].lo or measured[j].hi < measured[i].lo:
            apart += 1
            alike += same
    best = min(range(len(names)), key=lambda i: measured[i].value)
    chosen = min(range(len(names)), key=lambda i: ours[i])
    ties = measured[chosen].lo <= measured[best].hi
    return {
        "pairs": len(pairs),
        "pairs_told_apart": apart,
        "ordered_alike": alike / apart if apart else math.nan,
        "kendall_tau": 2.0 * agreeing / len(pairs) - 1.0,
        "winner_same": float(best == chosen),
        "winner_not_told_apart": float(ties),
        "winners": (names[best], names[chosen]),
    }


_Measured = dict[str, list["Interval"]]
_Ours = dict[str, list[float]]


def _show(runs: Sequence[Run], measured: _Measured, ours: _Ours, verdicts: dict[str, dict[str, Any]]) -> None:
    console = Console()
    table = Table("policy", *itertools.chain(*((f"{n} live (s)", f"{n} sim (s)", "÷") for n in STATISTICS)))
    for i, run in enumerate(runs):
        cells: list[str] = []
        for name in STATISTICS:
            live_value, value = measured[name][i], ours[name][i]
            cells.append(f"{live_value.value:.2f} [{live_value.lo:.2f}, {live_value.hi:.2f}]")
            cells += [f"{value:.2f}", f"{value / live_value.value:.2f}"]
        table.add_row(run.policy.name, *cells)
    console.print(table)
    for name, verdict in verdicts.items():
        best, chosen = verdict["winners"]
        told_apart = f"{verdict['ordered_alike']:.0%} of {verdict['pairs_told_apart']} pairs told apart live are alike"
        console.print(f"{name}: {told_apart}; tau {verdict['kendall_tau']:.2f}; winner {best}, simulated {chosen}")


def _draw(path: Path, runs: Sequence[Run], measured: _Measured, ours: _Ours) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(STATISTICS)), STATISTICS, strict=True):
        for order, place in itertools.product(ORDERS, PLACES):
            rows = [i for i, run in enumerate(runs) if (run.policy.order, run.policy.place) == (order, place)]
            found = [measured[name][i] for i in rows]
            x, y = [one.value for one in found], [ours[name][i] for i in rows]
            error = [[one.value - one.lo for one in found], [one.hi - one.value for one in found]]
            mark = "o" if order == "fcfs" else "^"
            axes.errorbar(x, y, xerr=error, fmt=mark, capsize=3, label=f"{order}, {place}")
            for i, at in zip(rows, zip(x, y, strict=True), strict=True):
                limit = str(runs[i].policy.limit)
                axes.annotate(limit, at, (6, -10), textcoords="offset points", fontsize=8)
        most = max(*ours[name], *(one.hi for one in measured[name]))
        ends = (0.0, 1.08 * most)
        axes.plot(ends, ends, color="0.7", linewidth=1, zorder=0)
        axes.set(xlim=ends, ylim=ends, xlabel="measured on vLLM (s)", ylabel="simulated (s)")
        axes.set_title(f"{name} end-to-end latency")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(title="numbers: in-flight limit", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    app()
