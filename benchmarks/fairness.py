"""What fairness between tenants costs where prefixes are cached, and what each policy leaves of either.

    python -m benchmarks.fairness [--workload mooncake|applications] [--half tune|report] [--seeds 3] [--data DIR]
                                  [--json FILE] [--plot DIR]

The conversations of Mooncake's trace are dealt to 27 tenants of skewed load (a conversation is what shares a second
block of 512 tokens; all share the first) and come faster than 4 simulated workers with prefix caches can serve them.
``applications`` is made: long instructions that many short requests begin with, which together fit the caches of all
workers, but not that of one.

Every policy is replayed on the same requests. Throughput and the gap are taken from ``--warm`` seconds until the last
request is sent, as long as all seats are taken; every figure is the mean over seeds with Student's 95 % interval. The
quanta were chosen on the first half of the trace (``--half tune``; other seeds of what is made), the figures to report
are those of the second.

Service is what workers compute for a tenant: prompt tokens that were not cached, and output tokens, which count twice.
``gap`` is the most by which the service of two tenants grew apart while both had something waiting all along; ``bound``
is 2·(U + quantum), U being the longest prompt and the weighted output that one tenant had in flight at most. ``jain``
is Jain's index of the service of those that waited through nearly all of the window. Light tenants are the lower half
by load.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fairness_workloads import BLOCK, POOL, TENANTS, Floats, Half, applications, dealt, halves
from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import DecisionRecord, PoolSpec, Result, WorkerSpec
from envs.engines.sim import SimEngine
from envs.fleet import FleetRequest, SimFleet

if TYPE_CHECKING:
    from cli.report import Report
    from predictors.latency.model import Profile
    from predictors.types import Interval

TRACE: Final = "traces/mooncake_conversation_trace.jsonl"
SPEED: Final = 3.0
QUANTUM: Final = 100_000.0
URGENCY: Final = 10.0
WORKER_QUANTUM: Final = 500_000.0
BASELINES: Final = {"fcfs + prefix": "to_prefix", "vtc + least_load": "to_vtc"}
"""Policies that throughput is compared with, seed by seed."""
SHOWN: Final = (
    "tokens_per_s", "to_prefix", "to_vtc", "hit_rate", "gap", "bound", "jain", "light_p99_s", "light_mean_s", "p99_s",
    "mean_s", "backlogged",
)  # fmt: skip
LONGEST: Final = 131_072
"""Tokens of a prompt and its answer; the profile's timing is taken to hold so far."""
_OUTPUT_WEIGHT: Final = 2.0
_PROFILE: Final = Path(__file__).resolve().parent.parent / "models" / "profile" / "h100-8b" / "1"
_SETTINGS: Final = ControlSettings(max_queue=1_000_000, max_queue_s=1e9, recent_records=1)
_STEP_S: Final = 0.5
"""Between two looks at the service of tenants."""
_NEARLY_ALL: Final = 0.95


class Workload(StrEnum):
    """What is asked for."""

    MOONCAKE = "mooncake"
    APPLICATIONS = "applications"


@dataclass(frozen=True, slots=True)
class Policy:
    """Who goes next, and where to. ``quantum`` and ``urgency`` are those of the fairness stage, if it has any."""

    name: str
    fairness: str
    place: str
    quantum: float | None = None
    urgency: float = URGENCY
    place_options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers of a run."""

    profile: Profile
    workers: int
    inflight: int


def policies(blocks: int, quantum: float, worker_quantum: float) -> list[Policy]:
    """Those compared, given the blocks that a worker's cache holds, and the quanta."""
    cache = ("worker_blocks", blocks)
    there = (cache, ("quantum", worker_quantum))
    return [
        Policy("fcfs + round_robin", "none", "round_robin"),
        Policy("fcfs + prefix", "none", "prefix", place_options=(cache,)),
        Policy("vtc + least_load", "vtc", "least_load"),
        Policy("vtc + prefix", "vtc", "prefix", place_options=(cache,)),
        Policy("dlpm + prefix", "dlpm", "prefix", quantum, place_options=(cache,)),
        Policy("dlpm + d2lpm", "dlpm", "d2lpm", quantum, place_options=there),
        Policy("dlpm + d2lpm, urgency 0", "dlpm", "d2lpm", quantum, 0.0, there),
    ]


def replay(policy: Policy, requests: Sequence[FleetRequest], fleet: Fleet) -> list[DecisionRecord]:
    """Every request to its end."""
    pools = (PoolSpec(POOL, fleet.profile.model, 0, context_length=LONGEST),)
    fairness = {} if policy.quantum is None else {"quantum": policy.quantum, "urgency": policy.urgency}
    chosen = {"fairness": (policy.fairness, fairness), "place": (policy.place, dict(policy.place_options))}
    control = ControlPlane(pools, build(chosen, Resources(pools, _SETTINGS)), settings=_SETTINGS)
    simulated = SimFleet(control)
    for index in range(fleet.workers):
        engine = SimEngine(fleet.profile, prefix_tokens=BLOCK)
        simulated.add_worker(WorkerSpec(f"w{index}", POOL, f"sim://w{index}", fleet.inflight), engine)
    simulated.replay(requests)
    records = [record for record in control.drain_records() if record.result is Result.COMPLETED]
    if len(records) != len(requests):
        raise RuntimeError(f"{len(requests) - len(records)} of {len(requests)} requests had no answer")
    return records


@dataclass(frozen=True, slots=True)
class Run:
    """What became of n requests: times in seconds and tokens, each (n,)."""

    tenant: npt.NDArray[np.int64]
    come: Floats
    sent: Floats
    first: Floats
    ended: Floats
    prompt: Floats
    cached: Floats
    output: Floats

    @classmethod
    def of(cls, records: Sequence[DecisionRecord]) -> Run:
        """Of completed requests."""
        rows = []
        for one in records:
            assert one.usage is not None
            times = one.submitted_at, one.dispatched_at or 0.0, one.first_token_at or 0.0, one.finished_at
            tokens = one.usage.prompt_tokens, one.usage.cached_tokens or 0, one.usage.output_tokens
            rows.append((int(one.tenant[1:]), *times, *tokens))
        columns = np.array(rows, dtype=np.float64).T
        return cls(columns[0].astype(np.int64), *columns[1:])

    def service(self, at: Floats) -> Floats:
        """Weighted tokens computed for each tenant by each moment: (len(at), tenants). A prompt counts when it is sent;
        an answer grows evenly from its first token to its end."""
        found = np.zeros((len(at), TENANTS))
        for tenant in range(TENANTS):
            mine = self.tenant == tenant
            sent, read = self.sent[mine], (self.prompt - self.cached)[mine]
            order = np.argsort(sent, kind="stable")
            reached = np.concatenate(([0.0], np.cumsum(read[order])))
            found[:, tenant] = reached[np.searchsorted(sent[order], at, side="right")]
            long = np.maximum(self.ended[mine] - self.first[mine], 1e-9)
            done = np.clip((at[:, None] - self.first[mine]) / long, 0.0, 1.0)
            found[:, tenant] += _OUTPUT_WEIGHT * done @ self.output[mine]
        return found

    def waiting(self, at: Floats) -> npt.NDArray[np.bool_]:
        """Whether each tenant had something waiting all through each step between these moments: (len(at) - 1, T)."""
        found = np.ones((len(at) - 1, TENANTS), dtype=np.bool_)
        for tenant in range(TENANTS):
            mine = self.tenant == tenant
            reached = at[0]
            for come, sent in sorted(zip(self.come[mine].tolist(), self.sent[mine].tolist(), strict=True)):
                if come > reached:  # from one to the other nothing waited
                    found[_steps(at, reached, come), tenant] = False
                reached = max(reached, sent)
            found[_steps(at, reached, np.inf), tenant] = False
        return found

    def in_flight(self) -> float:
        """The most output tokens of one tenant's requests that were in flight at once."""
        most = 0.0
        for tenant in range(TENANTS):
            mine = self.tenant == tenant
            times = np.concatenate((self.sent[mine], self.ended[mine]))
            change = np.concatenate((self.output[mine], -self.output[mine]))
            most = max(most, float(np.cumsum(change[np.lexsort((change, times))]).max(initial=0.0)))
        return most


def _steps(at: Floats, begin: float, end: float) -> slice:
    """The steps that an interval touches."""
    return slice(max(int(np.searchsorted(at, begin, side="right")) - 1, 0), int(np.searchsorted(at, end, side="left")))


def gap(service: Floats, waiting: npt.NDArray[np.bool_]) -> float:
    """The most by which the service of two tenants grew apart while both waited all along."""
    most = 0.0
    for one in range(TENANTS):
        for other in range(one):
            both = np.flatnonzero(waiting[:, one] & waiting[:, other])
            if len(both):
                ahead = service[:, one] - service[:, other]
                for run in np.split(both, np.flatnonzero(np.diff(both) > 1) + 1):
                    most = max(most, float(np.ptp(ahead[run[0] : run[-1] + 2])))
    return most


def jain(service: Floats) -> float:
    """Jain's fairness index: 1 where all have the same, 1/n where one has all; nan of nobody."""
    return float(service.sum() ** 2 / (len(service) * (service**2).sum())) if len(service) else float("nan")


def figures(run: Run, warm: float, quantum: float | None) -> dict[str, float]:
    """Of one run; times in seconds."""
    last, sent = float(run.come.max()), float(run.sent.max())
    at: Floats = np.arange(warm, sent, _STEP_S, dtype=np.float64)
    service, waiting = run.service(at), run.waiting(at)
    coming = int(np.searchsorted(at, last))
    ended = (run.ended > warm) & (run.ended <= sent)
    backlogged = waiting[: coming - 1].mean(axis=0) >= _NEARLY_ALL
    light = np.isin(run.tenant, np.argsort(-demand(run))[TENANTS // 2 :])
    latency, first = run.ended - run.come, run.first - run.come
    most = float(run.prompt.max()) + _OUTPUT_WEIGHT * run.in_flight()
    found = {
        "tokens_per_s": float((run.prompt + run.output)[ended].sum() / (sent - warm)),
        "hit_rate": float(run.cached[ended].sum() / run.prompt[ended].sum()),
        "gap": gap(service, waiting),
        "jain": jain((service[coming - 1] - service[0])[backlogged]),
        "light_p99_s": float(np.quantile(latency[light], 0.99)),
        "light_ttft_p99_s": float(np.quantile(first[light], 0.99)),
        "light_mean_s": float(latency[light].mean()),
        "p99_s": float(np.quantile(latency, 0.99)),
        "mean_s": float(latency.mean()),
        "backlogged": float(backlogged.sum()),
        "makespan_s": float(run.ended.max()),
    }
    return found if quantum is None else {**found, "bound": 2.0 * (most + quantum)}


def demand(run: Run) -> Floats:
    """Tokens that each tenant asked for, read or written: (tenants,)."""
    found: Floats = np.bincount(run.tenant, run.prompt + _OUTPUT_WEIGHT * run.output, TENANTS).astype(np.float64)
    return found


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean and Student's 95 % interval; of one seed, the value alone."""
    from scipy.stats import t

    from predictors.types import Interval

    mean, n = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    return Interval(mean, mean - half, mean + half)


def study(
    dealings: Sequence[Sequence[FleetRequest]], compared: Sequence[Policy], fleet: Fleet, warm: float
) -> Iterator[tuple[Policy, list[dict[str, float]]]]:
    """The figures of each policy, seed by seed."""
    for policy in compared:
        runs = [Run.of(replay(policy, requests, fleet)) for requests in dealings]
        yield policy, [figures(run, warm, policy.quantum) for run in runs]


def main(
    workload: Annotated[Workload, typer.Option(help="The trace, or one that is made.")] = Workload.MOONCAKE,
    half: Annotated[Half, typer.Option(help="Of the trace.")] = Half.REPORT,
    seeds: Annotated[int, typer.Option(min=1, help="Other dealings of the conversations to tenants.")] = 3,
    workers: Annotated[int, typer.Option(min=1)] = 4,
    inflight: Annotated[int, typer.Option(min=1, help="Requests that a worker is given at once.")] = 16,
    speed: Annotated[float, typer.Option(min=0.01, help="The trace is so many times as fast.")] = SPEED,
    warm: Annotated[float, typer.Option(min=0.0, help="Seconds before the window.")] = 20.0,
    quantum: Annotated[list[float] | None, typer.Option(help="Of dlpm; repeat to compare.")] = None,
    worker_quantum: Annotated[list[float] | None, typer.Option(help="Of d2lpm; repeat to compare.")] = None,
    only: Annotated[str, typer.Option(metavar="TEXT", help="Policies with this in their names.")] = "",
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of public data; or HEADWAY_DATA.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report here.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw pictures here.")] = None,
) -> None:
    """Replay the trace under every policy."""
    from cli.missing import data_dir
    from cli.report import Report
    from envs.traces.mooncake import read_mooncake
    from predictors.latency.model import Profile

    if workload is Workload.MOONCAKE:
        arrivals = halves(list(read_mooncake(data_dir(data, TRACE) / TRACE)), half)
        dealings = [dealt(arrivals, speed, seed) for seed in range(seeds)]
    else:
        dealings = [dealt(applications(half, seed), speed / SPEED, seed) for seed in range(seeds)]
    profile = replace(Profile.load(_PROFILE), max_model_len=LONGEST)
    blocks = profile.kv_blocks * profile.block_size // BLOCK
    settings = {
        "workload": workload.value,
        "half": half.value,
        "workers": workers,
        "inflight": inflight,
        "speed": speed,
        "warm": warm,
    }
    report = Report("benchmarks fairness", 0, {**settings, "seeds": seeds, "profile": profile.name})
    compared: dict[Policy, None] = {}
    for granted in quantum or [QUANTUM]:
        for there in worker_quantum or [WORKER_QUANTUM]:
            for policy in policies(blocks, granted, there):
                if only in policy.name:
                    compared.setdefault(policy)
    runs_of = dict(study(dealings, list(compared), Fleet(profile, workers, inflight), warm))
    baselines = {policy.name: runs for policy, runs in runs_of.items() if policy.name in BASELINES}
    for policy, runs in runs_of.items():
        labels = {"policy": policy.name, "quantum": policy.quantum, "there": dict(policy.place_options).get("quantum")}
        metrics = {name: over_seeds([run[name] for run in runs]) for name in runs[0]}
        for name, others in baselines.items():
            ratios = [run["tokens_per_s"] / other["tokens_per_s"] for run, other in zip(runs, others, strict=True)]
            metrics[BASELINES[name]] = over_seeds(ratios)
        report.row(labels, metrics)
    report.show(
        Console(width=200), f"{workload.value}, {half.value} half, mean over {seeds} seeds, 95 % interval", SHOWN
    )
    report.write(json_path)
    if plot is not None:
        draw(report, plot)


def draw(report: Report, folder: Path) -> None:
    """Throughput, hits, the gap with its bound, and latencies, policy by policy."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    titles = {
        "tokens_per_s": "tokens/s, cached ones included",
        "hit_rate": "prompt tokens found cached",
        "gap": "service gap while both wait (bar: bound)",
        "light_p99_s": "p99 latency of light tenants, s",
        "p99_s": "p99 latency of all, s",
    }
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, len(titles), figsize=(17, 3.2), sharey=True)
    names = [str(row["policy"]) for row, _ in report.results]
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        found: list[Any] = [metrics[name] for _, metrics in report.results]
        values = [one.value for one in found]
        reach = [[one.value - one.lo for one in found], [one.hi - one.value for one in found]]
        colours = ["#2f6db3" if policy.startswith("dlpm") else "#7a7a7a" for policy in names]
        axis.barh(range(len(names)), values, xerr=reach, color=colours, height=0.7, capsize=2)
        axis.set_yticks(range(len(names)), names)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        for place, (_, metrics) in enumerate(report.results):
            bound: Any = metrics.get("bound") if name == "gap" else None
            if bound is not None:
                axis.plot([bound.value] * 2, [place - 0.4, place + 0.4], color="#b33", linewidth=2)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(folder / "fairness.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
